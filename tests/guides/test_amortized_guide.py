import copy
import math
import pickle
from collections import Counter

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule
from torch import nn

from pyro_infomax.guides import AmortizedGuide, AmortizedNormal
from pyro_infomax.nn import MLPEncoder

CALLS = Counter()


def model(x, *rest, scale=1.0):
    """Two dependent latents, one a vector and one a scalar."""
    CALLS["model"] += 1
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        s = pyro.sample("s", dist.Normal(z.sum(-1), 1.0))
        loc = torch.stack([z[..., 0], z[..., 1], s, s], -1)
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


def subsampling(x):
    with pyro.plate("data", len(x), subsample_size=4) as rows:
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])


def crossed(x):
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("pixels", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.fixture
def x():
    return torch.randn(6, 4)


def encoder():
    return MLPEncoder(4, hidden=(7,))


def step(program, guide, *data, elbo=None, lr=1e-2):
    return SVI(program, guide, pyro.optim.Adam({"lr": lr}), elbo or TraceMeanField_ELBO()).step(*data)


def state(guide):
    return {name: value.clone() for name, value in guide.state_dict().items()}


def all_differ(a, b):
    return all(not torch.equal(a[name], b[name]) for name in a)


# ---- the program


def test_the_guide_samples_the_sites_of_the_model_in_its_plate(x):
    trace = pyro.poutine.trace(AmortizedNormal(model, encoder())).get_trace(x)
    assert trace.stochastic_nodes == ["data", "z", "s"]
    for name, event in (("z", (2,)), ("s", ())):
        site = trace.nodes[name]
        assert (site["fn"].batch_shape, site["fn"].event_shape) == ((6,), event)
        assert [frame.name for frame in site["cond_indep_stack"]] == ["data"]


def test_the_return_value_is_a_dict_of_latents(x):
    latents = AmortizedNormal(model, encoder())(x)
    assert {name: tuple(value.shape) for name, value in latents.items()} == {"z": (6, 2), "s": (6,)}


def test_the_model_runs_once(x):
    guide = AmortizedNormal(model, encoder())
    CALLS.clear()
    for size in (6, 3, 5):
        guide(x[:size])
        guide.posteriors(x[:size])
    assert CALLS["model"] == 1


def test_batches_of_any_size(x):
    guide = AmortizedNormal(model, encoder())
    losses = [step(model, guide, x[:size]) for size in (6, 2, 1, 5)]
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize("program", [model, crossed])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO])
def test_one_particle_has_the_terms_of_many(x, program, elbo):
    guide = AmortizedNormal(program, encoder())
    single = torch.tensor([elbo().loss(program, guide, x) for _ in range(200)])
    several = elbo(num_particles=500, vectorize_particles=True, max_plate_nesting=2)
    error = single.std() * math.sqrt(1 / 200 + 1 / 500)
    assert abs(several.loss(program, guide, x) - single.mean()) < 4 * error


def test_the_first_call_may_be_vectorised(x):
    elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True)
    assert math.isfinite(step(model, AmortizedNormal(model, encoder()), x, elbo=elbo))


def test_a_data_plate_further_left(x):
    guide = AmortizedNormal(crossed, encoder())
    assert guide(x)["z"].shape == (6, 1)
    assert guide.posteriors(x)["z"].batch_shape == (6, 1)


def test_every_parameter_gets_a_gradient(x):
    guide = AmortizedNormal(model, encoder())
    TraceMeanField_ELBO().loss_and_grads(model, guide, x)
    assert len(list(guide.parameters())) == 6
    assert all(parameter.grad.abs().sum() > 0 for parameter in guide.parameters())


def test_further_data_reach_the_encoder(x):
    guide = AmortizedNormal(model, lambda x, y: torch.cat([x, y], -1))
    guide(x, torch.ones(6, 1))
    assert guide.heads[0].linear.in_features == 5


def test_further_arguments_reach_the_model_only(x):
    guide = AmortizedNormal(model, encoder())
    assert math.isfinite(Trace_ELBO().loss(lambda x, scale: model(x, scale=scale), guide, x, scale=2.0))


# ---- subsampling


def test_a_subsampling_model_gets_the_rows_of_the_guide(x):
    seen = []

    def watch(rows):
        seen.append(rows)
        return rows

    guide = AmortizedNormal(subsampling, watch)
    guide(x)
    trace = pyro.poutine.trace(guide).get_trace(x)
    rows = trace.nodes["data"]["value"]
    assert len(rows) == 4
    assert torch.equal(seen[-1], x[rows])
    replayed = pyro.poutine.trace(pyro.poutine.replay(subsampling, trace=trace)).get_trace(x)
    assert torch.equal(replayed.nodes["x"]["value"], x[rows])
    assert trace.nodes["z"]["scale"] == replayed.nodes["z"]["scale"] == 6 / 4


def test_the_rows_are_drawn_anew(x):
    guide = AmortizedNormal(subsampling, encoder())
    draws = {tuple(pyro.poutine.trace(guide).get_trace(x).nodes["data"]["value"].tolist()) for _ in range(20)}
    assert len(draws) > 5


def test_the_subsampled_loss_estimates_the_loss(x):
    def whole(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    part = AmortizedNormal(subsampling, encoder())
    part(x)
    full = AmortizedNormal(whole, encoder())
    full(x)
    full.load_state_dict(part.state_dict())
    losses = [
        torch.tensor([Trace_ELBO().loss(*pair, x) for _ in range(400)])
        for pair in ((subsampling, part), (whole, full))
    ]
    error = math.sqrt(sum(loss.var() for loss in losses) / 400)
    assert abs(losses[0].mean() - losses[1].mean()) < 4 * error


def test_plates_of_the_user_let_the_data_be_a_part(x):
    def part_of_more(x):
        with pyro.plate("data", 60, subsample_size=len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = AmortizedNormal(
        part_of_more, encoder(), create_plates=lambda x: pyro.plate("data", 60, subsample_size=len(x), dim=-1)
    )
    for size in (6, 2):
        trace = pyro.poutine.trace(guide).get_trace(x[:size])
        assert trace.nodes["z"]["value"].shape == (size, 4)
        assert trace.nodes["z"]["scale"] == 60 / size
        assert math.isfinite(step(part_of_more, guide, x[:size]))


# ---- the prototype


def test_the_prototype_leaves_no_trace(x):
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout())
    guide = AmortizedNormal(model, net)
    before = torch.get_rng_state()
    guide._ensure_prototype(x)
    assert torch.equal(before, torch.get_rng_state())
    assert net.training
    assert net[1].num_batches_tracked == 0


def test_the_data_are_not_kept(x):
    guide = AmortizedNormal(model, encoder())
    guide(x)
    assert set(guide.prototype_trace.nodes) == {"z", "s"}


def test_a_failed_prototype_is_run_again(x):
    guide = AmortizedNormal(model, lambda x: x[:1])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"len\(data\) = 6 but the encoder returned \(1, 4\)"):
            guide(x)


def test_features_of_another_length_are_refused_later_too(x):
    guide = AmortizedNormal(model, lambda rows: x)
    guide(x)
    with pytest.raises(ValueError, match=r"len\(data\) = 3 but the encoder returned \(6, 4\)"):
        guide(x[:3])


@pytest.mark.parametrize("args", [(), (3,), (torch.tensor(1.0),)])
def test_the_data_come_first(args):
    with pytest.raises(ValueError, match="Expected the data as first positional argument"):
        AmortizedNormal(model, encoder())(*args)


def test_a_family_needs_its_hook(x):
    with pytest.raises(NotImplementedError, match=r"AmortizedGuide must implement make_head"):
        AmortizedGuide(model, encoder())(x)


def test_a_family_is_its_hook(x):
    class Wide(AmortizedGuide):
        def make_head(self, site, in_features):
            class Head(nn.Module):
                def forward(self, features):
                    shape = features.shape[:-1] + site.event_shape
                    return dist.Laplace(torch.zeros(shape), 9.0).to_event(len(site.event_shape))

            return Head()

    assert Wide(model, encoder()).posteriors(x)["z"].variance[0, 0] == 2 * 81


# ---- Pyro's store


def test_two_instances_train_independently(x):
    first, second = (AmortizedNormal(model, encoder()) for _ in range(2))
    second(x)
    step(model, first, x)
    kept, start = state(first), state(second)
    step(model, second, x)
    torch.testing.assert_close(state(first), kept)
    assert all_differ(start, second.state_dict())


def test_names_in_the_store(x):
    guide = AmortizedNormal(model, encoder())
    step(model, guide, x)
    names = {name.removeprefix(guide._name + ".").split("$$$")[0] for name in pyro.get_param_store()}
    assert names == {"encoder", "z", "s"}
    assert len(pyro.get_param_store()) == len(list(guide.parameters()))


def test_a_loaded_store_is_used(x):
    guide, fresh = (AmortizedNormal(model, encoder()) for _ in range(2))
    guide(x)
    fresh._name = guide._name
    torch.testing.assert_close(fresh.posteriors(x)["z"].mean, guide.posteriors(x)["z"].mean)


def test_a_copy_trains_independently(x):
    first = AmortizedNormal(model, encoder())
    step(model, first, x)
    second, kept = copy.deepcopy(first), state(first)
    torch.testing.assert_close(state(second), kept)
    step(model, second, x)
    torch.testing.assert_close(state(first), kept)
    assert all_differ(kept, second.state_dict())
    assert first.model is second.model is model


def test_a_copy_before_the_first_call_works(x):
    assert copy.deepcopy(AmortizedNormal(model, encoder()))(x)["z"].shape == (6, 2)


def test_a_trained_guide_can_be_pickled(x):
    guide = AmortizedNormal(lambda x: model(x), encoder())
    step(model, guide, x)
    revived, expected = pickle.loads(pickle.dumps(guide)), guide.posteriors(x)["z"].mean
    step(model, guide, x)
    torch.testing.assert_close(revived.posteriors(x)["z"].mean, expected)
    assert math.isfinite(step(model, guide, x))


def test_a_guide_that_was_pickled_too_early_says_so(x):
    revived = pickle.loads(pickle.dumps(AmortizedNormal(lambda x: model(x), encoder())))
    with pytest.raises(ValueError, match="pickled before"):
        revived(x)


def test_posteriors_outside_of_inference_show_no_parameters(x):
    guide = AmortizedNormal(model, encoder())
    with pyro.poutine.trace(param_only=True) as capture, torch.no_grad():
        guide.posteriors(x)
    assert not capture.trace.nodes


@pytest.mark.parametrize("wrap", [lambda m: m, lambda m: m.forward], ids=["module", "method"])
def test_modules_and_their_methods_train(x, wrap):
    net = nn.Linear(4, 5)
    start = state(net)
    guide = AmortizedNormal(model, wrap(net))
    step(model, guide, x)
    assert all_differ(start, net.state_dict())


def test_a_pyro_module_as_encoder_trains(x):
    first, second = (PyroModule[nn.Linear](4, 5) for _ in range(2))
    step(model, AmortizedNormal(model, first), x)
    kept, start = state(first), state(second)
    step(model, AmortizedNormal(model, second), x)
    torch.testing.assert_close(state(first), kept)
    assert all_differ(start, second.state_dict())


def test_parameters_local_to_the_module(x):
    with pyro.settings.context(module_local_params=True):
        guide = AmortizedNormal(model, encoder())
        elbo = Trace_ELBO()(model, guide)
        elbo(x).backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())


# ---- beside other guides


def with_global(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z + loc[..., None, None], 1.0).to_event(1), obs=x)


def test_a_guide_list_covers_global_latents(x):
    guide = AutoGuideList(with_global, create_plates=lambda x: pyro.plate("data", len(x), dim=-1))
    guide.append(AutoNormal(pyro.poutine.block(with_global, expose=["loc"])))
    guide.append(AmortizedNormal(pyro.poutine.block(with_global, hide=["loc"]), encoder()))
    for size in (6, 3):
        assert math.isfinite(step(with_global, guide, x[:size], elbo=Trace_ELBO()))
    assert guide(x)["z"].shape == (6, 4)


def test_a_guide_list_that_froze_its_plates_says_what_to_do(x):
    guide = AutoGuideList(with_global)
    guide.append(AutoNormal(pyro.poutine.block(with_global, expose=["loc"])))
    guide.append(AmortizedNormal(pyro.poutine.block(with_global, hide=["loc"]), encoder()))
    guide(x)
    with pytest.raises(ValueError, match=r"but got 3: pass create_plates=.* to the list"):
        guide(x[:3])


def test_conditioning_covers_global_latents(x):
    fixed = pyro.poutine.condition(with_global, data={"loc": torch.tensor(0.3)})
    assert math.isfinite(step(fixed, AmortizedNormal(fixed, encoder()), x))
