import numpy as np
import pytest
from scipy.stats import norm

from pyro_infomax.disentanglement import Calibration, irs

SIZES = (3, 6, 40)
FEW = Calibration(bootstraps=8, permutations=8)


class Grid:
    """Observations that are the factors themselves."""

    factor_sizes = SIZES

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in SIZES], axis=1)

    def observations(self, factors):
        return np.asarray(factors, dtype=np.float64)


def factors(n=2000, seed=0):
    return Grid().sample_factors(n, seed=np.random.RandomState(seed))


def noise(codes, n=2000, seed=1):
    return np.random.RandomState(seed).randn(n, codes)


def score(codes, given=None, **options):
    given = factors(len(codes)) if given is None else given
    return irs(codes, given, **{"calibration": None, "progress": False} | options)


def by_the_definition(codes, given, quantile=0.99):
    """Value by value, with bins of equal width: the score and the matrix of the codes that move."""
    codes = codes[:, codes.var(0) > 0]
    largest = np.abs(codes - codes.mean(0)).max(0)
    matrix = np.zeros((codes.shape[1], given.shape[1]))
    for k, column in enumerate(given.T):
        bins = np.digitize(column, np.histogram(column, 20)[1][:-1])
        left = []
        for value in np.unique(bins):
            group = codes[bins == value]
            left.append(np.quantile(np.abs(group - group.mean(0)), quantile, axis=0))
        matrix[:, k] = 1 - np.mean(left, axis=0) / largest
    return np.average(matrix.max(1), weights=largest), matrix


CODES = {
    "factors": factors(),
    "rotated": factors() @ np.linalg.qr(noise(3, 3))[0],
    "duplicated": np.tile(factors() + 0.1 * noise(3), 2),
    "noise": noise(4),
    "scaled": (factors() + noise(3)) * [1e-3, 1.0, 1e4],
}


@pytest.mark.parametrize("codes", CODES.values(), ids=CODES)
def test_the_reference_is_its_definition(codes):
    for quantile in (0.5, 0.99, 1.0):
        result = score(codes, reference=True, quantile=quantile)
        expected, matrix = by_the_definition(codes, factors(), quantile)
        assert result.score == pytest.approx(expected, abs=1e-10)
        np.testing.assert_allclose(result.parts["robustness"], matrix, atol=1e-10)
        np.testing.assert_array_equal(result.parts["parents"], matrix.argmax(1))
        np.testing.assert_allclose(result.parts["max_deviation"], np.abs(codes - codes.mean(0)).max(0))


def test_values_that_are_rare_are_groups_of_their_own_in_the_reference():
    given = factors(30)  # most of the 20 bins of the last factor hold one datum or two
    codes = given + noise(3, 30)
    assert score(codes, reference=True).score == pytest.approx(by_the_definition(codes, given)[0], abs=1e-12)


@pytest.mark.parametrize("reference", [False, True])
def test_constant_codes_are_left_out(reference):
    codes = factors() + noise(3)
    beside = np.insert(codes, 1, 0.1, axis=1)
    alone, result = score(codes, reference=reference), score(beside, reference=reference)
    assert result.score == pytest.approx(alone.score, abs=1e-12 if reference else 0.01)
    assert result.parts["active"].tolist() == [True, False, True, True]
    assert result.parts["num_active"] == 3
    assert result.parts["parents"].tolist() == [0, -1, 1, 2]
    assert result.parts["robustness"][1].tolist() == [0, 0, 0]
    assert result.parts["max_deviation"][1] == result.parts["weights"][1] == 0


@pytest.mark.parametrize("reference", [False, True])
def test_codes_that_never_move_score_zero(reference):
    result = score(np.full((2000, 2), 0.1), reference=reference, calibration=FEW)
    assert (result.score, result.floor, result.parts["num_active"]) == (0.0, 0.0, 0)


@pytest.mark.parametrize(
    "codes",
    [factors(), -3.5 * factors()[:, ::-1] + 100, np.tile(factors(), 2), factors() ** 2],
    ids=["factors", "scaled and reordered", "duplicated", "bent"],
)
def test_codes_that_are_factors_score_one(codes):
    assert score(codes).score == pytest.approx(1.0, abs=1e-12)


def test_merged_values_keep_the_reference_below_one():
    assert score(factors(), reference=True).score < 0.99


def test_noise_has_no_robustness_however_few_data_a_value_has():
    for n in (100, 2000):
        robustness = score(noise(300, n)).parts["robustness"]  # (code, factor)
        error = robustness.std(0) / np.sqrt(300)
        # the reference's is 0.5 and more for two data a value
        np.testing.assert_array_less(np.abs(robustness.mean(0)), 4 * error + 0.03)


def test_a_known_share_of_noise_is_what_is_missing():
    """Normal code, v + s e: its deviations shrink by s / sqrt(1 + s²), whatever the quantile."""
    rng = np.random.RandomState(0)
    n, values = 40_000, 200
    order = np.arange(n) * values // n
    normal = norm.ppf((np.arange(values) + 0.5) / values)[order]
    code = normal[:, None] + 0.5 * rng.randn(n, 1)
    for quantile in (0.5, 0.99):
        left = 1 - 0.5 / np.sqrt(normal.var() + 0.25)
        given = np.stack([order, rng.randint(2, size=n)], axis=1)
        result = score(code, given, quantile=quantile)
        assert result.score == pytest.approx(left, abs=0.02)


def test_scales_mean_nothing():
    codes = factors() @ np.linalg.qr(noise(3, 3))[0] + noise(3)
    one, two = score(codes), score(codes * [1e-5, 1.0, 1e5])
    assert one.score == pytest.approx(two.score, abs=1e-9)
    np.testing.assert_allclose(one.parts["weights"], two.parts["weights"], atol=1e-9)


def explained(code, values):
    """Omega squared by the book, group by group."""
    groups = [code[values == value] for value in np.unique(values)]
    between = sum(len(group) * (group.mean() - code.mean()) ** 2 for group in groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    mean_square = within / (len(code) - len(groups))
    return max(0, (between - (len(groups) - 1) * mean_square) / (between + within + mean_square))


def test_weights_are_the_variance_that_factors_explain_without_its_bias():
    given = factors(200)
    codes = given @ [[1.0, 0.5, 0.0], [0.2, -1.0, 0.0], [0.0, 0.0, 0.0]] + noise(3, 200)
    naive = np.array([sum(explained(code, column) for column in given.T) for code in codes.T])
    np.testing.assert_allclose(score(codes, given).parts["weights"], naive / naive.sum(), atol=1e-12)


def test_noise_beside_good_codes_weighs_next_to_nothing():
    codes = np.concatenate([factors(), 100 * noise(5)], axis=1)
    assert score(codes).score > 0.95
    assert score(codes, reference=True).score < 0.7


def test_a_value_of_a_single_datum_does_not_count():
    given = factors()
    given[0, 0] = 3
    codes = noise(1) + given[:, :1]
    codes[0] = 1.0
    with_it, without = score(codes, given), score(codes[1:], given[1:])
    assert with_it.parts["robustness"][0, 0] == pytest.approx(without.parts["robustness"][0, 0], abs=0.02)


def test_values_of_a_single_datum_say_nothing_of_codes_that_know_nothing():
    """A datum alone does not deviate from its mean, so that two in three would seem robust."""
    given = np.concatenate([np.arange(400), 400 + np.arange(200) // 10])[:, None]
    robustness = score(noise(20, 600), given).parts["robustness"][:, 0]
    assert abs(robustness.mean()) < 4 * robustness.std() / 20**0.5 + 0.03


def test_a_value_counts_as_often_as_it_occurs():
    """One value in twenty has ten times the noise."""
    rare = np.arange(2000) % 20 == 0
    given = np.stack([rare, np.arange(2000) % 7], axis=1).astype(int)
    code = np.where(rare[:, None], 1.0, 0.1) * noise(1)
    left = sum(part.mean() * np.median(np.abs(code[part] - code[part].mean())) for part in (rare, ~rare))
    whole = np.median(np.abs(code - code.mean()))
    robustness = score(code, given, quantile=0.5).parts["robustness"]
    assert robustness[0, 0] == pytest.approx(1 - left / whole, abs=0.1)


@pytest.mark.parametrize("reference", [False, True])
def test_noise_lies_at_its_floor_and_the_factors_at_the_ceiling(reference):
    result = score(noise(4), reference=reference, calibration=FEW)
    low, high = result.floor_interval
    assert low <= result.score <= high
    assert result.ceiling == pytest.approx(score(factors(), reference=reference).score, abs=1e-12)
    assert result.floor < (0.5 if reference else 0.05)
    assert result.interval[0] <= result.score <= result.interval[1]


def test_a_source_is_drawn_from():
    result = irs(lambda x: -x, Grid(), calibration=None)
    assert result.score == pytest.approx(1.0, abs=1e-12)
    assert result.parts["parents"].tolist() == [0, 1, 2]


def test_a_seed_settles_everything():
    codes = factors() + noise(3)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (score(codes, seed=seed, calibration=FEW) for seed in (1, 1, 2))
    assert (one.score, one.interval, one.floor) == (two.score, two.interval, two.floor)
    assert one.floor != other.floor
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("quantile", [0.0, 1.1, -1.0, np.nan])
def test_other_quantiles_are_refused(quantile):
    with pytest.raises(ValueError, match="0 < quantile <= 1"):
        score(factors(), quantile=quantile)


def test_factors_that_never_repeat_are_refused_but_not_by_the_reference():
    given = np.arange(40)[:, None]
    with pytest.raises(ValueError, match="share a value of factor 0"):
        score(noise(2, 40), given)
    assert np.isfinite(score(noise(2, 40), given, reference=True).score)
