"""The aggregate posterior matched by a kernel, by slices and by its covariance: value, gradient, optimum."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from scipy.optimize import minimize
from scipy.stats import beta, norm

from pyro_infomax import decompose, to_arviz
from pyro_infomax.capture import CapturedSVI, FusedOptim
from pyro_infomax.infer import DIPELBO, MMDELBO, SlicedWassersteinELBO, mmd_vae, wae
from pyro_infomax.information import RBF, InverseMultiquadric
from pyro_infomax.oracles import LinearGaussian
from pyro_infomax.schedules import Linear
from pyro_infomax.training import fit

D, N = 2, 6
X = torch.tensor(
    [[1.0, -0.5], [-1.2, 0.3], [0.4, 1.6], [-0.3, -1.1], [1.5, 0.9], [-1.9, 0.2]], dtype=torch.float64
)
A = torch.tensor([[0.5, 0.2], [-0.3, 0.6]], dtype=torch.float64)
LOG_SCALE = torch.tensor([-0.2, 0.0], dtype=torch.float64)
PRIOR_SCALE = 1.3
NONE = {"rate": 0.0, "distortion": 0.0}


def model(x, prior=None):
    with pyro.plate("data", N, subsample_size=len(x)):
        prior = prior or dist.Normal(torch.zeros(D), PRIOR_SCALE).to_event(1)
        z = pyro.sample("z", prior)
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def encoded(x):
    loc, scale = x @ pyro.param("a", A.clone()), pyro.param("log_scale", LOG_SCALE.clone()).exp()
    return dist.Normal(loc, scale.expand(loc.shape)).to_event(1)


def guide(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", encoded(x))


def slopes(loss, leaves):
    return torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)


def gradients(loss):
    store = pyro.get_param_store()
    return slopes(loss, [store[name].unconstrained() for name in ("a", "log_scale")])


def seeded(elbo, x, model=model, guide=guide):
    torch.manual_seed(0)
    return elbo.differentiable_loss(model, guide, x)


# ---- By hand, at the draws.


def two_draws(x):
    """Two draws of each datum's code, and one of the prior for each, as a step makes them."""
    torch.manual_seed(0)
    trace = poutine.trace(guide).get_trace(x)
    z, again = trace.nodes["z"]["value"], trace.nodes["z"]["fn"].rsample()
    return z, again, dist.Normal(torch.zeros(D), PRIOR_SCALE).rsample((len(x),))


def mmd_by_hand(x, k, variant="right"):
    z, again, u = two_draws(x)
    rows = range(len(x))
    pairs = [(i, j) for i in rows for j in rows if i != j]
    same = sum(k(z[i], again[i]) for i in rows) / len(x)
    others = sum(k(z[i], again[j]) for i, j in pairs) / len(pairs)
    of_u = sum(k(u[i], u[j]) for i, j in pairs) / len(pairs)
    cross = sum(k(z[i], u[j]) for i in rows for j in rows) / len(x) ** 2
    if variant == "diagonal":
        return sum(k(z[i], z[j]) + k(u[i], u[j]) for i in rows for j in rows) / len(x) ** 2 - 2 * cross
    return same / N + others * (1 - 1 / N) + of_u - 2 * cross


def rbf(a, b):
    return (-(a - b).square().sum() / (2 * 1.5**2)).exp()


def rbf_over_the_wrong_axis(a, b):
    """The mean over latents where the sum belongs."""
    return (-(a - b).square().mean() / (2 * 1.5**2)).exp()


def multiquadric(a, b):
    """The default: of scale 2d, at seven multiples of it."""
    square = (a - b).square().sum()
    return sum(each * 2 * D / (each * 2 * D + square) for each in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))


@pytest.mark.parametrize(("kernel", "by_hand"), [(RBF(1.5), rbf), (None, multiquadric)])
def test_the_discrepancy_is_that_of_all_pairs_of_draws_with_the_plates_scale(kernel, by_hand):
    elbo = MMDELBO(mmd=7.0, kernel=kernel, **NONE)
    loss = seeded(elbo, X[:4])
    right = N * mmd_by_hand(X[:4], by_hand)
    torch.testing.assert_close(elbo.terms.mmd, float(right.detach()))
    torch.testing.assert_close(loss, 7 * right)
    for one, other in zip(gradients(loss), gradients(7 * right), strict=True):
        torch.testing.assert_close(one, other)
    for wrong in (mmd_by_hand(X[:4], by_hand, "diagonal"), mmd_by_hand(X[:4], rbf_over_the_wrong_axis)):
        assert abs(float(wrong.detach()) * N - elbo.terms.mmd) > 0.05


def test_slices_sort_the_draws_along_directions():
    elbo = SlicedWassersteinELBO(sliced_wasserstein=3.0, num_projections=5, **NONE)
    loss = seeded(elbo, X[:4])
    torch.manual_seed(0)
    z = poutine.trace(guide).get_trace(X[:4]).nodes["z"]["value"]
    u = dist.Normal(torch.zeros(D), PRIOR_SCALE).rsample((4,))
    directions = torch.randn(D, 5)
    directions = directions / directions.square().sum(0).sqrt()
    best = []
    for direction in directions.T:  # the least over all couplings, which are permutations
        cost = ((z @ direction)[:, None] - u @ direction).square()
        best.append(min(sum(cost[i, p[i]] for i in range(4)) / 4 for p in itertools.permutations(range(4))))
    right = N * sum(best) / 5
    torch.testing.assert_close(elbo.terms.sliced_wasserstein, float(right.detach()))
    for one, other in zip(gradients(loss), gradients(3 * right), strict=True):
        torch.testing.assert_close(one, other)


def test_a_learned_prior_has_its_gradient():
    def learned(x):
        return model(
            x, dist.Normal(torch.zeros(D), pyro.param("width", torch.tensor([0.8, 1.2]))).to_event(1)
        )

    def by_hand(z, again, u, width):
        u = u / PRIOR_SCALE * width
        k = RBF(1.5)
        off = ~torch.eye(4, dtype=torch.bool)
        of_posterior = k(z, again).diagonal().mean() / N + k(z, again)[off].mean() * (1 - 1 / N)
        return of_posterior + k(u, u)[off].mean() - 2 * k(z, u).mean()

    loss = seeded(MMDELBO(mmd=1.0, kernel=RBF(1.5), **NONE), X[:4], learned)
    width = pyro.param("width")
    (found,), (right,) = (slopes(each, [width]) for each in (loss, N * by_hand(*two_draws(X[:4]), width)))
    torch.testing.assert_close(found, right)
    assert (found.abs() > 1e-3).all()


# ---- Covariances.

PAIR = {
    "S": [[2.0, 0.4], [0.4, 1.0]],
    "W": [[1.0, 0.2], [0.3, 1.0]],
    "s2": 1.0,
    "V": [[0.5, 0.3], [-0.1, 0.6]],
}
DELTAS = {"diagonal": [0.6, 0.4], "full": [[0.6, 0.2], [0.2, 0.5]]}


def penalties(covariance):
    squares = (covariance - torch.eye(D)).square()
    return {"off_diagonal": squares.sum() - squares.trace(), "diagonal": squares.trace()}


@pytest.mark.parametrize("delta", DELTAS.values(), ids=DELTAS)
@pytest.mark.parametrize("covariance", ["means", "aggregate"])
@pytest.mark.parametrize("term", ["off_diagonal", "diagonal"])
def test_of_all_data_the_penalties_are_those_of_the_linear_pair(term, covariance, delta):
    v, delta = (torch.tensor(each, requires_grad=True) for each in (PAIR["V"], delta))
    pair = LinearGaussian(**{**PAIR, "V": v}, Delta=delta)
    weights = {"off_diagonal": 0.0, "diagonal": 0.0, term: 2.0}
    elbo = DIPELBO(**weights, covariance=covariance, data_size=9, **NONE)
    x = pair.sample(9, exact=True)
    loss = elbo.differentiable_loss(pair.model, pair.guide, x)
    of_means = pair.V @ pair.S @ pair.V.T
    right = penalties(of_means if covariance == "means" else of_means + pair.Delta)
    for name, value in right.items():
        assert elbo.terms[name] / 9 == pytest.approx(float(value.detach()), abs=1e-9)
    for one, other in zip(*(slopes(each, (v, delta)) for each in (loss / 9, 2 * right[term])), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    mean = x @ pair.V.T.detach()
    over_latents = mean - mean.mean(1, keepdim=True)  # PyTorch-VAE
    wrong = penalties(over_latents.T @ over_latents / 9 + (covariance == "aggregate") * pair.Delta.detach())
    assert abs(float(wrong[term]) - float(right[term].detach())) > 0.01


@pytest.mark.parametrize("covariance", ["means", "aggregate"])
@pytest.mark.parametrize("size", [4, 5])
def test_over_all_minibatches_squares_of_covariances_have_no_bias(size, covariance):
    leaves = [pyro.param("a", A.clone()), pyro.param("scale", 0.3 + 0.2 * X.square())]

    def within(x):
        rows = [int(row) for row in (x[:, None] == X).all(-1).nonzero()[:, 1]]
        with pyro.plate("data", N, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x @ pyro.param("a"), pyro.param("scale")[rows]).to_event(1))

    elbo = DIPELBO(off_diagonal=3.0, diagonal=1.0, covariance=covariance, **NONE)
    batches = [list(each) for each in itertools.combinations(range(N), size)]
    found = sum(elbo.differentiable_loss(standard, within, X[each]) for each in batches) / len(batches) / N

    def covariance_of(rows, correction=0):
        z = X[rows] @ leaves[0]
        noise = leaves[1][rows].square().mean(0).diag() if covariance == "aggregate" else 0.0
        return z.T.cov(correction=correction) + noise

    def loss_of(found):
        return 3 * found["off_diagonal"] + found["diagonal"]

    right = loss_of(penalties(covariance_of(range(N))))
    torch.testing.assert_close(found, right, rtol=0, atol=1e-10)
    for one, other in zip(slopes(found, leaves), slopes(right, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    for correction in (0, 1):  # the square of a minibatch's covariance, as published
        plain = sum(loss_of(penalties(covariance_of(each, correction))) for each in batches) / len(batches)
        assert abs(float((plain - right).detach())) > 1e-4


def standard(x):
    return model(x, dist.Normal(torch.zeros(D), 1.0).to_event(1))


# ---- The optimum of each on the linear pair.


def expected_products(size):
    """(E ε_(i))² of sorted standard normal draws, on average."""
    t = torch.linspace(-9, 9, 4001).numpy()
    density = [beta.pdf(norm.cdf(t), i, size - i + 1) * norm.pdf(t) for i in range(1, size + 1)]
    return float(torch.tensor([(t * each).sum() * (t[1] - t[0]) for each in density]).square().mean())


def mmd_of_normals(pair):
    def overlap(variance):
        return 1.5 / (1.5**2 + variance).sqrt()

    c = pair.C.squeeze()
    return overlap(2 * c) + overlap(torch.tensor(2.0)) - 2 * overlap(1 + c)


def slices_of_normals(pair):
    c = pair.C.squeeze()
    return c + 1 - 2 * expected_products(ROWS) * c.sqrt()


def means_of_normals(pair):
    return ((pair.V @ pair.S @ pair.V.T).squeeze() - 1).square()


ROWS = 32
MANY = 10**12  # so that the data are draws of a population
OBJECTIVES = {
    "kernel": (lambda: MMDELBO(mmd=15.0, rate=0.5, kernel=RBF(1.5), data_size=MANY), 15.0, mmd_of_normals),
    "slices": (
        lambda: SlicedWassersteinELBO(sliced_wasserstein=2.0, rate=0.5, num_projections=1),
        2.0,
        slices_of_normals,
    ),
    "covariance": (
        lambda: DIPELBO(diagonal=1.0, rate=0.5, data_size=MANY),
        1.0,
        lambda pair: (pair.C.squeeze() - 1).square(),
    ),
    "means": (
        lambda: DIPELBO(diagonal=0.3, covariance="means", rate=0.5, data_size=MANY),
        0.3,
        means_of_normals,
    ),
}


def linear_pair(v, log_delta):
    """With a decoder that asks for another q(z) than the prior, or D + β R alone would make it N(0, 1)."""
    return LinearGaussian(S=[2.0], W=[[0.4]], s2=0.3, V=v.reshape(1, 1), Delta=log_delta.exp().reshape(1))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_vanishes_where_the_closed_form_is_least(objective):
    make, weight, discrepancy = OBJECTIVES[objective]

    def loss_of(leaves):
        pair = linear_pair(*leaves)
        return pair.distortion + 0.5 * pair.rate + weight * discrepancy(pair)

    def evaluated(point):
        leaves = torch.tensor(point, requires_grad=True)
        loss = loss_of(leaves)
        return loss.item(), torch.autograd.grad(loss, leaves)[0].numpy()

    best = minimize(evaluated, [0.6, -0.7], jac=True, tol=1e-9)
    leaves, elbo, repeats = torch.tensor(best.x, requires_grad=True), make(), 80
    found = []
    for _ in range(repeats):
        pair = linear_pair(*leaves)
        loss = elbo.differentiable_loss(pair.model, pair.guide, pair.sample(ROWS)) / ROWS
        found.append(torch.autograd.grad(loss, leaves)[0])
    found = torch.stack(found)
    error = found.std(0) / math.sqrt(repeats)
    assert (found.mean(0).abs() < 4 * error).all()
    # Distortion and rate pull, and it is the discrepancy that holds q(z) there
    pair = linear_pair(*leaves)
    of_others = torch.autograd.grad(pair.distortion + 0.5 * pair.rate, leaves)[0]
    assert (of_others.abs() > 5 * error).any()


# ---- Several sites, codes without noise, and what is refused.


def model_of_sites(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.3], [0.3, 2.0]])))
        pyro.sample("x", dist.Normal(a[:, None] + b, 1.0).to_event(1), obs=x)


def guide_of_sites(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("a", dist.Normal(x[:, 0], 0.6))
        root = torch.tensor([[0.5, 0.0], [0.1, 0.4]])
        pyro.sample("b", dist.MultivariateNormal(x @ A, scale_tril=root))


def test_several_sites_are_one_vector():
    elbo = DIPELBO(data_size=N)
    elbo.loss(model_of_sites, guide_of_sites, X)
    root = torch.tensor([[0.5, 0.0], [0.1, 0.4]])
    noise = torch.block_diag(torch.tensor([[0.36]]), root @ root.T)
    target = torch.block_diag(torch.eye(1), torch.tensor([[1.0, 0.3], [0.3, 2.0]]))
    covariance = torch.cat([X[:, :1], X @ A], 1).T.cov(correction=0) + noise
    squares = (covariance - target).square()
    assert elbo.terms.diagonal / N == pytest.approx(float(squares.trace()))
    assert elbo.terms.off_diagonal / N == pytest.approx(float(squares.sum() - squares.trace()))
    for other in (MMDELBO(), SlicedWassersteinELBO()):
        other.loss(model_of_sites, guide_of_sites, X[:4])


def test_a_student_and_a_mixture_have_covariances_of_their_own():
    root, df = (
        torch.tensor([[0.5, 0.0], [0.3, 0.4]], requires_grad=True),
        torch.tensor(5.0, requires_grad=True),
    )
    apart = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    prior = dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Normal(apart, 0.8).to_event(1))

    def heavy(x):
        with pyro.plate("data", N):
            pyro.sample("z", dist.MultivariateStudentT(df, x @ A, root))

    elbo = DIPELBO(off_diagonal=3.0, diagonal=1.0, data_size=N, **NONE)
    loss = elbo.differentiable_loss(lambda x: model(x, prior), heavy, X) / N

    def penalty(within):
        target = 0.64 * torch.eye(D) + apart.T.cov(correction=0)
        squares = ((X @ A).T.cov(correction=0) + within - target).square()
        return 3 * squares.sum() - 2 * squares.trace()

    right = penalty(df / (df - 2) * root @ root.T)
    torch.testing.assert_close(loss, right)
    torch.testing.assert_close(slopes(loss, [root, df]), slopes(right, [root, df]))
    assert abs(loss - penalty(root @ root.T)) > 0.1  # by Pyro's covariance_matrix


def pointed(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", dist.Delta(x @ pyro.param("a", A.clone())).to_event(1))


def test_codes_without_noise_are_taken_as_they_are():
    elbo = wae(5.0, kernel=RBF(1.5), data_size=N)
    loss = elbo.loss(model, pointed, X)
    torch.testing.assert_close(loss, elbo.terms.distortion + 5 * elbo.terms.mmd)
    z = X @ A
    elbo = MMDELBO(kernel=RBF(1.5), data_size=N, **NONE)
    torch.manual_seed(0)
    elbo.loss(model, pointed, X)
    torch.manual_seed(0)
    u = PRIOR_SCALE * torch.randn(N, D)
    k = RBF(1.5)
    right = k(z, z).mean() + (k(u, u).sum() - N) / (N * (N - 1)) - 2 * k(z, u).mean()
    assert elbo.terms.mmd / N == pytest.approx(float(right))
    dip = DIPELBO(covariance="means", data_size=N)
    dip.loss(standard, pointed, X)
    assert dip.terms.diagonal / N == pytest.approx(float(penalties(z.T.cov(correction=0))["diagonal"]))


def chained(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        a = pyro.sample("a", dist.Normal(x[:, 0], 0.6))
        pyro.sample("b", dist.Normal(x @ A + a[:, None], 1.0).to_event(1))


def hidden(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(x @ A + noise[:, None]).to_event(1))


def discrete(x):
    with pyro.plate("data", N, subsample_size=len(x)):
        pyro.sample("z", dist.Bernoulli(x.sigmoid()).to_event(1))


def test_second_draws_that_cannot_be_had_are_refused():
    with pytest.raises(NotImplementedError, match=r"draws 'b' given \['a'\]"):
        MMDELBO().loss(model_of_sites, chained, X[:4])
    with pytest.raises(NotImplementedError, match=r"sites it does not show, \['z'\]"):
        MMDELBO().loss(model, hidden, X[:4])
    # What compares single draws takes both
    SlicedWassersteinELBO().loss(model_of_sites, chained, X[:4])
    SlicedWassersteinELBO().loss(model, hidden, X[:4])


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("elbo", [MMDELBO(), SlicedWassersteinELBO(), DIPELBO()])
def test_other_programs_are_refused(elbo, validate):
    def learned(x):
        logits = pyro.param("logits", torch.zeros(2))
        parts = dist.Normal(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), 1.0).to_event(1)
        return model(x, dist.MixtureSameFamily(dist.Categorical(logits=logits), parts))

    def of_data(x):
        return model(x, dist.Normal(x, 1.0).to_event(1))

    def weighted(program):
        return poutine.scale(program, scale=torch.arange(1.0, 5.0))

    with pyro.validation_enabled(validate):
        with pytest.raises(NotImplementedError, match=r"scale of shape \(4,\), by datum"):
            elbo.loss(weighted(model), weighted(guide), X[:4])
        with pytest.raises(NotImplementedError, match="reparameterised"):
            elbo.loss(lambda x: model(x, dist.Bernoulli(torch.ones(D) / 2).to_event(1)), discrete, X[:4])
        with pytest.raises(NotImplementedError, match="differs from datum to datum"):
            elbo.loss(of_data, guide, X[:4])
        if isinstance(elbo, DIPELBO):
            elbo.differentiable_loss(learned, guide, X[:4])  # by its moments
            heavy = dist.MultivariateStudentT(2.0, torch.zeros(D), torch.eye(D))
            with pytest.raises(NotImplementedError, match="mean and a covariance"):
                elbo.loss(lambda x: model(x, heavy), guide, X[:4])
        else:
            with pytest.raises(NotImplementedError, match="is learned but its draws"):
                elbo.differentiable_loss(learned, guide, X[:4])


def test_the_number_of_data_comes_from_the_plate_or_is_asked_for():
    elbo = MMDELBO()
    with pytest.raises(ValueError, match="pass data_size=N"):
        elbo.loss(model, guide, X)
    elbo.loss(model, guide, X[:4])
    elbo.loss(model, guide, X)  # whose plate has said in the meantime that these are all
    with pytest.raises(ValueError, match=r"data_size=6, .* but got 7"):
        MMDELBO(data_size=7).loss(model, guide, X[:4])
    with pytest.raises(ValueError, match="at most data_size=5"):
        DIPELBO(data_size=5).loss(whole, whole_guide, X)
    with pytest.raises(ValueError, match=r"at least 4 of 6 data but got 3.* another batch_size"):
        DIPELBO().loss(model, guide, X[:3])
    with pytest.raises(ValueError, match=r"at least 2 data .* another batch_size"):
        SlicedWassersteinELBO().loss(model, guide, X[:1])
    with pytest.raises(ValueError, match=r"2 to data_size=6 data but got 1.* another batch_size"):
        MMDELBO().loss(model, guide, X[:1])
    SlicedWassersteinELBO().loss(model, guide, X)


def test_what_has_no_upper_bound_is_not_rewarded():
    """pythae's weight is α + λ − 1 = −0.47 by default."""
    with pytest.raises(ValueError, match=r"discrepancy -0.47 times"):
        mmd_vae(alpha=0.5, lam=0.03)
    with pytest.raises(ValueError, match=r"the rate would count -1 times"):
        mmd_vae(alpha=2.0, lam=10.0)
    with pytest.raises(ValueError, match="Expected mmd >= 0"):
        MMDELBO(mmd=-1.0)
    elbo = DIPELBO()
    with pytest.raises(ValueError, match="Expected off_diagonal >= 0"):
        elbo.weights["off_diagonal"] = -1.0
    with pytest.raises(ValueError, match="'means' or 'aggregate'"):
        DIPELBO(covariance="draws")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one weight of 'mmd'"):
        MMDELBO(mmd={"z": 2.0}).loss(model, guide, X[:4])


# ---- Training.


def whole(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def whole_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", encoded(x))


TRAININGS = {
    "kernel": (
        lambda: MMDELBO(mmd=Linear(0.0, 50.0, 5), rate=0.5, data_size=40, kernel=InverseMultiquadric(4.0)),
        ["mmd"],
    ),
    "slices": (
        lambda: SlicedWassersteinELBO(sliced_wasserstein=Linear(0.0, 5.0, 5), num_projections=3),
        ["sliced_wasserstein"],
    ),
    "covariance": (
        lambda: DIPELBO(off_diagonal=Linear(0.0, 9.0, 5), data_size=40),
        ["off_diagonal", "diagonal"],
    ),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_it_trains_captured_as_by_steps_with_all_that_follows(name, tmp_path):
    make, terms = TRAININGS[name]
    x, histories = torch.randn(40, D), []
    for kind, optimiser in (
        (SVI, pyro.optim.Adam({"lr": 0.01})),
        (CapturedSVI, FusedOptim(torch.optim.Adam, {"lr": 0.01})),
    ):
        pyro.clear_param_store()
        elbo = make()
        svi = kind(whole, whole_guide, optimiser, elbo)
        path = tmp_path / f"{kind.__name__}.pt"
        history = fit(svi, x, epochs=2, batch_size=10, progress=False, seed=0, checkpoint=path)
        histories.append(history.to_frame()[["loss", "rate", *terms]])
    assert svi.captured
    torch.testing.assert_close(*(torch.tensor(each.to_numpy()) for each in histories), rtol=1e-8, atol=0)
    again = make()
    again.load_state_dict(elbo.state_dict())
    assert again.step == 8
    assert decompose(whole, whole_guide, x, seed=0).marginal_kl is not None
    to_arviz(whole, whole_guide, x, num_samples=3, seed=0)
