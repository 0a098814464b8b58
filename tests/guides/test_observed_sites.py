"""Guides follow what the model observes in a call: labels, conditions, masks, and sequences of any length."""

import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI

from pyro_infomax.guides import AmortizedDiscrete, AmortizedNormal
from pyro_infomax.infer import (
    Trace_BetaELBO,
    TraceEnum_BetaELBO,
    TraceGraph_BetaELBO,
    TraceMeanField_BetaELBO,
)
from pyro_infomax.training import CapturedSVI, FusedOptim

X = torch.tensor([[0.2], [1.1], [-0.7], [2.4]], dtype=torch.float64)
Y = torch.tensor([0, 2, 1, 2])
SEEN = torch.tensor([True, False, True, False])
PRIOR = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
OF_W = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], dtype=torch.float64)
MEANS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 3.0]], dtype=torch.float64)


def model(x, y=None, seen=None):
    """y, w given y, and x given both."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(PRIOR), obs=y, obs_mask=seen)
        w = pyro.sample("w", dist.Categorical(OF_W[y]))
        pyro.sample("x", dist.Normal(MEANS[y, w], 1.0), obs=x[:, 0])


def features(x, *_):
    return torch.cat([x, x**2], -1)


def make_guide(program=model):
    torch.manual_seed(0)
    return AmortizedDiscrete(program, features, structured=True)


# ---- labels


def of_each_label(guide):
    """The ELBO of each datum, were it labelled y, by the sum over w: (data, y)."""
    log_p = PRIOR.log()[:, None] + OF_W.log() + dist.Normal(MEANS, 1.0).log_prob(X[..., None])  # (data, y, w)
    log_q = torch.stack(
        [guide.posterior(X, given={"y": torch.full((4,), y)})["w"].probs.log() for y in range(3)], 1
    )
    return (log_q.exp() * (log_p - log_q)).sum(-1)


def unlabelled(guide):
    """The ELBO of each datum by the sum over both: (data,)."""
    log_q = guide.posterior(X)["y"].probs.log()
    return (log_q.exp() * (of_each_label(guide) - log_q)).sum(-1)


def test_labelled_and_unlabelled_data_sum_to_what_enumeration_gives():
    guide = make_guide()
    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    for validate in (True, False):
        with pyro.validation_enabled(validate):
            losses = [elbo.loss(model, guide, X), elbo.loss(model, guide, X, Y), elbo.loss(model, guide, X)]
    labelled = of_each_label(guide)[range(4), Y]
    assert losses[0] == losses[2] == pytest.approx(-unlabelled(guide).sum().item())
    assert losses[1] == pytest.approx(-labelled.sum().item())
    assert list(guide(X, Y)) == ["w"]


def test_a_gradient_of_labelled_data_is_that_of_enumeration():
    guide = make_guide()
    TraceEnum_BetaELBO(1.0, max_plate_nesting=1).loss(model, guide, X)
    for args, value in (((X,), unlabelled), ((X, Y), lambda guide: of_each_label(guide)[range(4), Y])):
        parameters = list(guide.parameters())
        expected = torch.autograd.grad(
            -value(guide).sum(), parameters, allow_unused=True, materialize_grads=True
        )
        guide.zero_grad()
        TraceEnum_BetaELBO(1.0, max_plate_nesting=1).loss_and_grads(model, guide, *args)
        for parameter, gradient in zip(parameters, expected, strict=True):
            found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            assert torch.allclose(found, gradient, atol=1e-10)


def test_partly_labelled_data_sum_to_what_enumeration_gives():
    """Where a datum is labelled, the head of w sees the label; what obs_mask hides is drawn."""
    guide, whole = make_guide(), make_guide()
    whole(X)
    guide.posterior(X, Y, SEEN)
    whole.load_state_dict(guide.state_dict())
    expected = torch.where(SEEN, of_each_label(whole)[range(4), Y], unlabelled(whole))
    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    loss = elbo.loss(model, guide, X, torch.where(SEEN, Y, 0), SEEN)
    assert loss == pytest.approx(-expected.sum().item())


def trained(make_svi):
    guide = make_guide()
    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    svi = make_svi(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.01}), elbo)
    for _ in range(3):
        svi.step(X)
        svi.step(X, Y)
    return svi, list(guide.parameters())


def test_labelled_and_unlabelled_steps_alternate():
    """Captured as well as by ordinary steps."""
    _, expected = trained(SVI)
    captured, found = trained(CapturedSVI)
    assert captured.captured, captured.fallback_reason
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "objective", [Trace_BetaELBO, TraceGraph_BetaELBO, TraceMeanField_BetaELBO, TraceEnum_BetaELBO]
)
def test_a_conditioned_site_is_not_drawn(objective):
    def program(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x[:, 0])

    fixed = pyro.condition(program, data={"a": torch.zeros(4)})
    guide = AmortizedNormal(fixed, features)
    options = {"strict_enumeration_warning": False} if objective is TraceEnum_BetaELBO else {}
    assert math.isfinite(objective(1.0, **options).loss(fixed, guide, X))
    assert list(guide(X)) == ["b"]
    with pytest.raises(ValueError, match="lacks 'a'"):
        objective(1.0, **options).loss(program, guide, X)


def test_a_pickled_guide_cannot_ask_for_labels():
    guide = make_guide()
    guide.posterior(X)
    guide.posterior(X, Y)
    revived = pickle.loads(pickle.dumps(guide))
    assert torch.equal(revived.posterior(X)["y"].probs, guide.posterior(X)["y"].probs)
    with pytest.raises(ValueError, match=r"tell the values of \['y'\] but this guide was pickled"):
        revived.posterior(X, Y)


def test_a_subsample_reads_the_labels_of_its_rows():
    def program(x, y=None):
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            y = pyro.sample("y", dist.Categorical(PRIOR), obs=None if y is None else y[rows])
            w = pyro.sample("w", dist.Categorical(OF_W[y]))
            pyro.sample("x", dist.Normal(MEANS[y, w], 1.0), obs=x[rows, 0])

    guide, whole = make_guide(program), make_guide()
    guide.posterior(X)
    whole.posterior(X)
    whole.load_state_dict(guide.state_dict())
    elbo = TraceEnum_BetaELBO(1.0, max_plate_nesting=1)
    losses = torch.tensor([elbo.loss(program, guide, X, Y) for _ in range(100)])
    expected = -of_each_label(whole)[range(4), Y].sum()
    assert abs(losses.mean() - expected) < 4 * losses.std() / 10
    with pytest.raises(NotImplementedError, match=r"reads \['y'\] .* 2 of 4 rows: pass 2 rows at a time"):
        guide.posterior(X, Y)


def test_nothing_is_drawn_where_all_is_observed():
    def program(x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)
            pyro.sample("x", dist.Normal(y, 1.0), obs=x[:, 0])

    guide = AmortizedNormal(program, features)
    guide(X)
    y = torch.zeros(4)
    assert guide(X, y) == guide.posterior(X, y) == guide.median(X, y) == {}
    expected = -(dist.Normal(0.0, 1.0).log_prob(y) + dist.Normal(0.0, 1.0).log_prob(X[:, 0])).sum().item()
    assert TraceMeanField_BetaELBO(1.0).loss(program, guide, X, y) == pytest.approx(expected)


def test_a_site_may_first_be_observed():
    """Where no head depends on it, its own is made when it is drawn for the first time."""
    guide = AmortizedDiscrete(model, features)
    assert list(guide(X, Y)) == ["w"]
    assert list(guide(X)) == ["y", "w"]
    assert list(guide(X, Y)) == ["w"]
    other = AmortizedDiscrete(model, features)
    other(X)
    other.load_state_dict(guide.state_dict())
    assert torch.equal(other.posterior(X)["y"].probs, guide.posterior(X)["y"].probs)


def test_a_head_that_would_depend_on_a_site_must_have_been_made_for_it():
    guide = make_guide()
    guide(X, Y)
    with pytest.raises(ValueError, match=r"first call to draw \['y'\], .* before 'w'"):
        guide(X)


@pytest.mark.parametrize("structured", [True, False])
def test_a_site_that_is_given_a_head_may_first_be_observed(structured):
    """Then later heads are made to depend on it, in the same order whichever call comes first."""
    heads = {"y": AmortizedDiscrete, "w": AmortizedDiscrete}
    first, other = (AmortizedNormal(model, features, heads=heads, structured=structured) for _ in range(2))
    first(X, Y)
    other(X)
    other.load_state_dict(first.state_dict())
    assert list(first(X)) == ["y", "w"]
    for args in ((X,), (X, Y)):
        assert torch.equal(first.posterior(*args)["w"].probs, other.posterior(*args)["w"].probs)


# ---- sequences


def sequence(x, lengths=None):
    state = torch.zeros(len(x))
    with pyro.plate("data", len(x)):
        for t in range(x.shape[1]):
            present = None if lengths is None else t < lengths
            with pyro.poutine.mask(mask=True if present is None else present):
                state = pyro.sample(f"z_{t}", dist.Normal(0.5 * state, 1.0))
                pyro.sample(f"x_{t}", dist.Normal(state, 1.0), obs=x[:, t])


def summary(x, *_):
    return torch.stack([x.mean(1), x.std(1)], -1)


def test_a_sequence_may_have_any_length():
    guide = AmortizedNormal(sequence, summary)
    x = torch.randn(4, 6)
    for length in (3, 6, 2, 3):
        assert list(guide(x[:, :length])) == [f"z_{t}" for t in range(length)]
        assert math.isfinite(TraceMeanField_BetaELBO(1.0).loss(sequence, guide, x[:, :length]))
        assert len(guide.posterior(x[:, :length])) == len(guide.sample(x[:, :length], 2)) == length


def test_padded_sequences_are_those_without_the_padding():
    """The rate of each is that of its own length."""
    guide = AmortizedNormal(sequence, lambda x, lengths: torch.ones(len(x), 2))
    x, lengths = torch.randn(4, 3), torch.tensor([1, 3, 2, 3])
    trace = pyro.poutine.trace(guide).get_trace(x, lengths)
    trace.compute_log_prob()
    present = torch.stack([trace.nodes[f"z_{t}"]["log_prob"] != 0 for t in range(3)], -1)
    assert torch.equal(present.sum(-1), lengths)
    assert math.isfinite(TraceMeanField_BetaELBO(1.0).loss(sequence, guide, x, lengths))


# ---- what cannot be followed


def test_what_depends_on_values_is_refused():
    def program(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y if y.sum() > 0 else None)
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AmortizedNormal(program, features)
    guide(X, torch.ones(4))
    with pytest.raises(ValueError, match="lacks 'y'"):
        TraceMeanField_BetaELBO(1.0).loss(program, guide, X, -torch.ones(4))


def test_a_site_of_another_shape_is_refused():
    def program(x, size=2):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x[:, 0])

    guide = AmortizedNormal(program, features)
    guide(X)
    with pytest.raises(ValueError, match=r"'z' as in earlier calls, of event shape \(2,\) .* but got \(3,\)"):
        guide(X, 3)


def test_a_mask_by_what_is_drawn_is_refused():
    def program(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=a > 0.0):
                b = pyro.sample("b", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(a + b, 1.0), obs=x[:, 0])

    with pytest.raises(NotImplementedError, match="'b' is masked in the model by what it draws before"):
        AmortizedNormal(program, features)(X)


def test_the_head_of_a_site_serves_what_a_mask_hides_of_it():
    guide = AmortizedNormal(model, features, heads={"y": AmortizedDiscrete, "w": AmortizedDiscrete})
    assert guide.posterior(X, Y, SEEN)["y_unobserved"].probs.shape == (4, 3)
