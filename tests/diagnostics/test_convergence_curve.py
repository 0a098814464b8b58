"""The curves against closed forms, the account of all data, and subsets taken by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_infomax.diagnostics import Convergence, Pair, convergence, decompose
from pyro_infomax.information import Account, Draws
from pyro_infomax.oracles import LinearGaussian


def free(full: bool = False) -> LinearGaussian:
    v = torch.tensor([[1.0, 0.4, 0.0], [0.8, -0.3, 0.5]])
    delta = torch.tensor([[0.05, 0.03], [0.03, 0.1]]) if full else [0.05, 0.1]
    return LinearGaussian([2.0, 1.0, 0.5], v.T, 0.4, v, delta)


def curve_of(oracle: LinearGaussian, size: int, *, seed: int = 0, **options: object) -> Convergence:
    return convergence(oracle.model, oracle.guide, oracle.sample(size, seed=seed), seed=seed, **options)


# --- values ---


@pytest.mark.parametrize("full", [False, True])
def test_the_bounds_close_in_on_the_truth(full: bool) -> None:
    oracle = free(full)
    curves = [curve_of(oracle, 1024, sizes=[64, 256, 1024], seed=seed) for seed in range(3)]
    for curve in curves:
        lower, upper = curve.mutual_information_lower, curve.mutual_information_upper
        truth = oracle.mutual_information
        assert (lower.value - 3 * lower.population_standard_error <= truth).all()
        assert (truth <= upper.value + 3 * upper.population_standard_error).all()
        for name in ("rate", "marginal_kl", "total_correlation"):
            found = getattr(curve, name)
            off = (found.value - getattr(oracle, name)).abs()
            assert (off <= 3 * found.population_standard_error).all(), name
    lower, left_out = (
        torch.stack([getattr(curve, name).value for curve in curves]).mean(0)
        for name in ("mutual_information_lower", "leave_one_out")
    )
    assert (lower.diff() > 0).all()
    assert (left_out.diff() < 0).all()
    assert left_out[-1] - lower[-1] < 0.4 * (left_out[0] - lower[0])


@pytest.mark.parametrize("num_samples", [1, 3])
def test_all_data_give_what_their_account_gives(num_samples: int) -> None:
    oracle = free()
    x = oracle.sample(150, seed=0)
    curve = convergence(oracle.model, oracle.guide, x, num_samples=num_samples, seed=4)
    account = decompose(oracle.model, oracle.guide, x, num_samples=num_samples, seed=4)
    for name, estimate in vars(curve).items():
        if hasattr(account, name) and hasattr(estimate, "value"):
            whole = getattr(account, name)
            for number in ("value", "standard_error", "population_standard_error"):
                torch.testing.assert_close(getattr(estimate[-1], number), getattr(whole, number), msg=name)
            assert estimate.bound == whole.bound
            assert whole.target.startswith(estimate.target)  # which says, of one size, by what it is bounded
    assert curve.sizes[-1] == account.data_size


def test_the_subsets_are_nested_and_keep_their_own_draws() -> None:
    oracle = free()
    x = oracle.sample(120, seed=0)
    state = torch.get_rng_state()
    curve = convergence(oracle.model, oracle.guide, x, sizes=[10, 50, 120], num_samples=2)
    pair = Pair(oracle.model, oracle.guide, x)
    torch.set_rng_state(state)  # for the same draws
    z, order = pair.draw(2), torch.randperm(120)
    assert not torch.equal(order[:10].sort().values, torch.arange(10))
    for row, size in enumerate((10, 50, 120)):
        rows = order[:size]
        posterior = Pair(oracle.model, oracle.guide, x[rows]).posterior
        account = Account(Draws(posterior, pair.prior(), z=z[:, rows]))
        for name in ("leave_one_out", "marginal_kl", "total_correlation"):
            found = getattr(curve, name)[row]
            torch.testing.assert_close(found.value, getattr(account, name).value, rtol=0, atol=1e-9)


def test_marginal_kl_and_information_share_the_rate() -> None:
    curve = curve_of(free(), 300)
    parts = curve.mutual_information_lower.value + curve.marginal_kl.value
    torch.testing.assert_close(parts, curve.rate.value)


def test_a_representation_that_tells_all_data_apart_is_saturated_at_every_size() -> None:
    oracle = LinearGaussian([1.0], [[1.0]], 0.1, [[1.0]], [1e-8])
    curve = curve_of(oracle, 200)
    assert all(curve.saturated)
    torch.testing.assert_close(
        curve.mutual_information_lower.value, torch.tensor(curve.ceiling), rtol=0, atol=0.1
    )
    assert "saturated" in str(curve)


def test_a_modest_representation_is_saturated_where_data_are_few() -> None:
    curve = curve_of(free(), 400, sizes=[4, 400])
    assert curve.saturated == (True, False)
    assert curve.ceiling == (math.log(4), math.log(400))


# --- sizes ---


@pytest.mark.parametrize(
    ("size", "expected"),
    [(1797, (112, 224, 449, 898, 1797)), (5, (2, 5)), (2, (2,))],
)
def test_each_size_is_half_of_the_next(size: int, expected: tuple[int, ...]) -> None:
    assert curve_of(free(), size).sizes == expected


def test_sizes_may_be_chosen_in_any_order() -> None:
    assert curve_of(free(), 50, sizes=[50, 2, 7, 7]).sizes == (2, 7, 50)


@pytest.mark.parametrize("sizes", [[1, 10], [51], [], [-5]])
def test_sizes_out_of_range_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="Expected sizes of at least 2 data and at most 50"):
        curve_of(free(), 50, sizes=sizes)


def test_a_single_datum_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 data and at most 1,"):
        curve_of(free(), 1)


def test_no_draws_are_refused() -> None:
    with pytest.raises(ValueError, match="Expected num_samples to be an integer >= 1 but got 0"):
        curve_of(free(), 10, num_samples=0)


# --- pairs of every kind ---


def plain_model(x: Tensor, *_: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1), 0.5), obs=x)


def laplace_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Laplace(torch.stack([0.4 * x, 0.3 * x], -1), 0.4).to_event(1))


def sequential_model(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
        z2 = pyro.sample("z2", dist.Normal(0.6 * z1, 0.8))
        pyro.sample("x", dist.Normal(z1 + z2, 0.5), obs=x)


def sequential_guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z2 = pyro.sample("z2", dist.Normal(0.5 * x, 0.6))
        pyro.sample("z1", dist.Normal(0.4 * x - 0.3 * z2, 0.5))


def conditional_model(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(c, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def conditional_guide(x: Tensor, c: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.7 * x + 0.3 * c, 0.4))


@pytest.mark.parametrize(
    "pair", [(plain_model, laplace_guide), (sequential_model, sequential_guide)], ids=["Laplace", "dependent"]
)
def test_posteriors_that_cannot_be_cut_down_are_encoded_again(pair: tuple) -> None:
    x = torch.randn(60)
    state = torch.get_rng_state()
    curve = convergence(*pair, x, sizes=[20, 60], num_samples=2)
    own = Pair(*pair, x)
    torch.set_rng_state(state)  # for the same draws
    z, rows = own.draw(2), torch.randperm(60)[:20]
    account = Account(Draws(Pair(*pair, x[rows]).posterior, own.prior(), z=z[:, rows]))
    torch.testing.assert_close(curve.leave_one_out[0].value, account.leave_one_out.value, rtol=0, atol=1e-9)


def test_what_cannot_be_had_is_none_with_a_reason() -> None:
    sequential = convergence(sequential_model, sequential_guide, torch.randn(40), seed=0)
    assert sequential.total_correlation is None
    assert "no density in closed form" in sequential.unavailable["total_correlation"]
    assert "total correlation" not in str(sequential).splitlines()[1]
    assert "not available: total_correlation" in str(sequential)
    assert "total_correlation" not in sequential.to_frame()

    conditional = convergence(
        conditional_model, conditional_guide, (torch.randn(40), torch.randn(40)), seed=0
    )
    assert conditional.rate is None
    assert conditional.marginal_kl is None
    assert "depends on the data" in conditional.unavailable["marginal_kl"]
    upper, left_out = conditional.mutual_information_upper, conditional.leave_one_out
    assert torch.equal(upper.value, left_out.value)


def test_normal_parameters_of_each_datum_are_cut_down() -> None:
    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(60, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.01).to_event(1))

    assert all(convergence(plain_model, guide, torch.randn(60), seed=0).saturated)


def test_other_parameters_of_each_datum_cannot_be() -> None:
    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.randn(60, 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Laplace(loc, 0.01).to_event(1))

    with pytest.raises(
        NotImplementedError, match="made for all of its data and its posteriors are not Normal"
    ):
        convergence(plain_model, guide, torch.randn(60), seed=0)


def test_the_data_are_encoded_once() -> None:
    rows = []

    def guide(x: Tensor) -> None:
        rows.append(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.stack([0.4 * x, 0.3 * x], -1), 0.4).to_event(1))

    x = torch.randn(400)
    counts = []
    for sizes in ([400], [50, 100, 200, 400]):
        rows.clear()
        convergence(plain_model, guide, x, sizes=sizes, batch_size=100, seed=0)
        counts.append(sum(rows))
    assert counts[0] == counts[1]


# --- what is shown, and what is left alone ---


def test_the_frame_has_a_row_a_size() -> None:
    curve = curve_of(free(), 200)
    frame = curve.to_frame()
    assert frame.index.name == "size"
    assert tuple(frame.index) == curve.sizes
    assert list(frame["saturated"]) == list(curve.saturated)
    assert frame.loc[200, "ceiling"] == math.log(200)
    for name in (
        "mutual_information_lower",
        "mutual_information_upper",
        "leave_one_out",
        "rate",
        "marginal_kl",
    ):
        estimate = getattr(curve, name)[-1]
        assert frame.loc[200, name] == float(estimate)
        assert frame.loc[200, f"{name}_standard_error"] == float(estimate.standard_error)
        population = float(estimate.population_standard_error)
        assert frame.loc[200, f"{name}_population_standard_error"] == population


def test_the_print_has_a_line_a_size_and_the_last_rise() -> None:
    curve = curve_of(free(), 200)
    _, columns, *rows, rise = str(curve).splitlines()
    assert columns.split()[:3] == ["N", "ln", "N"]
    assert [int(row.split()[0]) for row in rows] == list(curve.sizes)
    assert f"{float(curve.mutual_information_lower[-1]):.4f}" in rows[-1]
    last = curve.mutual_information_lower.value.diff()[-1]
    assert f"from 100 to 200 data the lower bound rose by {float(last):.4f}" in rise
    assert rise.endswith("0.6931")


def test_a_single_size_has_no_rise() -> None:
    assert "rose" not in str(curve_of(free(), 20, sizes=[20]))


def test_a_seed_isolates_draws_and_subsets() -> None:
    oracle = free()
    x = oracle.sample(60, seed=0)
    before = torch.get_rng_state()
    frames = [convergence(oracle.model, oracle.guide, x, seed=seed).to_frame() for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), before)
    assert frames[0].equals(frames[1])
    assert not frames[0].equals(frames[2])
