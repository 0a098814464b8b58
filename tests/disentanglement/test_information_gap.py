import itertools
import math

import numpy as np
import pytest

from pyro_infomax.disentanglement import Calibration, mig

SIZES = (3, 6, 40, 32, 32)
FEW = Calibration(bootstraps=8, permutations=8)


def draw(size, sizes=SIZES, seed=0):
    rng = np.random.RandomState(seed)
    return np.stack([rng.randint(each, size=size) for each in sizes], axis=1)


def noise(size, columns, seed=1):
    return np.random.RandomState(seed).randn(size, columns)


def alone(codes, factors, **how):
    return mig(codes, factors, calibration=None, **how)


def naive_bins(code):
    low, width = min(code), (max(code) - min(code)) / 20
    return [min(int((each - low) / width), 19) if width else 0 for each in code]


def naive_information(left, right):
    size, total = len(left), 0.0
    for a, b in itertools.product(set(left), set(right)):
        both = sum(x == a and y == b for x, y in zip(left, right, strict=True)) / size
        if both:
            total += both * math.log(both / (left.count(a) * right.count(b) / size**2))
    return total


def naive_informations(codes, factors):
    return np.array(
        [[naive_information(naive_bins(c), f) for f in factors.T.tolist()] for c in codes.T.tolist()]
    )


def constructed(factors):
    rng = np.random.RandomState(3)
    rotation = np.linalg.qr(rng.randn(2, 2))[0]
    size = len(factors)
    return {
        "factors": factors,
        "rotated": factors @ rotation,
        "duplicated": np.concatenate([factors, factors[:, :1]], axis=1),
        "noise": rng.randn(size, 4),
        "constants": np.concatenate([factors[:, :1], np.full((size, 2), 0.3)], axis=1),
        "scaled": factors * np.array([1e-4, 700.0]) + rng.rand(size, 2) * [1e-5, 100.0],
    }


@pytest.mark.parametrize("kind", ["factors", "rotated", "duplicated", "noise", "constants", "scaled"])
def test_the_reference_is_its_definition(kind):
    factors = draw(90, (4, 5))
    codes = constructed(factors)[kind].astype(float)
    information = naive_informations(codes, factors)
    entropy = [naive_information(factor, factor) for factor in factors.T.tolist()]
    first, second = np.sort(information, axis=0)[:-3:-1]
    score = alone(codes, factors, reference=True)
    np.testing.assert_allclose(score.parts["mutual_information"], information, atol=1e-12)
    np.testing.assert_allclose(score.parts["entropy"], entropy, atol=1e-12)
    assert score.score == pytest.approx(np.mean((first - second) / entropy), abs=1e-9)


def test_twenty_bins_cannot_carry_the_factors_of_dsprites():
    ceilings = []
    for size in SIZES:
        factor = np.tile(np.arange(size), 10)[:, None]
        ceilings.append(alone(np.concatenate([factor, 0 * factor], axis=1), factor, reference=True).score)
    assert np.mean(ceilings) == pytest.approx(0.902, abs=5e-4)
    drawn = draw(10_000)
    assert alone(drawn, drawn, reference=True).score == pytest.approx(0.896, abs=1e-3)
    assert alone(drawn, drawn).score == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("size", [500, 2000])
def test_the_factors_score_one_and_noise_nothing(size):
    factors = draw(size)
    score = mig(noise(size, 10), factors, calibration=FEW, progress=False)
    assert score.ceiling == pytest.approx(1, abs=1e-12)
    assert score.score == score.floor == 0


def test_the_reference_has_its_own_floor_and_ceiling():
    score = mig(noise(2000, 6), draw(2000), reference=True, calibration=FEW, progress=False)
    low, high = score.floor_interval
    assert low <= score.score <= high
    assert score.floor > 0
    assert score.ceiling < 0.9


def test_the_factors_score_their_ceiling():
    factors = draw(1000)
    for reference in (False, True):
        score = mig(factors, factors, reference=reference, calibration=FEW, progress=False)
        assert score.score == score.ceiling
        assert score.calibrated == pytest.approx(1)


def test_a_factor_told_twice_has_no_gap():
    factors = draw(1000, (4, 7))
    score = alone(factors[:, [0, 1, 1]], factors)
    assert score.parts["per_factor"] == pytest.approx([1, 0])
    assert score.parts["top"].tolist() == [[0, 1], [1, 2]]
    assert score.parts["mutual_information"].shape == (3, 2)
    assert score.parts["entropy"] == pytest.approx([math.log(4), math.log(7)], abs=0.02)


def test_scale_does_not_count_and_bending_hardly():
    factors = draw(1024, (4, 7))
    codes = factors + noise(1024, 2)
    straight = alone(codes, factors).parts
    information, error = straight["mutual_information"], straight["standard_error"]
    for other in (2.0**20 * codes, -codes):
        np.testing.assert_allclose(alone(other, factors).parts["mutual_information"], information, rtol=1e-12)
    for other in (np.exp(5 * codes), np.arctan(codes), 1e6 * codes - 5):
        bent = alone(other, factors).parts["mutual_information"]
        np.testing.assert_array_less(np.abs(bent - information), error)
    assert alone(np.exp(5 * codes), factors, reference=True).score < 0.1


def test_equal_values_stay_together():
    """Where they come in the data tells a factor that their value does not tell."""
    code = np.concatenate([np.zeros(60), np.linspace(1, 2, 40)])[:, None]
    factor = np.concatenate([np.arange(60) // 30, np.arange(40) % 2])[:, None]
    codes = np.concatenate([code, np.arange(100)[:, None]], axis=1)
    known = alone(codes, factor).parts["mutual_information"][:, 0]
    assert known[0] == 0 < 0.2 < known[1]


def test_independent_columns_have_exactly_no_information_and_rounding_is_none():
    grid = np.array(list(itertools.product(range(3), range(7), range(5))))
    information = alone(grid, grid, reference=True).parts["mutual_information"]
    assert (information[~np.eye(3, dtype=bool)] == 0).all()
    rng = np.random.RandomState(977)
    factors = np.stack([rng.randint(values, size=977) for values in range(2, 40)], axis=1)
    dead = np.zeros((977, 2))
    assert (alone(dead, factors, reference=True).parts["mutual_information"] == 0).all()
    left, right = np.divmod(np.arange(7 * 11 * 13) // 13, 11)
    codes = np.stack([left, left % 2], axis=1)
    assert (alone(codes, right[:, None], reference=True).parts["mutual_information"] == 0).all()


def test_information_of_discrete_codes_is_the_channels():
    """A code that keeps the factor in half of the data and is any value else."""
    rng = np.random.RandomState(0)
    factor = draw(600, (12,))
    codes = np.where(rng.rand(600, 2) < [0.5, 0.0], factor, rng.randint(12, size=(600, 2)))
    share = 0.5 + 0.5 / 12
    truth = math.log(12) + share * math.log(share) + (1 - share) * math.log((1 - share) / 11)
    for names in (np.arange(12), rng.permutation(12)):
        parts = alone(names[codes], factor).parts
        error = parts["standard_error"][0, 0]
        assert error < 0.06
        assert parts["mutual_information"][0, 0] == pytest.approx(truth, abs=3 * error)
        assert parts["mutual_information"][1, 0] == 0
    assert alone(codes, factor, reference=True).parts["mutual_information"][0, 0] > truth + 0.06


def test_columns_that_nothing_can_be_said_of_have_none():
    distinct = np.arange(20)
    both = np.stack([0 * distinct, distinct], axis=1)
    assert not alone(both, distinct[:, None]).parts["mutual_information"].any()


def test_a_dead_code_is_a_code_that_knows_nothing():
    factors = draw(1000, (4, 7))
    codes = np.concatenate([factors, np.zeros((1000, 3))], axis=1)
    assert alone(codes, factors).score == pytest.approx(1)
    assert alone(np.zeros((1000, 3)), factors, reference=True).score == 0
    assert alone(np.zeros((1000, 3)), factors).score == 0


def quadrature(values, spread):
    """Information about evenly likely 0, 1, … behind Normal noise, and its deviation at one datum."""
    means = np.arange(values)
    grid = np.linspace(-9 * spread, values - 1 + 9 * spread, 20_001)
    each = np.exp(-(((grid[:, None] - means) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
    of_all = each.mean(1)
    ratio = np.log(np.maximum(each, 1e-300) / np.maximum(of_all, 1e-300)[:, None])
    first, second = (np.trapezoid((each * ratio**power).mean(1), grid) for power in (1, 2))
    return first, math.sqrt(second - first**2)


@pytest.mark.parametrize(("values", "spread"), [(2, 0.3), (2, 1), (8, 0.1), (8, 3), (40, 1), (64, 10)])
@pytest.mark.parametrize("size", [500, 4000])
def test_information_is_that_of_quadrature_or_a_note_says_that_data_are_few(size, values, spread):
    factor = draw(size, (values,))
    codes = np.concatenate([factor + spread * noise(size, 1), noise(size, 1, 9)], axis=1)
    score = alone(codes, factor)
    truth, each = quadrature(values, spread)
    known, error = (score.parts[name][0, 0] for name in ("mutual_information", "standard_error"))
    # few data a value lie a little lower or higher: the estimate is smooth over neighbours
    assert known == pytest.approx(truth, abs=3 * error + 0.02 * truth)
    assert 0.7 * each / size**0.5 < error < 0.1 + 1.5 * each / size**0.5
    assert abs(known - truth) < 0.05 * truth or "too few" in score.notes[0]


def test_many_neighbours_leave_little_noise_and_the_interval_has_all_of_it():
    factor = draw(500, (2,))
    codes = np.concatenate([factor + noise(500, 1), np.zeros((500, 1))], axis=1)
    score = mig(codes, factor, calibration=Calibration(400, 0), progress=False)
    _, each = quadrature(2, 1)
    error = score.parts["standard_error"][0, 0]
    assert error < 1.5 * each / 500**0.5
    low, high = score.interval
    assert (high - low) / 2 == pytest.approx(1.97 * error / score.parts["entropy"][0], rel=0.1)


def test_few_data_are_noted_and_enough_are_not():
    factor = draw(2000, (40,))
    clear = np.concatenate([factor + 0.5 * noise(2000, 1), factor * 0], axis=1)
    assert alone(clear, factor).notes == ()
    (note,) = alone(clear[:300], factor[:300]).notes
    assert note.startswith("300 data are too few to be sure to 5 % of what is told by code 0 of factor 0 (")
    (none,) = alone(noise(300, 2), factor[:300]).notes
    assert none == "What the codes tell of factor 0 is no more than chance would show in 300 data."


def test_a_factor_of_nearly_distinct_values_changes_nothing_for_the_others():
    factors = draw(3000, (3, 5))
    codes = np.concatenate([factors[:, :1] + noise(3000, 1), noise(3000, 2, 2)], axis=1)
    rows = np.arange(3000)
    for name, column in {"numbers": rows, "a few twice": np.maximum(rows - 200, 0)}.items():
        beside = alone(codes, np.column_stack([factors, column]))
        without = alone(codes, factors)
        for part in ("mutual_information", "standard_error"):
            np.testing.assert_array_equal(beside.parts[part][:, :2], without.parts[part], err_msg=name)
        assert not beside.parts["mutual_information"][:, 2].any()
        assert beside.notes[0].startswith(
            "Data with a value of their own tell nothing of it and are left out"
        )


def test_data_with_a_value_of_their_own_are_left_out():
    """The others tell what would be told of all."""
    half, pairs = np.arange(200), 200 + np.arange(200) // 2
    factor = np.concatenate([half, pairs])[:, None]
    score = alone(np.column_stack([factor, 0 * factor]), factor)
    assert (score.score, score.notes[0][-27:]) == (pytest.approx(1), "a share of 0.5 of factor 0.")


@pytest.mark.parametrize(("size", "values"), [(500, 2), (1000, 40), (5000, 40)])
def test_a_code_that_keeps_a_factor_scores_one(size, values):
    factor = draw(size, (values,))
    small = noise(size, 1)
    for code in (
        factor + 1e-6 * small,
        5 + factor + 1e-12 * small,
        np.exp(factor / values),
        np.random.RandomState(3).permutation(values)[factor],  # values are names
        values * (small > 0) + factor,  # each value in two places
        factor + 0.02 * small,
    ):
        score = mig(np.column_stack([code, 0 * code]), factor, calibration=Calibration(20, 0), progress=False)
        assert score.score > 0.99
        assert score.interval[1] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("at", [0.0, 0.5])
def test_rare_values_that_are_told_are_known(at):
    size = 20_000
    rare = (np.arange(size) % 1000 == 0).astype(int)[:, None]
    order = np.argsort(noise(size, 1)[:, 0])
    inside = np.zeros((size, 1), dtype=int)  # twenty neighbours in a row
    inside[order[int(at * size) : int(at * size) + 20]] = 1
    for code, factor in ((rare, rare), (rare + 0.1 * noise(size, 1), rare), (noise(size, 1), inside)):
        assert alone(np.column_stack([code, 0 * code]), factor).score > 0.95


@pytest.mark.parametrize(("size", "values"), [(500, 5), (500, 64), (2000, 20)])
def test_a_code_in_bins_is_told_by_the_code(size, values):
    """Values end sharply, and nothing is between them."""
    code = noise(size, 1)
    factor = np.argsort(np.argsort(code, axis=0), axis=0) * values // size
    assert alone(np.column_stack([code, 0 * code]), factor).score > 0.999


def test_finer_structure_than_neighbours_is_seen():
    """Odd or even of 64 values: the neighbours of 250 data reach beyond the eight of one value."""
    steps = draw(500, (64,))
    for code in (steps, steps + 0.05 * noise(500, 1)):
        assert alone(np.column_stack([code, 0 * code]), steps % 2).score > 0.95


def test_codes_on_a_grid_are_not_thought_to_know_what_their_order_in_the_data_is():
    """Few data have one code, several lie as far off on either side, and the data come value by value."""
    size = 2000
    factor = np.repeat(np.arange(4), size // 4)[:, None]
    rounded = np.round(120 * noise(size, 40))  # a code of a few hundred values
    told = alone(rounded, factor).parts["mutual_information"]
    assert not told.any()
    informed = alone(np.column_stack([np.round(40 * (factor + noise(size, 1)[:, :1])), 0 * factor]), factor)
    truth, _ = quadrature(4, 1)
    assert informed.parts["mutual_information"][0, 0] == pytest.approx(truth, abs=0.05)


def test_the_interval_is_as_wide_as_scores_are_spread():
    def codes(factors, seed):
        return factors + noise(400, 2, seed) * [0.5, 2.0]

    scores = [alone(codes(f, seed), f).score for seed in range(40) for f in [draw(400, (4, 9), seed)]]
    factors = draw(400, (4, 9), 99)
    score = mig(
        codes(factors, 99), factors, calibration=Calibration(bootstraps=40, permutations=0), progress=False
    )
    low, high = score.interval
    assert (high - low) / 2 == pytest.approx(2 * np.std(scores), rel=0.6)


def test_a_seed_decides_and_nothing_else_changes():
    factors = draw(300, (4, 7))
    codes = factors + noise(300, 2)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, same, other = (mig(codes, factors, seed=s, calibration=FEW, progress=False) for s in (0, 0, 1))
    assert one.interval == same.interval != other.interval
    assert one.score == other.score
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_one_code_has_no_second():
    with pytest.raises(ValueError, match="at least two codes but got 1"):
        mig(draw(50, (3,)), draw(50, (3,)))


def test_a_single_factor_will_do():
    factors = draw(500, (5,))
    score = mig(np.concatenate([factors, noise(500, 1)], 1), factors, calibration=FEW, progress=False)
    assert (score.score, score.ceiling) == pytest.approx((1, 1))


class Source:
    factor_sizes = (4, 3)

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

    def observations(self, factors):
        return np.asarray(factors, dtype=float)


def test_codes_may_be_made_by_an_encoder():
    score = alone(lambda x: x[:, ::-1] ** 3, Source(), num_points=200, progress=False)
    assert score.score == pytest.approx(1)
    assert score.parts["top"][0].tolist() == [1, 0]
