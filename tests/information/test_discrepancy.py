"""The discrepancy of mixtures of Normals from a Normal, against its closed form."""

import math

import pytest
import torch
from scipy.stats import binom
from torch import Tensor
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal

from pyro_infomax.information import RBF, InverseMultiquadric, mmd

KERNEL = RBF(1.5)


def overlap(means: Tensor, variances: Tensor, others: Tensor, other_variances: Tensor) -> Tensor:
    """E k(z, u) of all pairs of Normals, both (components, latent), under the Gaussian kernel: (m, n)."""
    square = KERNEL.lengthscale**2
    total = square + variances[:, None] + other_variances
    exponent = -((means[:, None] - others) ** 2) / (2 * total)
    return (exponent.exp() * (square / total).sqrt()).prod(-1)


def closed_form(posterior: Independent, prior: Independent) -> Tensor:
    pairs = [
        (each.mean.reshape(-1, each.event_shape[0]), each.variance.reshape(-1, each.event_shape[0]))
        for each in (posterior, prior)
    ]
    q, p = pairs
    return overlap(*q, *q).mean() + overlap(*p, *p).mean() - 2 * overlap(*q, *p).mean()


def encoded(batch: int = 5, shift: float = 0.5) -> Independent:
    means = torch.randn(batch, 2, generator=torch.Generator().manual_seed(3)) + shift
    return Independent(Normal(means, torch.linspace(0.3, 0.8, batch)[:, None].expand(batch, 2)), 1)


def prior() -> Independent:
    return Independent(Normal(torch.zeros(2), torch.tensor([1.0, 1.3])), 1)


@pytest.mark.parametrize("batch", [1, 5, 300])
def test_a_mixture_of_normals_meets_the_closed_form(batch: int) -> None:
    posterior = encoded(batch)
    found = mmd(posterior, prior(), kernel=KERNEL, num_samples=1500, seed=0)
    truth = closed_form(posterior, prior())
    assert abs(float(found.value - truth)) < 3 * float(found.standard_error)
    assert float(found.standard_error) < float(truth) / 3
    assert found.bound == "exact"
    assert found.population_standard_error is None
    assert "RBF(1.5), in its units, not in nats" in found.target


@pytest.mark.parametrize("num_samples", [3, 12])
def test_it_has_no_bias(num_samples: int) -> None:
    """Also where draws of the same datum would be the rule among distinct pairs."""
    posterior, repeats = encoded(3, shift=0.0), 300
    found = [float(mmd(posterior, prior(), kernel=KERNEL, num_samples=num_samples)) for _ in range(repeats)]
    values = torch.tensor(found)
    error = float(values.std()) / math.sqrt(repeats)
    assert abs(float(values.mean() - closed_form(posterior, prior()))) < 3.5 * error


def test_one_draw_for_each_datum_would_overstate_it() -> None:
    """Its pairs are all of different data, whose posteriors overlap less than those of the mixture do."""
    posterior = Independent(Normal(torch.tensor([[-2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]), 0.3), 1)
    inner = overlap(posterior.mean, posterior.variance, posterior.mean, posterior.variance)
    stratified = (inner.sum() - inner.trace()) / 6  # the mean over pairs of different data
    truth = closed_form(posterior, prior())
    biased = truth - inner.mean() + stratified
    found = mmd(posterior, prior(), kernel=KERNEL, num_samples=2000, seed=0)
    assert abs(float(found.value - truth)) < 3 * float(found.standard_error)
    assert abs(float(found.value - biased)) > 10 * float(found.standard_error)


def drawn(posterior: Independent, prior: Independent, num_samples: int) -> tuple[Tensor, Tensor]:
    """What a kernel is shown: draws of the aggregate posterior, and of the prior."""
    seen: list[Tensor] = []

    def recording(a: Tensor, b: Tensor) -> Tensor:
        seen.extend((a, b))
        return KERNEL(a, b)

    mmd(posterior, prior, kernel=recording, num_samples=num_samples, seed=0)
    return seen[1], seen[3]


def test_draws_from_the_aggregate_take_every_datum_as_often_as_it_falls() -> None:
    posterior = Independent(Normal(torch.arange(4.0)[:, None] * 100, 1.0), 1)
    z, _ = drawn(posterior, Independent(Normal(torch.zeros(1), 1.0), 1), 400)
    datum = (z / 100).round().squeeze(1).long()
    counts = torch.bincount(datum, minlength=4)
    chi_square = float(((counts - 100.0) ** 2 / 100).sum())
    assert chi_square < 16.3  # three degrees of freedom, one in a thousand
    assert float(counts.double().var()) > 0
    noise = z.squeeze(1) - 100 * datum
    assert len(noise.unique()) == 400
    assert abs(float(noise.mean())) < 4 / math.sqrt(400)
    assert abs(float(noise.var()) - 1) < 4 * math.sqrt(2 / 400)


@pytest.mark.parametrize(("shift", "num_samples"), [(1.0, 30), (2.0, 100)])
def test_two_standard_errors_cover_the_truth(shift: float, num_samples: int) -> None:
    posterior, repeats = encoded(shift=shift), 150
    truth = float(closed_form(posterior, prior()))
    found = [mmd(posterior, prior(), kernel=KERNEL, num_samples=num_samples) for _ in range(repeats)]
    hits = sum(abs(float(each) - truth) < 1.96 * float(each.standard_error) for each in found)
    assert binom.ppf(0.001, repeats, 0.90) <= hits <= binom.ppf(0.999, repeats, 0.99)


def test_where_the_two_agree_errors_are_those_that_are_reported() -> None:
    num_samples, repeats, same = 20, 300, prior().expand([7])
    found = [mmd(same, prior(), kernel=KERNEL, num_samples=num_samples) for _ in range(repeats)]
    values = torch.tensor([float(each) for each in found])
    reported = torch.stack([each.standard_error for each in found]).square().mean().sqrt()
    assert abs(float(values.mean())) < 3.5 * float(values.std()) / math.sqrt(repeats)
    assert 1.1 < float(reported / values.std()) < 1.8  # the second order counts twice in the jackknife
    assert float((values / torch.stack([each.standard_error for each in found])).abs().max()) < 5


@pytest.mark.parametrize("num_samples", [3, 400])  # the latter do not fit at once
def test_all_pairs_of_draws_by_hand(num_samples: int) -> None:
    found = mmd(encoded(), prior(), kernel=KERNEL, num_samples=num_samples, seed=0)
    z, u = drawn(encoded(), prior(), num_samples)
    cross = KERNEL(z, u)
    pairs = KERNEL(z, z) + KERNEL(u, u) - cross - cross.T
    pairs.fill_diagonal_(0.0)
    total, size = pairs.sum(), num_samples
    torch.testing.assert_close(found.value, total / (size * (size - 1)))
    left = (total - 2 * pairs.sum(1)) / ((size - 1) * (size - 2))  # without each draw in turn
    jackknife = (left - left.mean()).square().sum() * (size - 1) / size
    torch.testing.assert_close(found.standard_error, jackknife.sqrt())


def test_gradients_are_those_of_the_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_infomax.information._mmd._PAIRS_AT_ONCE", 8000)
    start = encoded()
    loc = start.base_dist.loc.clone().requires_grad_()
    scale = start.base_dist.scale.clone().requires_grad_()
    width = prior().base_dist.scale.clone().requires_grad_()

    def gradients(evaluate) -> Tensor:
        pair = Independent(Normal(loc, scale), 1), Independent(Normal(torch.zeros(2), width), 1)
        parts = torch.autograd.grad(evaluate(*pair), (loc, scale, width))
        return torch.cat([each.reshape(-1) for each in parts])

    def estimated(posterior: Independent, prior_: Independent) -> Tensor:
        return mmd(posterior, prior_, kernel=KERNEL, num_samples=150).value

    expected = gradients(closed_form)
    found = torch.stack([gradients(estimated) for _ in range(25)])
    error = found.std(0) / math.sqrt(25)
    assert ((found.mean(0) - expected).abs() < 4 * error).all()
    assert float((expected.abs() / error).max()) > 20


def test_gradients_are_kept_only_where_they_are_wanted() -> None:
    loc = torch.zeros(5, 2, requires_grad=True)
    learning = Independent(Normal(loc, 1.0), 1)
    assert mmd(learning, prior(), num_samples=10).value.requires_grad
    assert not mmd(learning, prior(), num_samples=10).standard_error.requires_grad
    with torch.no_grad():
        assert not mmd(learning, prior(), num_samples=10).value.requires_grad
    assert not mmd(encoded(), prior(), num_samples=10).value.requires_grad


def test_an_encoder_in_float32_gets_its_gradient() -> None:
    loc = torch.full((50, 2), 1.0, dtype=torch.float32, requires_grad=True)
    mmd(Independent(Normal(loc, 0.5), 1), prior(), num_samples=200, seed=0).value.backward()
    assert loc.grad is not None
    assert loc.grad.dtype == torch.float32
    assert float(loc.grad.sum()) > 0  # down is towards the prior


def test_a_full_covariance_and_another_kernel_will_do() -> None:
    matrix = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    posterior = MultivariateNormal(torch.zeros(6, 2), matrix)
    same, other = MultivariateNormal(torch.zeros(2), matrix), MultivariateNormal(torch.ones(2) * 3, matrix)
    kernel = InverseMultiquadric(4.0)
    near = mmd(posterior, same, kernel=kernel, num_samples=500, seed=0)
    far = mmd(posterior, other, kernel=kernel, num_samples=500, seed=0)
    assert abs(float(near)) < 4 * float(near.standard_error)
    assert float(far) > 10 * float(far.standard_error)


def test_discrete_codes_count_too() -> None:
    posterior = Independent(Bernoulli(torch.tensor([[0.9], [0.7]])), 1)
    fair = Independent(Bernoulli(torch.tensor([0.5])), 1)
    found = mmd(posterior, fair, kernel=KERNEL, num_samples=1000, seed=0)
    truth = 2 * (0.8 - 0.5) ** 2 * (1 - math.exp(-1 / (2 * 1.5**2)))
    assert abs(float(found) - truth) < 3 * float(found.standard_error)


def test_a_seed_repeats_and_leaves_the_global_state() -> None:
    before = torch.get_rng_state()
    one, other = (float(mmd(encoded(), prior(), num_samples=50, seed=4)) for _ in range(2))
    assert one == other
    assert torch.equal(torch.get_rng_state(), before)
    assert float(mmd(encoded(), prior(), num_samples=50)) != one


@pytest.mark.parametrize("num_samples", [2, -1])
def test_too_few_draws_are_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match=f"Expected num_samples to be an integer >= 3 but got {num_samples}"):
        mmd(encoded(), prior(), num_samples=num_samples)


def test_a_kernel_that_does_not_score_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected a kernel from \(m, d\) and \(n, d\) to \(m, n\) but got"):
        mmd(encoded(), prior(), kernel=lambda a, b: torch.zeros(()), num_samples=10)


def test_a_kernel_without_a_finite_value_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected finite values of the kernel"):
        mmd(encoded(), prior(), kernel=lambda a, b: math.nan * a @ b.T, num_samples=10)
