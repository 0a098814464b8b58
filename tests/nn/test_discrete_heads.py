import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import TraceEnum_ELBO

from pyro_infomax.distributions import StraightThroughBernoulli, StraightThroughOneHotCategorical
from pyro_infomax.nn import BernoulliHead, CategoricalHead, OneHotHead, discrete_head


def categorical(in_features, event, **options):
    return CategoricalHead(in_features, event, num_categories=4, **options)


HEADS = [
    (BernoulliHead, (), dist.Bernoulli),
    (BernoulliHead, (2, 3), dist.Bernoulli),
    (categorical, (), dist.Categorical),
    (categorical, (2,), dist.Categorical),
    (OneHotHead, (4,), dist.OneHotCategorical),
    (OneHotHead, (2, 4), dist.OneHotCategorical),
]
RELAXED = [
    (BernoulliHead, (3,), StraightThroughBernoulli),
    (OneHotHead, (2, 4), StraightThroughOneHotCategorical),
]


@pytest.mark.parametrize(("head", "event", "kind"), HEADS)
def test_shapes_and_gradients(head, event, kind):
    batch = (2, 5, 1)
    head = head(4, event, enumerate=False)
    q = head(torch.randn(*batch, 4))
    assert type(getattr(q, "base_dist", q)) is kind
    z = q.sample()
    assert (q.batch_shape, q.event_shape, z.shape) == (batch, event, (*batch, *event))
    q.log_prob(z).sum().backward()
    assert all((p.grad != 0).all() for p in head.parameters())


@pytest.mark.parametrize(("head", "event", "kind"), HEADS)
def test_logits_are_linear_and_near_zero_at_first(head, event, kind):
    head, h = head(16, event, enumerate=False), torch.randn(100, 16)
    q = head(h)
    logits = getattr(q, "base_dist", q).logits
    raw = (h @ head.linear.weight.T + head.linear.bias).reshape(logits.shape)
    normalised = raw if kind is dist.Bernoulli else raw.log_softmax(-1)
    torch.testing.assert_close(logits, normalised)
    assert 0 < raw.abs().mean() < 0.2
    assert raw.abs().max() < 1


@pytest.mark.parametrize(("head", "event"), [(BernoulliHead, ()), (categorical, ()), (OneHotHead, (4,))])
def test_probabilities_sum_to_one(head, event):
    q = head(3, event)(10 * torch.randn(5, 3))
    values = q.enumerate_support()
    torch.testing.assert_close(q.log_prob(values).exp().sum(0), torch.ones(5))


# ---- enumeration


@pytest.mark.parametrize(("head", "event"), [(BernoulliHead, ()), (categorical, ()), (OneHotHead, (4,))])
def test_an_enumerated_head_gives_the_exact_gradient(head, event):
    head, x, features = head(3, event), torch.randn(5), torch.randn(5, 3)
    prior = head(torch.randn(1, 3)).expand([1]).enumerate_support(expand=False)
    values, slope = prior.reshape(len(prior), *event), torch.randn(event)

    def loc(z):
        return (slope * z).sum(-1) if event else slope * z

    def model():
        with pyro.plate("data", 5):
            z = pyro.sample("z", uniform(head, event))
            pyro.sample("x", dist.Normal(loc(z), 1.0), obs=x)

    def guide():
        with pyro.plate("data", 5):
            pyro.sample("z", head(features), infer=head.infer)

    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide)
    log_q = head(features).log_prob(values.unsqueeze(1))  # (value, datum)
    log_p = uniform(head, event).log_prob(values)[:, None] + dist.Normal(loc(values)[:, None], 1.0).log_prob(
        x
    )
    exact = (log_q.exp() * (log_q - log_p)).sum()
    torch.testing.assert_close(loss, exact)
    parameters = list(head.parameters())
    for ours, brute in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(exact, parameters), strict=True
    ):
        torch.testing.assert_close(ours, brute, rtol=1e-10, atol=1e-10)


def uniform(head, event):
    if isinstance(head, BernoulliHead):
        return dist.Bernoulli(0.5)
    return (dist.OneHotCategorical if event else dist.Categorical)(torch.ones(4) / 4)


@pytest.mark.parametrize(
    ("head", "event"),
    [(BernoulliHead, (3,)), (BernoulliHead, (1,)), (categorical, (2,)), (OneHotHead, (2, 4))],
)
def test_events_that_pyro_does_not_enumerate_are_refused(head, event):
    with pytest.raises(NotImplementedError, match=r"Expected one discrete variable .* in a plate, or pass a"):
        head(4, event, enumerate=True)
    with pytest.raises(NotImplementedError, match="Expected one discrete variable to enumerate but got"):
        head(4, event)
    with pytest.raises(NotImplementedError):
        head(4, event, enumerate=False)(torch.zeros(5, 4)).enumerate_support()


def test_what_the_site_is_told():
    assert BernoulliHead(4, ()).infer == {"enumerate": "parallel"}
    assert BernoulliHead(4, (), enumerate=False).infer == {}
    assert BernoulliHead(4, (), temperature=0.5).infer == {}
    head = BernoulliHead(4, ())
    head.infer["left by a handler"] = 1
    assert head.infer == {"enumerate": "parallel"}


# ---- temperature


@pytest.mark.parametrize(("head", "event", "kind"), RELAXED)
def test_a_temperature_relaxes_the_gradient(head, event, kind):
    head = head(4, event, temperature=0.5)
    q = head(torch.randn(5, 4))
    assert type(q.base_dist) is kind
    assert q.base_dist.temperature == 0.5
    z = q.rsample()
    assert q.support.check(z).all()
    (z * torch.randn(event)).sum().backward()
    assert all((p.grad != 0).all() for p in head.parameters())


@pytest.mark.parametrize(("head", "event", "kind"), RELAXED)
def test_a_function_is_asked_for_the_temperature_at_each_call(head, event, kind):
    temperatures = iter([2.0, 1.0])
    head = head(4, event, temperature=lambda: next(temperatures))
    h = torch.randn(5, 4)
    assert [head(h).base_dist.temperature, head(h).base_dist.temperature] == [2.0, 1.0]


def test_a_parameter_as_temperature_is_learned_and_copied():
    head = BernoulliHead(4, (3,), temperature=torch.nn.Parameter(torch.tensor(0.5)))
    (head(torch.randn(5, 4)).rsample() * torch.randn(3)).sum().backward()
    assert head.temperature.grad != 0
    twin = copy.deepcopy(head)
    assert twin.temperature is not head.temperature
    assert set(twin.state_dict()) == {"temperature", "linear.weight", "linear.bias"}


@pytest.mark.parametrize("head", [BernoulliHead, OneHotHead])
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_none_is_refused(head, temperature):
    with pytest.raises(ValueError, match="Expected temperature > 0 but got"):
        head(4, (3,), temperature=temperature)


@pytest.mark.parametrize(("head", "event"), [(BernoulliHead, ()), (OneHotHead, (3,))])
def test_enumeration_and_a_temperature_exclude_each_other(head, event):
    with pytest.raises(ValueError, match="Expected either enumerate=True or a temperature but got both"):
        head(4, event, temperature=0.5, enumerate=True)


def test_a_categorical_site_has_no_temperature():
    with pytest.raises(
        NotImplementedError, match=r"integers carry no gradient, but got 0\.5: .*OneHotCategorical"
    ):
        categorical(4, (), temperature=0.5)


@pytest.mark.parametrize("k", [0, -1])
def test_no_categories_are_refused(k):
    with pytest.raises(ValueError, match=f"Expected num_categories to be an integer >= 1 but got {k}"):
        CategoricalHead(4, (), num_categories=k)


@pytest.mark.parametrize("head", [BernoulliHead, OneHotHead])
def test_other_heads_have_no_number_of_categories(head):
    with pytest.raises(TypeError, match="num_categories"):
        head(16, (3,), num_categories=5)


def test_one_hot_vectors_need_an_axis():
    with pytest.raises(ValueError, match="Expected an event shape"):
        OneHotHead(4, ())


# ---- the head of a support


@pytest.mark.parametrize(
    ("prior", "head"),
    [
        (dist.Bernoulli(0.5), BernoulliHead),
        (dist.Bernoulli(torch.full((7, 3), 0.5)).to_event(1), BernoulliHead),
        (dist.Categorical(torch.ones(7, 4)), CategoricalHead),
        (dist.Categorical(torch.ones(7, 2, 4)).to_event(1), CategoricalHead),
        (dist.Binomial(torch.full((7,), 3.0), torch.tensor(0.5)), CategoricalHead),
        (dist.OneHotCategorical(torch.ones(7, 4)), OneHotHead),
        (dist.OneHotCategorical(torch.ones(7, 2, 4)).to_event(1), OneHotHead),
    ],
)
def test_the_head_covers_the_prior(prior, head):
    ours = discrete_head(prior.support, prior.event_shape, 4, enumerate=False)
    assert type(ours) is head
    q = ours(torch.randn(5, 4))
    assert q.event_shape == prior.event_shape
    z = q.sample((200,))
    if head is CategoricalHead:
        assert (z.min(), z.max()) == (0, 3)
    else:
        assert prior.support.check(z).all()


def test_options_are_passed_on():
    assert discrete_head(constraints.boolean, (), 4).infer == {"enumerate": "parallel"}
    assert discrete_head(constraints.boolean, (), 4, enumerate=False).infer == {}
    assert discrete_head(constraints.one_hot, (3,), 4, temperature=0.5).temperature == 0.5
    with pytest.raises(NotImplementedError, match="carry no gradient"):
        discrete_head(constraints.integer_interval(0, 3), (), 4, temperature=0.5)


@pytest.mark.parametrize(
    ("support", "message"),
    [
        (constraints.nonnegative_integer, r"Expected a support that is boolean, .* dist\.Poisson"),
        (constraints.positive, "Expected a support that is boolean, one-hot or an interval"),
        (constraints.integer_interval(1, 3), "Expected integers from 0 to the same number for all data"),
        (
            constraints.integer_interval(0, torch.tensor([3, 4])),
            "Expected integers from 0 to the same number",
        ),
    ],
)
def test_other_supports_are_refused(support, message):
    with pytest.raises(NotImplementedError, match=message):
        discrete_head(support, (), 4)
