"""Programs run piece by piece, and read datum by datum."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import Normal

from pyro_infomax.poutine import weight
from pyro_infomax.programs import LocalProgram


def model(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.deterministic("twice", 2 * z)
        pyro.factor("penalty", -z.sum(-1))
        with pyro.plate("pixels", 3, dim=-2):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x.T)


def subsampling(x):
    with pyro.plate("data", len(x), subsample_size=4) as rows:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[rows])


def local(program, x, **kwargs):
    return LocalProgram(program, (x,), **{"role": "model"} | kwargs)


def rows_of_runs(program, size):
    return [rows.tolist() for rows in program.pieces(size)]


def test_layouts():
    program = local(model, torch.zeros(5, 3))
    assert program.plate == "data"
    assert {name: layout.shape for name, layout in program.latents.items()} == {"z": (2,)}
    assert {name: layout.shape for name, layout in program.observed.items()} == {"penalty": (0,), "x": (3,)}
    assert program.latents["z"].rank == 1
    assert program.observed["x"].rank == 2


def test_pieces_of_a_program_that_follows():
    program = local(model, torch.zeros(5, 3), batch_size=4)
    assert rows_of_runs(program, 10) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert rows_of_runs(program, 3) == [[0, 1, 2]]


def test_pieces_of_a_program_that_subsamples():
    program = local(subsampling, torch.zeros(10))
    assert program.subsamples
    assert rows_of_runs(program, 10) == [[0, 1, 2, 3], [4, 5, 6, 7], [6, 7, 8, 9]]
    assert rows_of_runs(program, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert rows_of_runs(program, 3) == [[0, 1, 2, 0]]


def test_pieces_of_a_program_of_fixed_size():
    def fixed(x):
        with pyro.plate("data", 5):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    program = local(fixed, torch.zeros(5))
    assert rows_of_runs(program, 5) == [[0, 1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"Expected 5 data, the fixed size of the plate 'data'.*got 6"):
        rows_of_runs(program, 6)


@pytest.mark.parametrize("size", [10, 8, 3])
@pytest.mark.parametrize("program", [subsampling, model])
def test_together_has_every_row_once(program, size):
    data = torch.zeros(10) if program is subsampling else torch.zeros(10, 3)
    subject = local(program, data, batch_size=4)
    found = subject.together(size, lambda rows: {"rows": rows, "squares": (rows**2)[:, None]})
    assert found["rows"].tolist() == list(range(size))
    assert found["squares"].shape == (size, 1)


@pytest.mark.parametrize("size", [10, 3])
def test_runs_of_chosen_rows(size):
    x = torch.arange(float(size))
    program = local(subsampling, torch.arange(10.0))

    def run(rows):
        return {"x": program.trace((x,), rows).nodes["x"]["value"]}

    assert torch.equal(program.together(size, run)["x"], x)


def test_values_are_placed():
    x, z = torch.randn(5, 3), torch.randn(1, 5, 2)
    program = local(model, x)
    trace = program.trace((x,), values={"z": z})
    assert torch.equal(trace.nodes["z"]["value"], z[0])
    assert torch.equal(program.values(trace, 5)["z"], z[0])


def test_log_prob_by_datum():
    x, z = torch.randn(5, 3), torch.randn(1, 5, 2)
    program = local(model, x)
    trace = program.trace((x,), values={"z": z})
    expected = Normal(z[0].sum(-1, keepdim=True), 1.0).log_prob(x).sum(-1)
    torch.testing.assert_close(program.log_prob(trace.nodes["x"], 5)[0], expected)
    torch.testing.assert_close(program.log_prob(trace.nodes["penalty"], 5)[0], -z[0].sum(-1))
    torch.testing.assert_close(
        program.log_prob(trace.nodes["z"], 5)[0], Normal(0.0, 1.0).log_prob(z[0]).sum(-1)
    )


def test_log_prob_of_other_values_than_those_of_the_run():
    x, z = torch.randn(5, 3), torch.randn(4, 1, 2)
    program = local(model, x)
    score = program.log_prob(program.trace((x,)).nodes["z"], 5, z=z)
    torch.testing.assert_close(score, Normal(0.0, 1.0).log_prob(z).sum(-1).expand(4, 5))


class Table(dist.Categorical):
    """Looks its values up, which takes integers."""

    def log_prob(self, value):
        return self.logits[torch.arange(len(self.logits)), value]


def test_log_prob_of_integers_that_came_as_floats():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Table(torch.tensor([[0.2, 0.3, 0.5]]).expand(len(x), 3)))

    x = torch.zeros(3)
    program = local(guide, x, role="guide")
    score = program.log_prob(program.trace((x,)).nodes["z"], 3, z=torch.tensor([[2.0, 0.0, 1.0]]))
    torch.testing.assert_close(score, torch.tensor([[0.5, 0.2, 0.3]]).log())


def test_log_prob_of_another_number_of_rows():
    x = torch.randn(5, 3)
    program = local(model, x)
    with pytest.raises(ValueError, match="Expected 4 rows in the plate 'data' around 'z' but got 5"):
        program.log_prob(program.trace((x,)).nodes["z"], 4)


def test_masks_count_and_weights_do_not():
    x, z = torch.randn(5, 3), torch.randn(1, 5, 2)
    mask = torch.tensor([True, True, False, True, False])
    subject = weight(poutine.mask(poutine.scale(model, scale=3.0), mask=mask), observed=0.0, latent=2.0)
    program = local(subject, x)
    trace = program.trace((x,), values={"z": z})
    prior = Normal(0.0, 1.0).log_prob(z[0]).sum(-1)
    torch.testing.assert_close(program.log_prob(trace.nodes["z"], 5)[0], prior * mask)
    torch.testing.assert_close(program.log_prob(trace.nodes["penalty"], 5)[0], -z[0].sum(-1) * mask)


def test_stop_after():
    x = torch.zeros(5, 3)
    trace = local(model, x).trace((x,), stop_after=["z"])
    assert "z" in trace.nodes
    assert "x" not in trace.nodes


def test_generating_draws_what_is_local_and_observed():
    x = torch.full((5, 3), 1e6)
    nodes = local(model, x).generating().trace((x,)).nodes
    assert nodes["x"]["value"].shape == (3, 5)
    assert float(nodes["x"]["value"].max()) < 1e5


def test_generating_leaves_what_is_conditioned_on():
    def with_global(x):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(theta, 1e-9), obs=x)

    x = torch.zeros(5)
    conditioned = poutine.condition(with_global, {"theta": torch.tensor(7.0)})
    nodes = local(conditioned, x).generating().trace((x,)).nodes
    assert nodes["theta"]["is_observed"]
    assert not nodes["x"]["is_observed"]
    torch.testing.assert_close(nodes["x"]["value"], torch.full((5,), 7.0), rtol=0, atol=1e-6)


def test_running_another_program_of_the_same_sites():
    def other(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.full((2,), 50.0), 1.0).to_event(1))

    program = local(model, torch.zeros(5, 3))
    twin = program.running(other)
    assert float(twin.trace((torch.zeros(5, 3),)).nodes["z"]["value"].min()) > 40
    assert program.program is model


# ---- what a program must be


def test_global_latents():
    def program(x):
        pyro.sample("theta", dist.Normal(0.0, 1.0))
        model(x)

    with pytest.raises(NotImplementedError, match=r"latent site 'theta'.*outside the data plate.*condition"):
        local(program, torch.zeros(5, 3))


def test_auxiliary_sites():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})

    with pytest.raises(NotImplementedError, match="'u' is auxiliary to the guide"):
        local(guide, torch.zeros(5), role="guide")


@pytest.mark.parametrize("is_local", [True, False])
def test_factors_of_a_guide(is_local):
    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if is_local:
                pyro.factor("tilt", z, has_rsample=True)
        if not is_local:
            pyro.factor("tilt", torch.tensor(1.0), has_rsample=True)

    with pytest.raises(NotImplementedError, match="'tilt' is a factor or observed"):
        local(guide, torch.zeros(5), role="guide")


def test_observed_sites_of_a_guide():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("a", dist.Normal(0.0, 1.0))

    conditioned = poutine.condition(guide, {"a": torch.zeros(5)})
    with pytest.raises(NotImplementedError, match="'a' is a factor or observed"):
        local(conditioned, torch.zeros(5), role="guide")


@pytest.mark.parametrize("depends", [True, False])
def test_observed_sites_of_all_data(depends):
    def program(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        pyro.factor("all", z.sum() if depends else torch.tensor(3.0))

    if depends:
        with pytest.raises(NotImplementedError, match=r"observed site 'all'.*depends on local latents"):
            local(program, torch.zeros(5))
    else:
        assert list(local(program, torch.zeros(5)).observed) == ["x"]


def test_batch_dimensions_without_plates():
    def program(x):
        with pyro.plate("data", len(x), dim=-2):
            pyro.sample("x", dist.Normal(torch.zeros(3), 1.0), obs=x)

    with pytest.raises(ValueError, match=r"plates for all batch dimensions of 'x'.*\(5, 3\).*\[-2\] only"):
        local(program, torch.zeros(5, 3))


def test_inner_plates_that_subsample():
    def program(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("pixels", 3, subsample_size=2, dim=-1) as rows:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, rows])

    with pytest.raises(NotImplementedError, match="plate 'pixels' around 'x' subsamples"):
        local(program, torch.zeros(5, 3))


def test_plates_that_subsampled_before():
    plate = pyro.plate("data", 10, subsample_size=4)

    def program(x):
        with plate as rows:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[rows])

    with pytest.raises(NotImplementedError, match="took its subsample before the program ran"):
        local(program, torch.zeros(10))
