"""A posterior that is scored by running its guide."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from pyro_infomax.guides import AmortizedDiscrete, AmortizedFlow, AmortizedGuide, AmortizedMultivariateNormal
from pyro_infomax.information import AggregatePosterior
from pyro_infomax.joint import RepresentationJoint, representation
from pyro_infomax.nn import NormalHead


def reshaped(a):
    return a.reshape(a.shape[-1])


def rounded(a):
    """By the number of values that are scored at once."""
    return a + 1e-4 * a.shape[:-1].numel()


def mixed(a):
    """With values that have nothing to do with it."""
    return rounded(a) + (0.1 * a.mean(0) if a.dim() > 1 else 0.1 * a)


class Guide:
    """a, then b around a function of a; counts its runs."""

    def __init__(self, loc_of=lambda a: a):
        self.loc_of = loc_of
        self.runs = 0

    def __call__(self, x):
        self.runs += 1
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5))
            pyro.sample("b", dist.Normal(self.loc_of(a), 1.0))


def expected(z, x):
    return Normal(x, 0.5).log_prob(z[..., 0]) + Normal(z[..., 0], 1.0).log_prob(z[..., 1])


@pytest.fixture
def x():
    return torch.randn(5)


@pytest.mark.parametrize("shape", [(), (3, 2)])
@pytest.mark.parametrize(("guide", "rows"), [(Guide(), 1), (Guide(), 5), (Guide(reshaped), 5)])
def test_vectors_are_scored_under_the_datum_of_their_row(guide, shape, rows, x):
    z = torch.randn(*shape, rows, 2)
    subject = representation(guide, x).posterior
    torch.testing.assert_close(subject.log_prob(z), expected(z, x), rtol=0, atol=1e-9)
    each = Normal(x, 0.5).log_prob(z[..., 0]), Normal(z[..., 0], 1.0).log_prob(z[..., 1]).expand(*shape, 5)
    torch.testing.assert_close(subject.log_prob_sites(z), torch.stack(each, -1), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("loc_of", "runs"), [(lambda a: a, 1), (rounded, 1), (reshaped, 8), (mixed, 8)])
def test_guides_that_broadcast_run_once(loc_of, runs, x):
    guide = Guide(loc_of)
    subject = representation(guide, x).posterior.for_one_evaluation()
    z = torch.randn(8, 5, 2)
    subject.log_prob(z)
    guide.runs = 0
    found = subject.log_prob(z)
    assert guide.runs == runs
    alone = torch.cat([subject.log_prob(each[None]) for each in z])
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-2)


def test_shapes(x):
    subject = representation(Guide(reshaped), x).posterior
    assert subject.batch_shape == (5,)
    assert subject.event_shape == (2,)
    assert subject.sample().shape == (5, 2)
    assert subject.sample((3, 4)).shape == (3, 4, 5, 2)
    assert subject.sample().dtype == torch.float64


def test_the_aggregate_posterior_takes_it(x):
    z = torch.randn(7, 2)
    score = AggregatePosterior(representation(Guide(reshaped), x).posterior).log_prob(z)
    table = expected(z[:, None].expand(7, 5, 2), x)
    torch.testing.assert_close(score, table.logsumexp(1) - torch.tensor(5.0).log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize(("draws", "runs"), [(1, 1), (4, 1), (9, 3)])
def test_few_data_are_drawn_for_several_times_in_a_run(draws, runs, x):
    guide = Guide(reshaped)
    subject = RepresentationJoint(guide, x, batch_size=22).posterior
    assert subject.rows_at_once == 22
    guide.runs = 0
    assert subject.sample((draws,)).shape == (draws, 5, 2)
    assert guide.runs == runs


def test_draws_for_a_guide_of_fixed_size_are_made_one_by_one(x):
    def guide(x):
        with pyro.plate("data", 5):
            a = pyro.sample("a", dist.Normal(x, 1e-3))
            pyro.sample("b", dist.Normal(a, 1e-3))

    z = representation(guide, x).posterior.sample((4,))
    assert ((z - x[:, None]).abs() < 0.01).all()
    assert len(z[:, 0, 0].unique()) == 4


def test_each_row_of_several_draws_is_of_its_own_datum_and_its_sites_belong_together(x):
    z = RepresentationJoint(Guide(), x, batch_size=220).posterior.sample((4000,))
    off = (z[..., 0].mean(0) - x).abs()
    assert (off < 4.5 * 0.5 / 4000**0.5).all()
    noise = z[..., 1] - z[..., 0]
    assert abs(float(noise.var()) - 1) < 4 * (2 / 20_000) ** 0.5


# -- amortised guides, whose data are encoded once --------------------------------------------------


class Encoder(nn.Module):
    """Counts its runs."""

    def __init__(self, width):
        super().__init__()
        self.linear, self.runs = nn.Linear(3, width), 0

    def forward(self, x):
        self.runs += 1
        return self.linear(x).relu()


def chain(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        k = pyro.sample("k", dist.Categorical(torch.ones(3)))
        s = pyro.sample("s", dist.Gamma(2.0, 1.0))
        c = pyro.sample("c", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        loc = torch.cat([a, k[..., None], s[..., None], c, b], -1).sum(-1, keepdim=True)
        pyro.sample("x", dist.Normal(loc, torch.ones(3)).to_event(1), obs=x)


class OwnHead(nn.Module):
    """Does more with its features than to give them to a linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(2)

    def forward(self, features):
        return dist.Normal(self.linear(features * 0.5) + features[..., :2].tanh(), 1.0).to_event(1)


@torch.no_grad()
def amortised(family, width, **options):
    heads = {
        "k": partial(AmortizedDiscrete, enumerate=False),
        "s": dist.Gamma,
        "c": OwnHead(),
        "b": AmortizedFlow,
    }
    guide = family(chain, Encoder(width), heads=heads, **options)
    guide(torch.randn(4, 3))
    for parameter in guide.parameters():
        parameter += 0.06 * torch.randn_like(parameter)  # away from where it begins
    return guide


@pytest.mark.parametrize(("structured", "width"), [(False, 70), (True, 70), (True, 10)])
@torch.no_grad()
def test_values_under_all_data_need_one_run_of_the_encoder(structured, width):
    x, batch_size = torch.randn(5, 3), 3  # in two pieces
    guide = amortised(AmortizedMultivariateNormal, width, structured=structured)
    subject = RepresentationJoint(guide, x, batch_size=batch_size).posterior.for_one_evaluation()
    z = subject.sample((7, 2))[:, :, :1]
    found = subject.log_prob_sites(z)
    guide.encoder.runs = 0
    assert torch.equal(subject.log_prob_sites(z), found)
    assert guide.encoder.runs == 0
    sites = subject.space.unflatten(z.expand(7, 2, 5, -1))
    sites["k"] = sites["k"].long()
    given = {name: sites[name] for name in ("a", "k", "s", "c")} if structured else None
    expected = [each.log_prob(sites[name]) for name, each in guide.posterior(x, given=given).items()]
    torch.testing.assert_close(found, torch.stack(expected, -1), rtol=1e-9, atol=1e-9)


def pair(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        b = pyro.sample("b", dist.Normal(a, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(b, 1.0).to_event(1), obs=x)


class Doubled(nn.Linear):
    def forward(self, features):
        return super().forward(features * 2)


def replace_layer(head, inputs):
    own, head.linear = head.linear, Doubled(head.linear.in_features, head.linear.out_features)
    head.linear.load_state_dict(own.state_dict())


def replace_forward(head, inputs):
    own = head.linear.forward
    head.linear.forward = lambda features: own(features * 2)


CHANGES_OF_A_HEAD = {
    "pre-hook": lambda head, inputs: head.register_forward_pre_hook(lambda _, args: (args[0] * 2,)),
    "hook": lambda head, inputs: head.register_forward_hook(
        lambda _, args, q: q.expand((args[0] * 2).shape[:-1])
    ),
    "pre-hook of the layer": lambda head, inputs: head.linear.register_forward_pre_hook(
        lambda _, args: (args[0] * 2,)
    ),
    "hook of the layer": lambda head, inputs: head.linear.register_forward_hook(
        lambda _, args, found: found + args[0].mean(-1, keepdim=True)
    ),
    "layer": replace_layer,
    "forward of the layer": replace_forward,
    "hook of the input": lambda head, inputs: inputs.register_forward_hook(lambda _, args, u: u + 1e-4),
}


@pytest.mark.parametrize("change", CHANGES_OF_A_HEAD.values(), ids=CHANGES_OF_A_HEAD)
@torch.no_grad()
def test_a_head_that_does_more_than_it_was_made_for_is_scored_as_it_is(change):
    x = torch.randn(5, 2)
    guide = AmortizedMultivariateNormal(pair, nn.Linear(2, 4), structured=True)
    guide.posterior(x)
    change(guide.heads[1], guide.inputs[1])
    subject, z = representation(guide, x).posterior.for_one_evaluation(), torch.randn(6, 1, 4)
    apart = torch.cat([subject.log_prob_sites(each[None]) for each in z])
    torch.testing.assert_close(subject.log_prob_sites(z), apart)
    runs = []
    guide.encoder.register_forward_hook(lambda *_: runs.append(1))
    subject.log_prob_sites(z)
    assert bool(runs) is (change is CHANGES_OF_A_HEAD["hook of the input"])  # the data are still encoded once


class Sine(nn.Module):
    """A head that takes features only as tensors, and one datum a row."""

    def __init__(self):
        super().__init__()
        self.linear = nn.LazyLinear(2)

    def forward(self, features):
        if features.dim() > 2:
            raise TypeError("Expected features (batch, features)")
        return dist.Normal(self.linear(features.sin()), 1.0).to_event(1)


@torch.no_grad()
def test_a_head_that_cannot_take_pairs_is_run():
    x = torch.randn(5, 2)
    guide = AmortizedMultivariateNormal(pair, nn.Linear(2, 4), structured=True, heads={"b": Sine()})
    guide.posterior(x)
    subject, z = representation(guide, x).posterior, torch.randn(6, 1, 4)
    apart = torch.cat([subject.log_prob_sites(each[None]) for each in z])
    torch.testing.assert_close(subject.log_prob_sites(z), apart)


class Shifted(AmortizedGuide):
    """Draws from elsewhere than its heads say."""

    def make_head(self, site, in_features):
        return NormalHead(in_features, site.event_shape)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(x, 0.5))
            return {"a": a, "b": pyro.sample("b", dist.Normal(a, 1.0))}


@torch.no_grad()
def test_what_is_encoded_once_is_checked_against_a_run(x):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample(
                "x",
                dist.Normal(pyro.sample("a", dist.Normal(0, 1)) + pyro.sample("b", dist.Normal(0, 1)), 1),
                obs=x,
            )

    guide = Shifted(model, lambda x: x[:, None], structured=True)
    guide.posterior(x)
    z = torch.randn(4, 1, 2)
    torch.testing.assert_close(
        representation(guide, x).posterior.log_prob(z), expected(z, x), rtol=0, atol=1e-9
    )


# -- posteriors that are kept while their guide changes ---------------------------------------------


def matrix(x):
    with pyro.plate("data", len(x)):
        a = pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        pyro.sample("x", dist.Normal(a.sum(-1), 1.0).to_event(1), obs=x)


def load(guide, x):
    guide.load_state_dict({name: each + 0.2 for name, each in guide.state_dict().items()})


def write_to_data_of_parameters(guide, x):
    guide.heads[0].linear.weight.data += 0.2


def step(guide, x):
    optimiser = torch.optim.SGD(guide.parameters(), lr=0.1)
    (-guide.posterior(x)["a"].log_prob(torch.ones(guide.heads[0].event_shape)).sum()).backward()
    optimiser.step()


def change_data(guide, x):
    x += 0.5


def change_mode(guide, x):
    guide.train(not guide.training)


def hook(guide, x):
    guide.encoder.register_forward_hook(lambda module, args, found: found + 0.5)


CHANGES = [load, write_to_data_of_parameters, step, change_data, change_mode, hook]


@pytest.mark.parametrize(("model", "change"), [*((pair, each) for each in CHANGES), (matrix, load)])
def test_no_score_is_older_than_the_guide(model, change):
    x = torch.randn(6, 2)
    encoder = nn.Sequential(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Tanh())
    guide = AmortizedMultivariateNormal(model, encoder, structured=True)
    guide.posterior(x)
    guide.eval()
    kept, z = representation(guide, x).posterior, torch.randn(8, 1, 4)
    aggregate = AggregatePosterior(kept)
    with torch.no_grad():
        before, mixed = kept.log_prob_sites(z), aggregate.log_prob(z[:, 0])
    change(guide, x)
    with torch.no_grad():
        fresh = representation(guide, x).posterior
        expected = fresh.log_prob_sites(z)
        assert (expected - before).abs().max() > 1e-2
        torch.testing.assert_close(kept.log_prob_sites(z), expected)
        assert (aggregate.log_prob(z[:, 0]) - mixed).abs().max() > 1e-4
        torch.testing.assert_close(aggregate.log_prob(z[:, 0]), AggregatePosterior(fresh).log_prob(z[:, 0]))
    torch.testing.assert_close(kept.log_prob_sites(z), expected)  # with gradients too
