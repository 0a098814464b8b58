"""Targets in place of weights: floors, capacities, and multipliers that land where theory says."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch.distributions import kl_divergence

from pyro_infomax import decompose, to_arviz
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import (
    BetaELBO,
    CapacityELBO,
    ConstrainedELBO,
    FreeBitsELBO,
    MarginalELBO,
    TraceMeanField_BetaELBO,
)
from pyro_infomax.information import AggregatePosterior
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

EIGENVALUES = [4.0, 2.0, 1.0, 0.5]
S2 = 0.3
N = 96
SILENT = {"progress": False, "seed": 0}


def model(x):
    weight = pyro.param("W", lambda: 0.5 * torch.eye(4))
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight.T, S2**0.5).to_event(1), obs=x)


def guide(x):
    weight = pyro.param("V", lambda: 0.5 * torch.eye(4))
    log_scale = pyro.param("log_scale", lambda: -0.5 * torch.ones(4))
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", dist.Normal(x @ weight.T, log_scale.exp()).to_event(1))


def data(rows=N):
    return LinearGaussian.optimum(EIGENVALUES, 1.0, 4, s2=S2).sample(rows, exact=True, seed=0)


def divergences(x):
    """KL[q(z_j|x_i) ‖ p(z_j)], (batch, latent), with gradients in the guide's parameters."""
    posterior = dist.Normal(x @ pyro.param("V").T, pyro.param("log_scale").exp())
    return kl_divergence(posterior, dist.Normal(torch.zeros(4), 1.0))


def gradients_of(elbo, x):
    """The loss without its distortion, and the gradients of the guide's parameters from that."""
    found = []
    for objective in (elbo, BetaELBO(beta=0.0)):  # which is the distortion alone
        torch.manual_seed(0)
        parameters = [pyro.param(name).unconstrained() for name in ("V", "log_scale")]
        for each in parameters:
            each.grad = None
        loss = objective.loss_and_grads(model, guide, x)
        found.append([torch.tensor(loss), *(each.grad.clone() for each in parameters)])
    return [one - other for one, other in zip(*found, strict=True)]


def assert_cost(elbo, x, expected):
    cost, *gradients = gradients_of(elbo, x)
    value = expected()
    wanted = torch.autograd.grad(value, [pyro.param("V"), pyro.param("log_scale")], allow_unused=True)
    torch.testing.assert_close(cost, value.detach(), rtol=1e-9, atol=1e-9)
    for each, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(each, other if other is not None else torch.zeros_like(each))


@pytest.fixture(autouse=True)
def parameters():
    pyro.clear_param_store()
    x = data(24)
    BetaELBO().loss(model, guide, x)
    with torch.no_grad():
        pyro.param("V").copy_(torch.diag(torch.tensor([0.9, 0.5, 0.2, 0.1])))
        pyro.param("log_scale").copy_(torch.tensor([-1.5, -0.5, -0.1, 0.1]))
    return x


# ---- free nats


@pytest.mark.parametrize("free", [0.0, 0.3, 1.0, 9.0])
def test_free_bits_are_a_floor_under_the_mean_of_each_dimension(parameters, free):
    x = parameters
    elbo = FreeBitsELBO(free)
    assert_cost(elbo, x, lambda: N * divergences(x).mean(0).clamp(min=free).sum())
    each = divergences(x).detach()
    assert elbo.terms.floored_rate == pytest.approx(N * float(each.mean(0).clamp(min=free).sum()))
    assert elbo.terms.rate == pytest.approx(N * float(each.sum(1).mean()))
    # A floor under each datum by itself is another objective
    if 0 < free < 9:
        wrong = N * float(divergences(x).detach().clamp(min=free).mean(0).sum())
        assert wrong > elbo.terms.floored_rate + 0.1


def test_free_bits_of_a_whole_site(parameters):
    x = parameters
    for free in (0.5, 20.0):
        elbo = FreeBitsELBO(free, by="site")
        assert_cost(elbo, x, lambda free=free: N * divergences(x).sum(1).mean().clamp(min=free))


def test_free_bits_in_cells_of_further_plates_are_of_each_cell(parameters):
    def cells(x, *, is_model):
        loc = 0.0 if is_model else x @ torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
        with pyro.plate("data", N, subsample_size=len(x), dim=-2):
            with pyro.plate("cells", 3, dim=-1):
                z = pyro.sample("z", dist.Normal(loc, 1.0))
            if is_model:
                sums = z.sum(-1, keepdim=True)
                pyro.sample(
                    "x", dist.Normal(sums[..., None], 1.0).expand((len(x), 1, 4)).to_event(1), obs=x[:, None]
                )

    x = parameters
    elbo = FreeBitsELBO(1.0)
    elbo.loss(lambda x: cells(x, is_model=True), lambda x: cells(x, is_model=False), x)
    loc = x @ torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    expected = N * (loc**2 / 2).mean(0).clamp(min=1.0).sum()
    assert elbo.terms.floored_rate == pytest.approx(float(expected))


def chain(x):
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.0, 1.0))
        z1 = pyro.sample("z1", dist.Normal(z2, 0.5))
        pyro.sample("x", dist.Normal(z1, 1.0), obs=x)


def turned(x):
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(x / 2, 0.7))
        pyro.sample("z2", dist.Normal(0.8 * z1, 0.5))


def test_free_bits_of_sites_in_another_order_are_sampled_by_dimension_as_by_site():
    x, found = torch.linspace(-1.0, 1.0, 8), []
    for by in ("dimension", "site"):
        torch.manual_seed(0)
        elbo = FreeBitsELBO(0.05, by=by)
        found.append((elbo.loss(chain, turned, x), elbo.terms.floored_rate))
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    torch.manual_seed(0)
    z = pyro.poutine.trace(turned).get_trace(x).nodes
    z1, z2 = z["z1"]["value"], z["z2"]["value"]
    # what p(z1|z2) is given is drawn after z1
    of_z1 = z["z1"]["fn"].log_prob(z1) - dist.Normal(z2, 0.5).log_prob(z1)
    rates = of_z1, kl_divergence(dist.Normal(0.8 * z1, 0.5), dist.Normal(0.0, 1.0))
    expected = 8 * sum(each.mean().clamp(min=0.05) for each in rates)
    assert found[0][1] == pytest.approx(float(expected), rel=1e-12)


def by_auxiliary(x):
    loc, scale = pyro.param("loc", lambda: 0.8 * x), pyro.param("scale", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(loc, scale), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u))


def simple(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_point_mass_of_an_auxiliary_site_has_the_rate_of_both():
    """As in Pyro's AutoNormal, whose latent sites cost −log p(z) alone."""
    x, found = torch.linspace(-1.0, 1.0, 8), []
    pyro.clear_param_store()
    for elbo in (CapacityELBO(0.25, gamma=3.0), TraceMeanField_BetaELBO(beta=3.0)):
        torch.manual_seed(0)
        loss = elbo.loss_and_grads(simple, by_auxiliary, x)
        slopes = [pyro.param(name).grad.clone() for name in ("loc", "scale")]
        pyro.get_param_store().clear()
        found.append((loss, elbo.terms, slopes))
    (loss, terms, slopes), (weighted, plain, expected) = found
    assert terms.rate == plain.rate > 8 * 0.25
    assert terms.capacity_gap == pytest.approx(terms.rate - 8 * 0.25, rel=1e-12)
    assert loss == pytest.approx(weighted - 3 * 8 * 0.25, rel=1e-12)
    for each, other in zip(slopes, expected, strict=True):
        torch.testing.assert_close(each, other, rtol=1e-12, atol=1e-12)
    for by in ("dimension", "site"):
        with pytest.raises(NotImplementedError, match=r"'z' is a point mass .* draws \['u'\] beside it"):
            FreeBitsELBO(0.1, by=by).loss(simple, by_auxiliary, x)

    def scaled(x):
        with pyro.plate("data", len(x)):
            with pyro.poutine.scale(scale=2.0):
                u = pyro.sample("u", dist.Normal(x, 0.1), infer={"is_auxiliary": True})
            pyro.sample("z", dist.Delta(u))

    with pytest.raises(NotImplementedError, match="adds what the guide draws as 'u' to the rate of 'z' but"):
        CapacityELBO(0.25).loss(simple, scaled, x)


# ---- a capacity


@pytest.mark.parametrize("capacity", [0.5, 5.0])
def test_a_capacity_draws_the_rate_from_either_side(parameters, capacity):
    x = parameters
    elbo = CapacityELBO(capacity, gamma=3.0)
    assert_cost(elbo, x, lambda: 3 * N * (divergences(x).sum(1).mean() - capacity).abs())
    gap = abs(float(divergences(x).detach().sum(1).mean()) - capacity)
    assert elbo.terms.capacity_gap == pytest.approx(N * gap)


def test_a_growing_capacity_is_followed_by_ordinary_and_captured_steps(parameters):
    del parameters
    x = data()
    histories, left = [], []
    for kind in (SVI, CapturedSVI):
        pyro.clear_param_store()
        elbo = CapacityELBO(Linear(0.0, 2.0, 60), gamma=20.0)
        svi = kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.03}), elbo)
        histories.append(fit(svi, x, epochs=60, batch_size=32, **SILENT).to_frame().drop(columns="seconds"))
        left.append(pyro.param("V").detach().clone())
    assert svi.captured, svi.reason
    assert histories[0].equals(histories[1])
    assert torch.equal(*left)
    assert histories[0]["rate"].iloc[-1] == pytest.approx(2.0, rel=0.15)
    account = decompose(model, guide, x, seed=0)
    assert float(account.rate.value) == pytest.approx(2.0, rel=0.15)


# ---- a multiplier


@pytest.mark.parametrize(
    ("held", "beta"),
    [("rate", beta) for beta in (0.25, 0.5, 1.0, 2.0, 4.0)] + [("distortion", 1.0), ("distortion", 3.0)],
)
def test_the_multiplier_lands_on_the_slope_of_the_curve(held, beta):
    optimum = LinearGaussian.optimum(EIGENVALUES, beta, 4, s2=S2)
    target = float(getattr(optimum, held))
    pyro.clear_param_store()
    elbo = ConstrainedELBO(**{held: target}, dual_lr=0.05)
    svi = CapturedSVI(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.03}), elbo)
    history = fit(svi, data(), epochs=800, batch_size=None, **SILENT).to_frame().tail(200).mean()
    assert svi.captured, svi.reason
    assert history["multiplier"] == pytest.approx(beta, rel=0.02)
    # held by the distortion, the parameters' noise, which costs distortion, is paid for by some more rate
    assert history["rate"] == pytest.approx(float(optimum.rate), rel=0.01 if held == "rate" else 0.025)
    assert history[held] == pytest.approx(target, rel=0.01)


def test_a_step_of_the_multiplier(parameters):
    x = parameters
    rate = float(divergences(x).detach().sum(1).mean())
    elbo = ConstrainedELBO(rate=1.5, dual_lr=0.2, multiplier=2.0)
    assert_cost(elbo, x, lambda: 2 * N * divergences(x).sum(1).mean())
    assert elbo.multiplier == pytest.approx(2 * math.exp(0.2 * (rate - 1.5) / 2.5))
    assert elbo.terms.multiplier == pytest.approx(2 * N)
    before = elbo.multiplier
    elbo.loss(model, guide, x)
    with torch.no_grad():
        elbo.differentiable_loss(model, guide, x)
    assert elbo.multiplier == before
    assert elbo.terms.loss == pytest.approx(elbo.terms.distortion + before * elbo.terms.rate)
    # too much distortion asks for more rate
    elbo = ConstrainedELBO(distortion=0.1, dual_lr=0.2)
    elbo.differentiable_loss(model, guide, x)
    distortion = elbo.terms.distortion / N
    assert elbo.multiplier == pytest.approx(math.exp(-0.2 * (distortion - 0.1) / 1.1))
    # what is no number moves nothing
    elbo = ConstrainedELBO(distortion=0.1)
    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="Encountered NaN"):
        elbo.loss_and_grads(model, guide, x * math.inf)
    assert elbo.multiplier == 1.0


def made(kind, held, **kwargs):
    pyro.clear_param_store()
    elbo = ConstrainedELBO(**held, dual_lr=0.02)
    return kind(model, guide, FusedOptim(torch.optim.Adam, {"lr": 0.02}), elbo, **kwargs), elbo


@pytest.mark.parametrize("held", [{"rate": 2.0}, {"mutual_information": 2.0}], ids=str)
def test_captured_and_resumed_trainings_are_ordinary_ones(tmp_path, held):
    x = data()  # in batches of 40, 40 and 16

    def train(kind, epochs, **more):
        svi, elbo = made(kind, held)
        history = (
            fit(svi, x, epochs=epochs, batch_size=40, **SILENT, **more).to_frame().drop(columns="seconds")
        )
        state = elbo.state_dict()
        return (
            history,
            [state["log_multiplier"], *state["mixture"].values(), pyro.param("V").detach().clone()],
            svi,
        )

    history, left, _ = train(SVI, 8)
    assert history["multiplier"].nunique() == 8
    captured, ours, svi = train(CapturedSVI, 8)
    assert svi.captured, svi.reason
    assert captured.equals(history)
    train(CapturedSVI, 5, checkpoint=tmp_path / "kept.pt")
    resumed, again, svi = train(CapturedSVI, 8, checkpoint=tmp_path / "kept.pt", resume=True)
    assert svi.captured, svi.reason
    assert resumed.equals(history)
    for each in (ours, again):
        assert all(map(torch.equal, each, left))


@pytest.mark.parametrize("rows", [32, 40])  # which leaves a last minibatch of 16
def test_the_information_of_each_shuffled_epoch_is_that_of_its_exact_mixture(parameters, rows):
    del parameters
    x, seen = data(), []

    def watched(x):
        with pyro.poutine.trace() as tracer:
            guide(x)
        seen.append((x, tracer.trace.nodes["z"]["value"].detach()))

    elbo = ConstrainedELBO(mutual_information=2.0, dual_lr=0.0)
    svi = SVI(model, watched, FusedOptim(torch.optim.SGD, {"lr": 0.0}), elbo)
    fit(svi, x, epochs=5, batch_size=rows, **SILENT)
    assert len(seen) == 15
    assert not torch.equal(seen[0][0], seen[3][0])  # shuffled
    # at the draws of the first minibatch of each epoch, the mixture of all data, each once
    posterior = dist.Normal(x @ pyro.param("V").T, pyro.param("log_scale").exp()).to_event(1)
    prior = dist.Normal(torch.zeros(4), 1.0).to_event(1)
    aggregate, smoothed = AggregatePosterior(posterior), 0.0
    for number, (_, z) in enumerate(seen[::3], start=1):
        found = (aggregate.log_prob(z) - prior.log_prob(z)).mean()
        smoothed += (float(found.detach()) - smoothed) / min(number, 3)
    rate = float(divergences(seen[-1][0]).detach().sum(1).mean())
    assert elbo.terms.mutual_information == pytest.approx(N * (rate - smoothed), rel=1e-9)


def exact_marginal_kl(x, draws=4000):
    """The marginal KL of the aggregate posterior of these data, by draws of it."""
    posterior = dist.Normal(x @ pyro.param("V").T, pyro.param("log_scale").exp()).to_event(1)
    prior = dist.Normal(torch.zeros(4), 1.0).to_event(1)
    with torch.no_grad():
        z = posterior.sample((draws // len(x),)).flatten(0, 1)
        return float((AggregatePosterior(posterior).log_prob(z) - prior.log_prob(z)).mean())


def test_the_mixture_of_an_epoch_follows_batches_of_other_sizes_and_other_data(parameters):
    del parameters
    x = data()
    elbo = ConstrainedELBO(mutual_information=2.0, dual_lr=0.0)

    def epochs(x, rows, number):
        for _ in range(number):
            for part in x[torch.randperm(N)].split(rows):
                elbo.loss_and_grads(model, guide, part)
        return float(elbo._mixture.state_dict()["marginal_kl"])

    # evaluations leave nothing behind
    elbo.loss(model, guide, x[:80])
    assert elbo._mixture.state_dict() == {}
    kl = exact_marginal_kl(x)
    assert epochs(x, 32, 12) == pytest.approx(kl, abs=0.25)
    state = elbo._mixture.state_dict()
    elbo.loss(model, guide, x[:90])
    elbo.loss_and_grads(model, guide, x)  # of all data, which need nothing that is kept
    assert all(torch.equal(each, state[name]) for name, each in elbo._mixture.state_dict().items())
    # another guide, in smaller batches with a last one of a single datum
    with torch.no_grad():
        pyro.param("V").mul_(0.3)
        pyro.param("log_scale").fill_(-2.0)
    assert abs(exact_marginal_kl(x) - kl) > 1
    assert epochs(x, 19, 12) == pytest.approx(exact_marginal_kl(x), abs=0.5)
    # other data, of another number
    elbo.data_size = 40
    with pytest.raises(ValueError, match="Expected data_size=96, the size of the data plate, but got 40"):
        elbo.loss_and_grads(model, guide, x[:20])


def test_a_scale_around_both_programs_is_no_other_target(parameters):
    x = parameters
    for held in ({"rate": 1.5}, {"distortion": 10.0}, {"mutual_information": 1.5}):
        left = []
        for scale in (1.0, 1 / N):
            torch.manual_seed(0)
            elbo = ConstrainedELBO(**held, dual_lr=0.2)
            programs = [pyro.poutine.scale(each, scale=scale) for each in (model, guide)]
            elbo.loss_and_grads(*programs, x)
            left.append(elbo.multiplier)
        assert left[0] == pytest.approx(left[1], rel=1e-12)
    elbo = ConstrainedELBO(distortion=1.0)
    with pytest.raises(NotImplementedError, match="needs the sites of the data plate to count alike"):
        elbo.loss_and_grads(of_two_parts, guide, x)


@pytest.mark.parametrize("held", ["rate", "distortion"])
@pytest.mark.parametrize("is_global", [True, False])
def test_a_datum_has_all_rows_of_plates_that_subsample(held, is_global):
    elbo = ConstrainedELBO(**{held: 0.1}, dual_lr=0.2)
    loss = elbo.loss_and_grads(
        of_subsamples(0.0, is_global), of_subsamples(0.7, is_global, True), torch.ones(4, 2)
    )
    # one latent for all data, or three in each datum, of which two are shown
    rate = 0.7**2 / 2 * (1 if is_global else 3 * N)
    distortion = loss - rate
    excess = (rate / N if held == "rate" else distortion / N) - 0.1
    excess = excess if held == "rate" else -excess
    assert elbo.multiplier == pytest.approx(math.exp(0.2 * excess / 1.1))


def of_subsamples(location, is_global, is_guide=False):
    def program(x):
        rows = pyro.plate("data", N, subsample_size=len(x), dim=-2)
        parts = pyro.plate("parts", 3, subsample_size=2, dim=-1)
        if is_global:
            z = pyro.sample("z", dist.Normal(location, 1.0))
        with rows, parts:
            if not is_global:
                z = pyro.sample("z", dist.Normal(location, 1.0))
            if not is_guide:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    return program


def of_two_parts(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
        with pyro.poutine.scale(scale=2.0):
            pyro.sample("y", dist.Normal(z[..., 0], 1.0), obs=x[..., 0])


def test_information_is_held_where_the_account_finds_it():
    x = data()
    svi, elbo = made(CapturedSVI, {"mutual_information": 2.5})
    history = fit(svi, x, epochs=400, batch_size=32, **SILENT).to_frame().tail(100).mean()
    account = decompose(model, guide, x, num_samples=20, seed=0)
    assert history["mutual_information"] == pytest.approx(2.5, rel=0.02)
    spread = 2 * float(account.mutual_information.standard_error)
    # which is of the last parameters, that wander about the mean
    assert float(account.mutual_information.value) == pytest.approx(2.5, abs=0.1 + spread)
    assert 0.3 < elbo.multiplier < 3
    assert "z" in to_arviz(model, guide, x, num_samples=5, seed=0).posterior


# ---- what is refused


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "a target for one of rate, distortion, mutual_information but got none"),
        ({"rate": 1.0, "distortion": 2.0}, "but got {'rate': 1.0, 'distortion': 2.0}"),
        ({"rate": 0.0}, "rate to be a finite number > 0"),
        ({"mutual_information": math.nan}, "mutual_information to be a finite number > 0"),
        ({"distortion": math.inf}, "distortion to be a finite number"),
        ({"rate": 1.0, "dual_lr": -1}, "dual_lr to be a finite number >= 0"),
        ({"rate": 1.0, "multiplier": 0}, "multiplier to be a finite number > 0"),
    ],
)
def test_bad_targets_are_explained(given, sentence):
    with pytest.raises(ValueError, match=f"Expected .*{sentence}"):
        ConstrainedELBO(**given)


def test_bad_floors_and_capacities_are_explained(parameters):
    x = parameters
    with pytest.raises(ValueError, match="one free for all sites but got one by site"):
        FreeBitsELBO({"z": 1.0})
    with pytest.raises(ValueError, match="capacity >= 0"):
        CapacityELBO(-1.0)
    with pytest.raises(ValueError, match="by to be 'dimension' or 'site' but got 'cell'"):
        FreeBitsELBO(1.0, by="cell")

    def joint(x):
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.MultivariateNormal(torch.zeros(4), torch.eye(4)))

    with pytest.raises(NotImplementedError, match=r"no product of univariate .* by='site'"):
        FreeBitsELBO(1.0).loss(model, joint, x)

    def masked(program):
        return pyro.poutine.mask(program, mask=torch.arange(len(x)) < 3)

    for elbo in (FreeBitsELBO(1.0), CapacityELBO(1.0), ConstrainedELBO(mutual_information=1.0, data_size=N)):
        with pytest.raises(NotImplementedError, match="'z' is masked"):
            elbo.loss(masked(model), masked(guide), x)

    # what counts by datum is neither a mean over the minibatch nor one over the data
    def scaled(program):
        return pyro.poutine.scale(program, scale=torch.arange(1.0, len(x) + 1))

    for elbo in (FreeBitsELBO(1.0), CapacityELBO(1.0), ConstrainedELBO(mutual_information=1.0, data_size=N)):
        with pytest.raises(NotImplementedError, match=r"scale of shape .* by datum, .* use BetaELBO"):
            elbo.loss(scaled(model), scaled(guide), x)


def test_a_capacity_for_a_part_of_the_latents_is_refused():
    def part(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("cells", 6, subsample_size=2, dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def part_of_guide(x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("cells", 6, subsample_size=2, dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 0.5))

    sentence = "plate 'cells' around the latent site 'z' subsamples.* take all of its rows"
    for elbo in (CapacityELBO(1.0), MarginalELBO(data_size=4)):
        with pytest.raises(NotImplementedError, match=sentence):
            elbo.loss(part, part_of_guide, torch.randn(4, 2))


def on(device):
    zeros, ones = torch.zeros(4, device=device), torch.ones(4, device=device)

    def model(x):
        with pyro.plate("data", N, subsample_size=len(x), device=device):
            z = pyro.sample("z", dist.Normal(zeros, ones).to_event(1))
            pyro.sample("x", dist.Normal(z, ones).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", N, subsample_size=len(x), device=device):
            pyro.sample("z", dist.Normal(x / 2, ones).to_event(1))

    return model, guide


def test_the_mixture_follows_the_draws_to_their_device():
    """As after a resume on an accelerator, whose checkpoint was read on the CPU."""
    elbo, x = ConstrainedELBO(mutual_information=2.0), data(24)
    elbo.loss_and_grads(*on("cpu"), x)
    elbo.load_state_dict(elbo.state_dict())
    with pyro.validation_enabled(False):
        found = elbo.surrogate(*on("meta"), x.to("meta"))
    devices = {name: each.device.type for name, each in elbo.state_dict()["mixture"].items()}
    assert set(devices.values()) == {"meta"}
    assert found.terms["mutual_information"].device.type == "meta"


def test_a_state_of_another_objective_is_refused():
    elbo = ConstrainedELBO(rate=1.0)
    with pytest.raises(ValueError, match=r"keys \['log_multiplier', 'mixture', 'step'\] but got \['step'\]"):
        elbo.load_state_dict({"step": 3})
