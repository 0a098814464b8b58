"""Draws of the posterior from draws of the guide: what they are, and for which data they cannot be used."""

import math

import arviz as az
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_infomax.diagnostics import Pair, ResampledPosterior, ScoredDraws, resample
from pyro_infomax.oracles import LinearGaussian

close = torch.testing.assert_close
PAIR = LinearGaussian(
    [4.0, 2.0, 1.0], [[1.0, 0.3], [0.5, 0.8], [0.2, -0.4]], 0.5, torch.zeros(2, 3), [1.0, 1.0]
)
PRECISION = torch.eye(2, dtype=torch.float64) + PAIR.W.T @ PAIR.W / PAIR.s2
EXACT = torch.linalg.inv(PRECISION)  # the posterior's covariance, of correlated latents
WEIGHTS = EXACT @ PAIR.W.T / PAIR.s2


def guide_of(factor: float, shift: float = 0.0) -> LinearGaussian:
    """A diagonal guide: the posterior's own marginal scales times a factor, its means less a share."""
    diagonal = torch.diag(EXACT.diagonal() * factor**2)
    return LinearGaussian(PAIR.S, PAIR.W, PAIR.s2, WEIGHTS * (1 - shift), diagonal)


def found(pair: LinearGaussian, x: Tensor, seed: int = 0, **options: int) -> ResampledPosterior:
    return resample(pair.model, pair.guide, x, seed=seed, **options)


def test_moments_and_draws_are_those_of_the_conjugate_posterior() -> None:
    pair = guide_of(1.2, shift=0.1)
    x = pair.sample(40, seed=0)
    resampled = found(pair, x, num_samples=2000, num_draws=300)
    assert not len(resampled.unreliable)
    mean, scale = x @ WEIGHTS.T, EXACT.diagonal().sqrt()
    error = resampled.standard_error["z"]
    standardised = (resampled.mean["z"] - mean) / error
    assert 0.75 < standardised.square().mean().sqrt() < 1.25
    assert (resampled.mean["z"] - mean).abs().mean() < 0.03 * scale.min()
    close((resampled.standard_deviation["z"] / scale).mean(0), torch.ones(2), rtol=0, atol=0.01)
    assert (resampled.standard_deviation["z"] / scale - 1).abs().mean() < 0.03
    # the correlation between dimensions, which the guide has not
    away = resampled.draws["z"] - mean
    close(torch.einsum("dni,dnj->ij", away, away) / away[..., 0].numel(), EXACT, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_an_exact_guide_keeps_all_of_its_draws(shift: float) -> None:
    exact = LinearGaussian(PAIR.S, PAIR.W, PAIR.s2, WEIGHTS * (1 - shift), EXACT)
    resampled = found(exact, exact.sample(6, seed=0), num_samples=200, num_draws=200)
    if shift:
        assert (resampled.num_distinct < 200).all()
    else:
        assert (resampled.pareto_k == -math.inf).all()
        assert (resampled.num_distinct == 200).all()
        close(resampled.effective_sample_size, torch.full((6,), 200.0))


def test_a_narrow_guide_is_named_and_said_to_be_useless() -> None:
    pair = guide_of(0.3)
    resampled = found(pair, pair.sample(30, seed=0), num_samples=300)
    named = resampled.unreliable.tolist()
    assert len(named) > 20
    assert named == [n for n, k in enumerate(resampled.pareto_k) if k > 1 - 1 / math.log10(300)]
    frame = resampled.to_frame()
    assert frame.index[~frame["reliable"]].tolist() == named
    text = str(resampled)
    assert f"above 0.60 for {len(named)} of 30 data: {named[0]}, " in text
    assert "cannot be relied on" in text
    good = found(guide_of(1.2), pair.sample(30, seed=0), num_samples=300)
    assert "the draws can be used" in str(good)


@pytest.mark.skipif(not hasattr(az, "psislw"), reason="ArviZ 1 has no psislw")
@pytest.mark.parametrize("num_samples", [30, 600])
def test_weights_are_smoothed_as_by_arviz(num_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    score = Pair.score

    def recorded(self: Pair, z: Tensor) -> ScoredDraws:
        scored = score(self, z)
        seen.append((z, scored.log_weight))
        return scored

    monkeypatch.setattr(Pair, "score", recorded)
    pair = guide_of(0.5)
    resampled = found(pair, pair.sample(8, seed=0), num_samples=num_samples)
    z, log_weights = (torch.cat(each) for each in zip(*seen, strict=True))
    smooth, k = az.psislw(log_weights.T.numpy())
    w = torch.from_numpy(smooth).T.exp()[..., None]
    # the two leave out other negligible weights of the fit
    close(resampled.pareto_k, torch.from_numpy(k), rtol=0, atol=1e-6)
    mean = (w * z).sum(0)
    close(resampled.mean["z"], mean, rtol=1e-5, atol=1e-6)
    close(resampled.standard_deviation["z"], (w * (z - mean) ** 2).sum(0).sqrt(), rtol=1e-5, atol=1e-6)
    close(resampled.standard_error["z"], (w**2 * (z - mean) ** 2).sum(0).sqrt(), rtol=1e-5, atol=1e-6)
    close(resampled.effective_sample_size, 1 / w.squeeze(-1).square().sum(0), rtol=1e-5, atol=0)


def switch(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        c = pyro.sample("c", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(2 * c, 1.0), obs=x)


def coin(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("c", dist.Bernoulli(0.5 + 0 * x))


def test_draws_of_a_discrete_site_have_its_shares() -> None:
    x = torch.tensor([-1.0, 0.5, 3.0])
    resampled = resample(switch, coin, x, num_samples=2000, num_draws=500, seed=0)
    odds = 0.3 / 0.7 * (2 * x - 2).exp()
    share = odds / (1 + odds)
    error = resampled.standard_error["c"]
    assert ((resampled.mean["c"] - share).abs() < 4 * error).all()
    close(resampled.standard_deviation["c"], (resampled.mean["c"] * (1 - resampled.mean["c"])).sqrt())
    # systematic: the share of ones among the draws is their weight but for the teeth at each proposal
    assert ((resampled.draws["c"].mean(0) - resampled.mean["c"]).abs() < 5 * 0.5 / 500**0.5).all()
    assert resampled.to_arviz()["posterior"]["c"].dtype.kind == "i"


def test_no_proposal_comes_more_often_than_its_weight_rounded_up() -> None:
    pair = guide_of(1.5, shift=0.2)
    x = pair.sample(10, seed=0)
    resampled = found(pair, x, num_samples=100, num_draws=1000)
    for n in range(10):
        _, counts = resampled.draws["z"][:, n].unique(dim=0, return_counts=True)
        assert len(counts) == resampled.num_distinct[n]
        # sum of w² lies within what counts of D w, rounded either way, allow
        low, high = ((counts + d).clamp(min=0).double().square().sum() / 1000**2 for d in (-1, 1))
        assert low <= 1 / resampled.effective_sample_size[n] <= high + 100 / 1000**2


def test_sites_that_depend_on_each_other_are_resampled_together() -> None:
    def chain(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            b = pyro.sample("b", dist.Normal(a, 1.0))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def apart(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Normal(2 * x / 3, 1.0))
            pyro.sample("a", dist.Normal(x / 3, 1.0))

    x = torch.linspace(-1, 2, 30)
    resampled = resample(chain, apart, x, num_samples=1000, num_draws=200, seed=0)
    z = {name: resampled.draws[name] - mean for name, mean in (("a", x / 3), ("b", 2 * x / 3))}
    # of the joint Normal given x: covariance 1/3, variances 2/3
    close((z["a"] * z["b"]).mean(), torch.tensor(1 / 3), rtol=0, atol=0.05)
    close((z["a"] ** 2).mean(), torch.tensor(2 / 3), rtol=0, atol=0.06)
    frame = resampled.moments()
    assert frame.loc[(29, "a"), "mean"] == float(resampled.mean["a"][29])
    assert frame.loc[(29, "b"), "standard_deviation"] == float(resampled.standard_deviation["b"][29])


def test_what_a_mask_leaves_out_is_nan() -> None:
    def model(x: Tensor, present: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("t", 3, dim=-1), poutine.mask(mask=present):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor, present: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-2), pyro.plate("t", 3, dim=-1), poutine.mask(mask=present):
            pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))

    x, present = torch.randn(5, 3), torch.arange(3) < torch.arange(5)[:, None]
    resampled = resample(model, guide, (x, present), num_samples=30, num_draws=4, seed=0)
    for values in (resampled.draws, resampled.mean, resampled.standard_deviation, resampled.standard_error):
        assert torch.equal(values["z"].isnan(), (~present).expand_as(values["z"]))
    assert resampled.to_frame()["reliable"].all()


def test_what_the_model_enumerates_is_drawn_given_the_rest() -> None:
    means = torch.tensor([-2.0, 2.0])

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[c], 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.5))

    x = torch.tensor([-1.0, 0.0, 1.0])
    resampled = resample(model, guide, x, num_samples=1000, num_draws=200, seed=0)
    log_odds = math.log(1.5) + dist.Normal(2.0, 2**0.5).log_prob(x) - dist.Normal(-2.0, 2**0.5).log_prob(x)
    close(resampled.draws["c"].double().mean(0), log_odds.sigmoid(), rtol=0, atol=0.12)
    assert set(resampled.mean) == {"z"}


def test_posteriors_are_given_the_global_latents() -> None:
    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.5, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + loc) / 2, 0.5**0.5))

    x = torch.tensor([0.0, 2.0])
    for given, loc in ((None, 0.5), ({"loc": 2.0}, 2.0)):
        resampled = resample(model, guide, x, num_samples=100, global_values=given, seed=0)
        assert ((resampled.mean["z"] - (x + loc) / 2).abs() < 5 * resampled.standard_error["z"]).all()
        assert (resampled.pareto_k == -math.inf).all()
        assert "given the global latents" in str(resampled)


def test_seeds_isolate_and_repeat() -> None:
    pair = guide_of(1.3)
    x = pair.sample(5, seed=0)
    state = torch.get_rng_state()
    one, other, third = (found(pair, x, seed, num_samples=50, num_draws=7) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.draws["z"], other.draws["z"])
    assert not torch.equal(one.draws["z"], third.draws["z"])


def test_arviz_gets_draws_and_their_worth() -> None:
    pair = guide_of(1.3)
    resampled = found(pair, pair.sample(5, seed=0), num_samples=50, num_draws=7)
    native = resampled.to_arviz(dims={"z": ["axis"]}, coords={"datum": list("abcde")})
    assert dict(native["posterior"]["z"].sizes) == {"chain": 1, "draw": 7, "datum": 5, "axis": 2}
    assert native["posterior"]["datum"].values.tolist() == list("abcde")
    close(torch.tensor(native["posterior"]["z"].values[0]), resampled.draws["z"])
    importance = native["importance"]
    assert importance["pareto_k"].values.tolist() == resampled.pareto_k.tolist()
    assert importance.attrs["num_samples"] == 50
    with pytest.raises(ValueError, match="nothing is called"):
        resampled.to_arviz(dims={"y": ["axis"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 20}, "num_samples to be an integer >= 21"),
        ({"num_draws": 0}, "num_draws to be an integer >= 1"),
        ({"num_draws": 2.5}, "num_draws"),
    ],
)
def test_wrong_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        found(PAIR, torch.zeros(2, 3), **options)


def test_data_that_the_model_cannot_have_are_named() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Uniform(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z, z + 1, validate_args=False), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Uniform(0 * x, 1.0))

    with pytest.raises(ValueError, match="for 1 of 3 data all weights are zero, the first in row 1"):
        resample(model, guide, torch.tensor([0.5, 3.0, 1.5]), num_samples=50)


def test_a_guide_that_is_sure_of_one_value_is_not_taken_for_exact() -> None:
    shares = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(shares))
            pyro.sample("x", dist.Normal(k.double(), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        sure = torch.tensor([[1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Categorical(sure))

    resampled = resample(model, guide, torch.zeros(2, dtype=torch.float64), num_samples=100, seed=0)
    assert resampled.pareto_k.isnan().tolist() == [True, False]
    assert resampled.unreliable.tolist() == [0]
    assert resampled.to_frame()["reliable"].tolist() == [False, True]
    assert "not known for 1 of 2 data, 0, all of whose proposals are one value" in str(resampled)
    assert "can be used" not in str(resampled)
