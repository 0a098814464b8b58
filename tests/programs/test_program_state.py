import gc

import pyro
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints
from torch.nn.modules.module import _global_forward_pre_hooks

from pyro_infomax.nn import InstanceName, MLPDecoder, MLPEncoder
from pyro_infomax.programs import ProgramState
from pyro_infomax.vae import VAE


def run(programs, program, *args, **watching):
    """As an ELBO runs it, under a handler of its own."""
    with programs.watch(**watching), pyro.poutine.trace() as trace:
        program(*args)
    return trace.trace


def simple():
    pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    pyro.param("loc", torch.zeros(3))


# -- parameters ------------------------------------------------------------------------------------


def test_parameters_are_unconstrained_leaves_in_order_of_statement():
    programs = ProgramState(simple)
    run(programs, simple)
    assert list(programs.parameters) == ["scale", "loc"]
    assert programs.parameters["scale"] is pyro.param("scale").unconstrained()
    assert programs.parameters["scale"].tolist() == [0.0, 0.0]


def test_parameters_that_a_module_keeps_to_itself():
    with pyro.settings.context(module_local_params=True):
        module = PyroModule[nn.Linear](2, 1)
        module.scale = PyroParam(torch.ones(2), constraints.positive)
        programs = ProgramState(module)
        with programs.watch():
            module(torch.ones(3, 2))
    assert set(programs.parameters.values()) == {module.weight, module.bias}


def test_a_name_that_is_given_another_tensor():
    programs = ProgramState(simple)
    run(programs, simple)
    pyro.get_param_store()["loc"] = torch.ones(3)
    assert programs.parameters["loc"].tolist() == [1.0, 1.0, 1.0]


def test_followers_meet_a_parameter_once_and_before_it_moves():
    met = []
    programs = ProgramState(simple)
    programs.follow(lambda parameters, _: met.extend((k, v.tolist()) for k, v in parameters.items()))
    for _ in range(2):
        run(programs, simple)
        with torch.no_grad():
            programs.parameters["loc"].add_(1.0)
    assert met == [("scale", [0.0, 0.0]), ("loc", [0.0, 0.0, 0.0])]


@pytest.mark.parametrize("other", ["scale", "scale_2", "decoder_3.weight"])
def test_parameters_of_instances_have_names_that_are_the_same_in_each_process(other):
    """Instances are numbered anew, kind by kind in the order of statement; other names stay."""
    first, second, third = (InstanceName("StableNet") for _ in range(3))
    del first  # of another training in this process
    alone = InstanceName("StableOne")
    stated = [f"{third}.a", f"{second}.a", f"{third}.b", f"{alone}.a", other]

    def program():
        for name in stated:
            pyro.param(name, torch.zeros(1))

    programs = ProgramState(program)
    for _ in range(2):
        run(programs, program)
        stable = ["StableNet.a", "StableNet_2.a", "StableNet.b", "StableOne.a", other]
        assert [programs.stable_names[name] for name in stated] == stable
    assert list(programs.state_dict()["parameters"]) == stable


# -- buffers ---------------------------------------------------------------------------------------


def names(programs):
    return [name for name in programs.buffers() if name.endswith("running_mean")]


def test_buffers_of_what_a_function_closes_over():
    named, bare = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), nn.BatchNorm1d(3, affine=False)

    def model(x):
        pyro.module("network", named)
        bare(named(x))

    programs = ProgramState(model)
    assert programs.buffers() == {}
    run(programs, model, torch.randn(4, 3))
    assert names(programs) == ["network$$$1.running_mean", "BatchNorm1d_0.running_mean"]
    assert programs.buffers()["network$$$1.running_mean"] is named[1].running_mean


def test_buffers_behind_programs_are_known_at_once():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def model(self, x):
            self.norm(x)

    programs = ProgramState(Owner().model)
    assert names(programs) == ["module_0.norm.running_mean"]


def test_names_do_not_depend_on_the_order_of_calls():
    """Where modules are registered."""
    found = []
    for order in ((0, 1), (1, 0)):
        pyro.clear_param_store()
        networks = [nn.BatchNorm1d(3), nn.BatchNorm1d(3)]

        def model(x, order=order, networks=networks):
            for which in order:
                pyro.module(f"norm {which}", networks[which])
                networks[which](x)

        programs = ProgramState(model)
        run(programs, model, torch.randn(4, 3))
        found.append(sorted(programs.buffers()))
    assert found[0] == found[1]


def test_a_module_that_is_built_anew_at_each_run_is_let_go():
    def model(x):
        nn.BatchNorm1d(3)(x)
        nn.Softmax(-1)(x)

    programs = ProgramState(model)
    for _ in range(3):
        run(programs, model, torch.randn(4, 3))
    gc.collect()
    assert programs.buffers() == {}
    assert programs.modules == ()


def test_what_data_run_through_is_no_program():
    transform = nn.BatchNorm1d(3)
    programs = ProgramState(simple)
    with programs.watch():
        transform(torch.randn(4, 3))
    assert programs.buffers() == {}


def test_hooks_are_taken_away_also_after_an_error():
    programs = ProgramState(simple)

    def failing():
        assert len(_global_forward_pre_hooks) == 1
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run(programs, failing)
    assert len(_global_forward_pre_hooks) == 0


def test_modules_can_be_left_alone():
    norm = nn.BatchNorm1d(3)
    programs = ProgramState(simple)
    run(programs, norm, torch.randn(4, 3), modules=False)
    assert programs.modules == ()
    run(programs, norm, torch.randn(4, 3))
    assert programs.modules == (norm,)


def test_a_buffer_that_is_replaced_is_read_anew():
    module = nn.Module()
    module.register_buffer("mean", torch.zeros(2))
    module.model = lambda: None
    programs = ProgramState(module)
    module.mean = torch.ones(2)
    assert programs.buffers()["module_0.mean"].tolist() == [1.0, 1.0]


# -- values that are loaded ------------------------------------------------------------------------


def test_values_are_copied_in_place():
    programs = ProgramState(simple)
    run(programs, simple)
    leaf = programs.parameters["scale"]
    state = {"parameters": {"scale": torch.full((2,), 3.0), "loc": torch.ones(3)}, "buffers": {}}
    programs.load_state_dict(state)
    assert programs.parameters["scale"] is leaf
    torch.testing.assert_close(pyro.param("scale"), torch.full((2,), 3.0).exp())


def test_nothing_is_copied_if_one_does_not_fit():
    programs = ProgramState(simple)
    run(programs, simple)
    state = {"parameters": {"scale": torch.full((2,), 3.0), "loc": torch.ones(4)}, "buffers": {}}
    with pytest.raises(ValueError, match=r"'loc' to have shape \(3,\) .* but got \(4,\)"):
        programs.load_state_dict(state)
    assert pyro.param("scale").tolist() == [1.0, 1.0]


def test_a_value_waits_for_its_parameter():
    def model():
        return pyro.param("scale", torch.ones(2), constraint=constraints.positive)

    programs = ProgramState(model)
    programs.load_state_dict({"parameters": {"scale": torch.full((2,), 3.0)}, "buffers": {}})
    assert list(programs.state_dict()["parameters"]) == ["scale"]
    seen = []
    trace = run(programs, lambda: seen.append(model()))
    expected = torch.full((2,), 3.0).exp()
    # what the program computes with, what handlers record, and what is kept
    for value in (seen[0], trace.nodes["scale"]["value"], pyro.param("scale")):
        torch.testing.assert_close(value, expected)
    assert seen[0].unconstrained() is programs.parameters["scale"]


def test_a_waiting_value_is_sliced_by_its_plate():
    def model():
        with pyro.plate("data", 4, subsample=torch.tensor([1, 3])):
            return pyro.param("scale", torch.ones(4), constraint=constraints.positive, event_dim=0)

    programs = ProgramState(model)
    programs.load_state_dict({"parameters": {"scale": torch.arange(4.0)}, "buffers": {}})
    seen = []
    run(programs, lambda: seen.append(model()))
    torch.testing.assert_close(seen[0], torch.tensor([1.0, 3.0]).exp())


def test_a_waiting_value_leaves_the_random_stream_alone():
    def model():
        pyro.param("loc", lambda: torch.rand(3))

    programs = ProgramState(model)
    programs.load_state_dict({"parameters": {"loc": torch.ones(3)}, "buffers": {}})
    state = torch.get_rng_state()
    run(programs, model)
    assert torch.equal(torch.get_rng_state(), state)
    assert pyro.param("loc").tolist() == [1.0, 1.0, 1.0]


def test_a_waiting_value_that_does_not_fit():
    programs = ProgramState(simple)
    programs.load_state_dict({"parameters": {"loc": torch.ones(7)}, "buffers": {}})
    with pytest.raises(ValueError, match="'loc' to have shape"):
        run(programs, simple)


def test_a_buffer_waits_for_the_call_of_its_module():
    norm = nn.BatchNorm1d(3, momentum=0.0)

    def model(x):
        pyro.module("norm", norm)
        norm(x)

    programs = ProgramState(model)
    loaded = {"norm$$$running_mean": torch.full((3,), 5.0)}
    programs.load_state_dict({"parameters": {}, "buffers": loaded})
    run(programs, model, torch.randn(4, 3))
    assert norm.running_mean.tolist() == [5.0, 5.0, 5.0]


def test_names_are_those_of_another_process():
    """Which has built another number of them before."""
    states = []
    for _ in range(2):
        vae = VAE(MLPEncoder((4,)), MLPDecoder(2, (4,)), latent_dim=2)
        programs = ProgramState(vae.model, vae.guide)
        run(programs, vae.guide, torch.rand(3, 4))
        run(programs, vae.model, torch.rand(3, 4))
        states.append(programs.state_dict())
    assert list(states[0]["parameters"]) == list(states[1]["parameters"])
    assert all(name.startswith("VAE.") for name in states[0]["parameters"])
