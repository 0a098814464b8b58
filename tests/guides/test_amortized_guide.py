import copy
import math
import pickle
from collections import Counter
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule
from torch import nn

from pyro_infomax.guides import (
    AmortizedDelta,
    AmortizedFlow,
    AmortizedGuide,
    AmortizedLowRankNormal,
    AmortizedMultivariateNormal,
    AmortizedNormal,
)
from pyro_infomax.nn import MLPEncoder
from pyro_infomax.priors import FlowPrior, MixturePrior, VampPrior

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
        guide.posterior(x[:size])
    assert CALLS["model"] == 1


def test_batches_of_any_size(x):
    guide = AmortizedNormal(model, encoder())
    losses = [step(model, guide, x[:size]) for size in (6, 2, 1, 5)]
    assert all(map(math.isfinite, losses))


@pytest.mark.parametrize(
    ("program", "elbo"), [(model, Trace_ELBO), (crossed, TraceMeanField_ELBO), (model, TraceGraph_ELBO)]
)
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
    assert guide.posterior(x)["z"].batch_shape == (6, 1)


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
        torch.tensor([Trace_ELBO().loss(*pair, x) for _ in range(200)])
        for pair in ((subsampling, part), (whole, full))
    ]
    error = math.sqrt(sum(loss.var() for loss in losses) / 200)
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


def test_a_model_that_asks_its_own_guide_is_told_how(x):
    def circular(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", VampPrior(x[:2], lambda u: guide.posterior(u)["z"])())
            pyro.sample("x", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)

    guide = AmortizedNormal(circular, encoder())
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"asks its own guide .*make encoder and head first"):
            guide(x)


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
    with pytest.raises(ValueError, match="Expected the data as first positional argument, a tensor"):
        AmortizedNormal(model, encoder())(*args)


def test_the_encoder_gets_rows_of_data_alone_and_no_more_than_the_plate_takes():
    seen = []

    def program(x, table, option):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    def net(*args):
        seen.append([len(each) if isinstance(each, torch.Tensor) else each for each in args])
        return args[0]

    AmortizedNormal(program, net)(torch.randn(5, 4), torch.zeros(3), "option")
    assert seen == [[2, 3, "option"]] * 2  # in the prototype, and in the run


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

    assert Wide(model, encoder()).posterior(x)["z"].variance[0, 0] == 2 * 81


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
    torch.testing.assert_close(fresh.posterior(x)["z"].mean, guide.posterior(x)["z"].mean)


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
    revived, expected = pickle.loads(pickle.dumps(guide)), guide.posterior(x)["z"].mean
    step(model, guide, x)
    torch.testing.assert_close(revived.posterior(x)["z"].mean, expected)
    assert math.isfinite(step(model, guide, x))


@pytest.mark.parametrize(
    ("prior", "copied"),
    [(MixturePrior, copy.deepcopy), (FlowPrior, lambda guide: pickle.loads(pickle.dumps(guide)))],
)
def test_a_prior_with_parameters_stays_out_of_copies(x, prior, copied):
    learned = prior(2)

    def program(x):
        pyro.module("learned", learned)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", learned())
            pyro.sample("x", dist.Normal(z.repeat(1, 2), 1.0).to_event(1), obs=x)

    guide = AmortizedNormal(program, encoder())
    step(program, guide, x)
    torch.testing.assert_close(copied(guide).posterior(x)["z"].mean, guide.posterior(x)["z"].mean)


def test_a_guide_that_was_pickled_too_early_says_so(x):
    revived = pickle.loads(pickle.dumps(AmortizedNormal(lambda x: model(x), encoder())))
    with pytest.raises(ValueError, match="pickled before"):
        revived(x)


def test_a_state_goes_to_a_guide_that_has_run(x):
    first, second, third = (AmortizedNormal(model, encoder()) for _ in range(3))
    step(model, first, x)
    second(x)
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(second.posterior(x)["z"].mean, first.posterior(x)["z"].mean)
    for strict in (True, False):
        with pytest.raises(ValueError, match=r"has not run: call guide\.posterior\(data\) once before"):
            third.load_state_dict(first.state_dict(), strict=strict)


def test_the_first_call_may_be_in_inference_mode(x):
    guide = AmortizedNormal(model, encoder())
    with torch.inference_mode():
        guide.posterior(x)
    start = state(guide)
    step(model, guide, x)
    assert all_differ(start, state(guide))


def test_posteriors_outside_of_inference_show_no_parameters(x):
    guide = AmortizedNormal(model, encoder())
    with pyro.poutine.trace(param_only=True) as capture, torch.no_grad():
        guide.posterior(x)
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


# ---- every family


def with_prior(prior):
    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", prior)
            pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x)

    return program


FAMILIES = [
    AmortizedNormal,
    AmortizedMultivariateNormal,
    AmortizedLowRankNormal,
    AmortizedFlow,
    AmortizedDelta,
]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
@pytest.mark.parametrize(
    "prior",
    [
        dist.Normal(0.0, 1.0),
        dist.Normal(torch.zeros(3), 1.0).to_event(1),
        dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
        dist.Gamma(torch.ones(3), 1.0).to_event(1),
        dist.Beta(2.0, 1.0),
        dist.Dirichlet(torch.ones(3)),
    ],
    ids=lambda prior: f"{type(prior).__name__}{len(prior.event_shape)}",
)
def test_sites_of_any_shape_and_support(x, family, prior):
    guide = family(with_prior(prior), encoder())
    q, z = guide.posterior(x)["z"], guide(x)["z"]
    assert (q.batch_shape, q.event_shape) == ((6,), prior.event_shape)
    assert z.shape == (6, *prior.event_shape)
    assert bool(prior.support.check(z).all())
    assert bool(q.log_prob(q.sample()).isfinite().all())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_continuous_families_refuse_discrete_sites(x, family):
    own = rf"{family.__name__}\(model, encoder, heads={{'z': AmortizedDiscrete}}\).*TraceEnum"
    with pytest.raises(NotImplementedError, match=rf"which {family.__name__} does not cover.*{own}"):
        family(with_prior(dist.Bernoulli(0.5)), encoder())(x)


def test_an_infinite_site_is_sent_to_a_distribution_of_its_own(x):
    with pytest.raises(NotImplementedError, match=r"heads=\{'z': dist.Poisson\}\), or another distribution"):
        AmortizedNormal(with_prior(dist.Poisson(3.0)), encoder())(x)


# ---- plates within that of the data


def grouped(x):
    """A latent a datum, and two a cell, in data (batch, 3, 2)."""
    with pyro.plate("data", len(x), dim=-2):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        with pyro.plate("cells", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            s = pyro.sample("s", dist.Normal(z.sum(-1), 1.0))
            loc = torch.stack([top + z[..., 0], s], -1)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x)


def transposed(x):
    """The same with the cells to the left of the data."""
    with pyro.plate("data", len(x), dim=-1):
        top = pyro.sample("top", dist.Normal(0.0, 1.0))
        with pyro.plate("cells", x.shape[1], dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            s = pyro.sample("s", dist.Normal(z.sum(-1), 1.0))
            loc = torch.stack([top + z[..., 0], s], -1)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(1), obs=x.transpose(0, 1))


def of_data(x):
    return x.flatten(1)


def of_cells(x):
    return torch.cat([x, x**2], -1)


GROUPED = [(grouped, (6, 3)), (transposed, (3, 6))]


@pytest.mark.parametrize(
    ("program", "batch", "structured", "net"),
    [
        (*GROUPED[0], False, of_data),
        (*GROUPED[0], True, of_cells),
        (*GROUPED[1], False, of_cells),
        (*GROUPED[1], True, of_data),
    ],
)
def test_sites_in_several_plates(program, batch, structured, net):
    x = torch.randn(6, 3, 2)
    guide = AmortizedNormal(program, net, structured=structured)
    trace = pyro.poutine.trace(guide).get_trace(x)
    top = (6, 1) if program is grouped else (6,)
    assert {name: tuple(trace.nodes[name]["fn"].batch_shape) for name in ("top", "z", "s")} == {
        "top": top,
        "z": batch,
        "s": batch,
    }
    assert {frame.name for frame in trace.nodes["s"]["cond_indep_stack"]} == {"data", "cells"}
    for elbo in (Trace_ELBO(), TraceMeanField_ELBO(num_particles=2, vectorize_particles=True)):
        assert math.isfinite(step(program, guide, x[:4], elbo=elbo))


@pytest.mark.parametrize(("program", "batch"), GROUPED, ids=["right", "left"])
@pytest.mark.parametrize("net", [of_data, of_cells])
def test_each_cell_gets_its_own_posterior(program, batch, net):
    """The posterior of one cell follows the features of that cell alone, or all features of its datum."""
    x = torch.randn(6, 3, 2)
    guide = AmortizedNormal(program, net)
    before = guide.posterior(x)["z"].mean
    moved = x.clone()
    moved[4, 1] += 1.0
    change = (guide.posterior(moved)["z"].mean - before).abs().sum(-1)
    by_datum = change if program is grouped else change.T
    changed = by_datum > 0
    assert not changed[[0, 1, 2, 3, 5]].any()
    assert changed[4].tolist() == ([True] * 3 if net is of_data else [False, True, False])


def test_the_number_of_cells_may_vary_where_the_encoder_follows():
    guide = AmortizedNormal(grouped, of_cells, structured=False)
    assert guide(torch.randn(6, 3, 2))["z"].shape == (6, 3, 2)
    assert guide(torch.randn(4, 5, 2))["z"].shape == (4, 5, 2)


def test_features_of_another_rank_are_refused():
    with pytest.raises(ValueError, match=r"or \(batch, cells, h\), with batch = .* returned \(6, 3, 2, 1\)"):
        AmortizedNormal(grouped, lambda x: x.unsqueeze(-1))(torch.randn(6, 3, 2))


def test_data_and_cells_of_one_number_are_told_apart_by_plates_of_the_user():
    def both(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("cells", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(3, 3)
    with pytest.raises(ValueError, match=r"got 'data' of size 3, 'cells' of size 3|got 'cells'.*'data'"):
        AmortizedNormal(both, lambda x: x)(x)
    guide = AmortizedNormal(both, lambda x: x, create_plates=lambda x: pyro.plate("data", len(x), dim=-2))
    assert guide(x)["z"].shape == (3, 3)
    assert guide(x[:2])["z"].shape == (2, 3)


def test_cells_that_subsample_are_refused():
    def inner(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("cells", 3, subsample_size=2, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, :2])

    with pytest.raises(NotImplementedError, match="'z' is inside plate 'cells', which subsamples"):
        AmortizedNormal(inner, of_data)(torch.randn(6, 3))


# ---- sites that depend on earlier ones


def test_a_later_site_follows_an_earlier_one(x):
    guide = AmortizedNormal(model, encoder(), structured=True)
    z = torch.randn(5, 6, 2)
    given = guide.posterior(x, given={"z": z})
    assert given["z"].batch_shape == (6,)
    assert given["s"].batch_shape == (5, 6)
    assert not torch.allclose(given["s"].mean[0], given["s"].mean[1])
    alone = guide.posterior(x, given={"z": z[0]})
    torch.testing.assert_close(alone["s"].mean, given["s"].mean[0])


def test_what_lies_between_features_and_heads_trains():
    x = torch.randn(6, 3, 2)
    guide = AmortizedNormal(grouped, of_data, structured=True)
    guide(x)
    start = state(guide.inputs)
    step(grouped, guide, x)
    assert len(start) == 2 * 2 + 2 * 3  # the cells of two sites, the earlier sites of two
    assert all_differ(start, guide.inputs.state_dict())


def test_without_values_a_later_site_is_given_medians(x):
    guide = AmortizedNormal(model, encoder(), structured=True)
    medians = {"z": guide.posterior(x)["z"].mean}
    torch.testing.assert_close(guide.posterior(x)["s"].mean, guide.posterior(x, given=medians)["s"].mean)


def test_the_medians_that_a_later_site_is_given_are_always_the_same(x):
    """Also where they are those of draws, as of a flow."""
    guide = AmortizedFlow(model, encoder(), structured=True)
    first, second = (guide.posterior(x)["s"].log_prob(torch.ones(6)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("shape", [(), (6, 3), (4, 5, 2)])
def test_values_of_another_shape_are_refused(x, shape):
    guide = AmortizedNormal(model, encoder(), structured=True)
    with pytest.raises(ValueError, match=r"values of 'z' for 6 data, .* event shape \(2,\), but got shape"):
        guide.posterior(x, given={"z": torch.zeros(shape)})


@pytest.mark.parametrize(("structured", "name"), [(True, "s"), (True, "nothing"), (False, "z")])
def test_values_of_sites_on_which_none_depends_are_refused(x, structured, name):
    guide = AmortizedNormal(model, encoder(), structured=structured)
    with pytest.raises(
        ValueError, match=rf"Expected values of the sites that others depend on, .* got \['{name}'"
    ):
        guide.posterior(x, given={name: torch.zeros(6, 2)})


def test_draws_are_those_of_the_program(x):
    """Joint moments of draws from the method and from the program agree."""
    guide = AmortizedNormal(model, encoder(), structured=True)
    with torch.no_grad():
        guide(x)
        guide.heads[1].linear.weight.copy_(torch.randn_like(guide.heads[1].linear.weight))
        run = guide(x[:1].expand(2000, 4))
    draws = guide.sample(x[:1], 2000)
    for combine in (lambda v: v["s"], lambda v: v["s"] * v["z"][..., 0], lambda v: v["s"] ** 2):
        first = combine(draws).flatten()
        second = combine(run)
        error = ((first.var() + second.var()) / 2000).sqrt()
        assert abs(first.mean() - second.mean()) < 4 * error


# ---- draws and quantiles


@pytest.mark.parametrize("structured", [False, True])
def test_draws_have_their_own_axis_in_front(x, structured):
    guide = AmortizedNormal(model, encoder(), structured=structured)
    for draws in (guide.sample(x, 5), guide.sample(x, num_samples=5)):
        assert {name: tuple(value.shape) for name, value in draws.items()} == {"z": (5, 6, 2), "s": (5, 6)}
        assert not draws["z"].requires_grad
    assert guide.sample(x)["s"].shape == (1, 6)


def test_draws_are_isolated_by_a_seed(x):
    guide = AmortizedNormal(model, encoder(), structured=True)
    guide(x)
    before = torch.get_rng_state()
    first, second = guide.sample(x, 5, seed=1), guide.sample(x, 5, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["s"], guide.sample(x, 5, seed=2)["s"])


@pytest.mark.parametrize(
    ("args", "num_samples", "expected"),
    [((), None, 1), ((), 4, 4), ((4,), None, 4), ((True,), None, 1), ((3,), 4, 4)],
)
def test_the_number_of_draws_may_come_last(x, args, num_samples, expected):
    """What comes last beside a number by name, and a flag, are arguments of the model."""
    guide = AmortizedNormal(lambda x, *_: model(x), lambda x, *_: x)
    assert len(guide.sample(x, *args, num_samples=num_samples)["z"]) == expected


def test_no_draws_are_refused(x):
    with pytest.raises(ValueError, match="Expected num_samples to be an integer >= 1 but got 0"):
        AmortizedNormal(model, encoder()).sample(x, num_samples=0)


def test_quantiles_are_those_of_the_posterior(x):
    guide = AmortizedNormal(model, encoder())
    found = guide.quantiles([0.1, 0.5], x)
    posterior = guide.posterior(x)
    for name, shape in (("z", (2, 6, 2)), ("s", (2, 6))):
        assert found[name].shape == shape
        torch.testing.assert_close(found[name][1], posterior[name].mean.detach())
        torch.testing.assert_close(
            found[name][0], (posterior[name].mean - 1.2815515655 * posterior[name].stddev).detach()
        )
    torch.testing.assert_close(guide.quantiles(0.1, x)["z"], found["z"][0])


def test_quantiles_of_dependent_sites_are_those_of_draws(x):
    guide = AmortizedNormal(model, encoder(), structured=True)
    found = guide.quantiles([0.25, 0.75], x, num_samples=20_000, seed=0)
    draws = guide.sample(x, 20_000, seed=1)
    torch.testing.assert_close(
        found["z"][0], guide.posterior(x)["z"].base_dist.icdf(torch.tensor(0.25)).detach()
    )
    torch.testing.assert_close(
        (draws["s"] < found["s"][1]).double().mean(0), torch.full((6,), 0.75), atol=0.02, rtol=0
    )
    assert torch.equal(guide.median(x, seed=3)["s"], guide.quantiles(0.5, x, seed=3)["s"])


def test_encoding_never_runs_the_model(x):
    guide = AmortizedNormal(model, encoder(), structured=True)
    guide(x)
    CALLS.clear()
    guide.posterior(x)
    guide.sample(x, 3)
    guide.median(x)
    guide.quantiles([0.1], x)
    assert CALLS["model"] == 0


# ---- heads of one's own


class Linear(nn.Module):
    def __init__(self, in_features, out_features, build):
        super().__init__()
        self.linear, self.build = nn.Linear(in_features, out_features), build

    def forward(self, features):
        return self.build(self.linear(features))


def laplace(h):
    return dist.Laplace(h[..., :2], 1.0).to_event(1)


def test_a_module_serves_its_site(x):
    head = Linear(7, 2, laplace)
    start = state(head)
    guide = AmortizedNormal(model, encoder(), heads={"z": head})
    assert isinstance(guide.posterior(x)["z"].base_dist, dist.Laplace)
    assert isinstance(guide.posterior(x)["s"], dist.Normal)
    step(model, guide, x, elbo=Trace_ELBO())
    assert all_differ(start, head.state_dict())


def test_a_distribution_class_serves_its_site(x):
    guide = AmortizedNormal(model, encoder(), heads={"s": dist.StudentT, "z": partial(dist.StudentT, 4.0)})
    q = guide.posterior(x)
    assert q["s"].batch_shape == (6,)
    assert isinstance(q["s"], dist.StudentT)
    assert (q["z"].event_shape, bool((q["z"].base_dist.df == 4).all())) == ((2,), True)
    assert math.isfinite(step(model, guide, x, elbo=Trace_ELBO()))


class Wide(AmortizedGuide):
    def __init__(self, *args, scale=9.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.scale = scale

    def make_head(self, site, in_features):
        count = site.event_shape.numel()

        def build(h):
            return dist.Laplace(h.reshape(h.shape[:-1] + site.event_shape), self.scale).to_event(
                len(site.event_shape)
            )

        return Linear(in_features, count, build)


@pytest.mark.parametrize(
    "family", [Wide, partial(Wide, scale=9.0), Wide(model, lambda x: x)], ids=["class", "partial", "guide"]
)
def test_another_family_serves_its_site(x, family):
    guide = AmortizedNormal(model, encoder(), heads={"z": family})
    assert guide.posterior(x)["z"].base_dist.scale[0, 0] == 9
    assert isinstance(guide.posterior(x)["s"], dist.Normal)


def test_a_head_that_says_how_it_is_inferred(x):
    head = Linear(7, 2, laplace)
    head.infer = {"baseline": {"use_decaying_avg_baseline": True}}
    trace = pyro.poutine.trace(AmortizedNormal(model, encoder(), heads={"z": head})).get_trace(x)
    assert trace.nodes["z"]["infer"]["baseline"] == head.infer["baseline"]


def test_a_head_without_features_is_spread_over_the_data(x):
    guide = AmortizedNormal(model, encoder(), heads={"s": Linear(7, 2, lambda h: dist.Normal(0.0, 1.0))})
    assert guide.posterior(x)["s"].batch_shape == (6,)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            Linear(7, 2, lambda h: h),
            r"head of 'z' to return a distribution of pyro.distributions but got Tensor",
        ),
        (Linear(7, 2, lambda h: dist.Normal(h, 1.0)), r"event shape \(2,\) but got \(\): use .to_event"),
        (Linear(7, 2, lambda h: laplace(h[:3])), r"batch shape \(6,\).* but got \(3,\)"),
        ("Normal", r"Expected the head of 'z' to be a module .* but got 'Normal'"),
        (nn.Linear, r"Expected the head of 'z' to be a module"),
    ],
    ids=["tensor", "event", "batch", "string", "class"],
)
def test_a_head_that_does_not_fit_says_so(x, head, message):
    head = head.double() if isinstance(head, nn.Module) else head
    with pytest.raises(ValueError, match=message):
        AmortizedNormal(model, encoder(), heads={"z": head})(x)


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(2), nn.Dropout())

    def forward(self, features):
        return laplace(self.layers(features))


def test_a_lazy_head_is_built_for_the_features(x):
    head = Lazy()
    guide = AmortizedNormal(model, encoder(), heads={"z": head})
    assert math.isfinite(step(model, guide, x, elbo=Trace_ELBO()))
    assert head.layers[0].weight.shape == (2, 7)
    assert head.layers[1].training


def test_modules_are_parts_of_the_guide_from_the_start(x):
    head = Linear(7, 2, laplace).float()
    guide = AmortizedNormal(model, encoder(), heads={"z": head}).double()
    assert head.linear in list(guide.modules())
    assert guide.posterior(x)["z"].base_dist.loc.dtype == torch.float64


class Noisy(AmortizedGuide):
    def make_head(self, site, in_features):
        return Lazy()


@pytest.mark.parametrize("own", [False, True], ids=["family", "own"])
def test_evaluation_mode_before_the_first_call_holds(x, own):
    heads = {"z": Lazy()} if own else None
    guide = Noisy(pyro.poutine.block(model, hide=["s"]), encoder(), heads=heads).eval()
    assert torch.equal(guide.posterior(x)["z"].mean, guide.posterior(x)["z"].mean)
    assert not any(module.training for module in guide.heads[0].modules())


def test_the_error_of_a_head_names_its_site(x):
    def spherical(x):
        with pyro.plate("data", len(x)):
            way = pyro.sample("way", dist.ProjectedNormal(torch.ones(3)))
            pyro.sample("x", dist.Normal(way.sum(-1), 1.0), obs=x[:, 0])

    with pytest.raises(NotImplementedError, match=r"^Latent site 'way': Expected a support .* Sphere"):
        AmortizedNormal(spherical, encoder())(x)


def test_a_head_of_no_site_is_refused(x):
    with pytest.raises(ValueError, match=r"Expected heads for the latent sites \['z', 's'\] but got \['y'\]"):
        AmortizedNormal(model, encoder(), heads={"y": dist.Normal})(x)


def test_copies_take_heads_of_their_own(x):
    head = Linear(7, 2, laplace)
    first = AmortizedNormal(model, encoder(), heads={"z": head})
    second = copy.deepcopy(first)
    for guide in (first, second):
        assert isinstance(guide.posterior(x)["z"].base_dist, dist.Laplace)
    assert first.heads[0] is head
    assert second.heads[0] is not head


# ---- masks


def masking(x, mask):
    with pyro.plate("data", len(x)), pyro.poutine.mask(mask=mask):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def in_part(x, mask):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0], obs_mask=mask)


MASK = torch.tensor([True, False, True, True, False, True])


def within_the_event(x, mask):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).mask(mask[:, None]).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("program", "name", "expected"),
    [
        (masking, "z", MASK),
        (lambda x, mask: masking(x, ~mask), "z", ~MASK),
        (within_the_event, "z", MASK),
        (in_part, "x_unobserved", ~MASK),
    ],
)
def test_masks_of_the_model_are_taken_over(x, program, name, expected):
    """Those of this call, whatever they were in the first."""
    guide = AmortizedNormal(program, lambda x, mask: x)
    guide(x, ~MASK)
    trace = pyro.poutine.trace(guide).get_trace(x, MASK)
    trace.compute_log_prob()
    assert torch.equal(trace.nodes[name]["log_prob"] != 0, expected)
    assert math.isfinite(step(program, guide, x, MASK))
    assert guide.posterior(x, MASK)[name].batch_shape == (6,)


def test_a_subsample_is_masked_by_the_rows_that_are_drawn(x):
    def program(x, mask):
        with pyro.plate("data", len(x), subsample_size=4) as rows, pyro.poutine.mask(mask=mask[rows]):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[rows])

    guide = AmortizedNormal(program, lambda x, mask: x)
    for _ in range(10):
        trace = pyro.poutine.trace(guide).get_trace(x, MASK)
        trace.compute_log_prob()
        assert torch.equal(trace.nodes["z"]["log_prob"] != 0, MASK[trace.nodes["data"]["value"]])


def data_alone(x, mask):
    return x


def test_a_pickled_guide_cannot_see_the_masks_of_its_model(x):
    guide = AmortizedNormal(masking, data_alone)
    guide(x, MASK)
    with pytest.raises(NotImplementedError, match="'z' is masked in the model but not in the guide"):
        pickle.loads(pickle.dumps(guide))(x, MASK)


class Masked(nn.Module):
    def forward(self, features):
        return dist.Normal(features[..., :4], 1.0).mask(features[..., 4:].bool()).to_event(1)


def around(x, mask):
    return pyro.poutine.mask(AmortizedNormal(masking, lambda x, mask: x), mask=mask)(x, mask)


@pytest.mark.parametrize(
    "guide",
    [around, AmortizedNormal(masking, lambda x, m: torch.cat([x, m[:, None]], -1), heads={"z": Masked()})],
    ids=["handler", "head"],
)
def test_a_guide_that_is_masked_too_is_not(x, guide):
    trace = pyro.poutine.trace(guide).get_trace(x, MASK)
    trace.compute_log_prob()
    assert torch.equal(trace.nodes["z"]["log_prob"] != 0, MASK)


# ---- trunks


def test_a_frozen_encoder_stays_as_it_is(x):
    net = encoder().requires_grad_(False)
    start = state(net)
    guide = AmortizedNormal(model, net)
    heads = None
    for _ in range(2):
        step(model, guide, x)
        heads = heads or state(guide.heads)
    assert all(torch.equal(start[name], value) for name, value in net.state_dict().items())
    assert all_differ(heads, guide.heads.state_dict())


def test_two_guides_train_one_trunk(x):
    trunk = encoder()
    first = AmortizedNormal(pyro.poutine.block(model, hide=["s"]), trunk)
    second = Wide(pyro.poutine.block(model, hide=["z"]), trunk)
    both = AutoGuideList(model, create_plates=lambda x: pyro.plate("data", len(x), dim=-1))
    both.append(first)
    both.append(second)
    start = state(trunk)
    step(model, both, x, elbo=Trace_ELBO())
    assert all_differ(start, trunk.state_dict())
    # one step of Adam at rate 0.01: stepping twice would move by 0.02
    assert all((start[name] - value).abs().max() < 0.0101 for name, value in trunk.state_dict().items())
    assert both(x)["s"].shape == (6,)


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
