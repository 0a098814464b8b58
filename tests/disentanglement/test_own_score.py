"""A score of one's own: a function that gets interval, floor, ceiling and a row as the others do."""

from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pytest

from pyro_infomax import plots
from pyro_infomax.disentanglement import Calibration, Score, ScoreTable, calibrated_score, mig, sap, score

FEW = Calibration(bootstraps=10, permutations=10)


def correlation(codes, factors):
    both = np.corrcoef(codes, factors, rowvar=False)
    return np.abs(both[: codes.shape[1], codes.shape[1] :]).max(0).mean()


def data(n=300, noise=0.7, seed=0):
    rng = np.random.RandomState(seed)
    factors = rng.randint(4, size=(n, 3))
    return factors + noise * rng.randn(n, 3), factors


def own(function, codes, factors, **options):
    return calibrated_score(function, codes, factors, **{"calibration": FEW, "progress": False, **options})


def test_the_score_is_what_the_function_returns():
    codes, factors = data()
    found = own(correlation, codes, factors, calibration=None)
    assert isinstance(found, Score)
    assert (found.name, found.score) == ("correlation", correlation(codes, factors))
    assert found.interval is found.floor is found.ceiling is None
    assert own(correlation, codes, factors).score == found.score


def test_the_factors_reach_the_ceiling():
    _, factors = data()
    found = own(correlation, factors, factors)
    assert found.score == found.ceiling == pytest.approx(1)
    assert found.calibrated == pytest.approx(1)


def test_a_single_factor_has_a_ceiling():
    codes, factors = data()

    def first(codes, factors):
        return np.corrcoef(codes[:, 0], factors[:, 0])[0, 1]

    assert own(first, codes[:, :1], factors[:, :1]).ceiling == pytest.approx(1)


def test_noise_scores_within_the_floor_interval():
    within = []
    for seed in range(20):
        _, factors = data(seed=seed)
        noise = np.random.RandomState(100 + seed).randn(len(factors), 3)
        found = own(correlation, noise, factors, calibration=Calibration(0, 30), seed=seed)
        low, high = found.floor_interval
        within.append(low <= found.score <= high)
    # of 20 in intervals of 95 % fewer than 16 lie within in three cases of 1000
    assert sum(within) >= 16


def test_the_interval_is_as_wide_as_the_spread_over_other_data():
    scores = [correlation(*data(seed=seed)) for seed in range(200)]
    widths = [
        np.subtract(*own(correlation, *data(seed=seed), calibration=Calibration(100, 0)).interval[::-1])
        for seed in range(5)
    ]
    # t quantile of 99 degrees of freedom
    assert np.mean(widths) == pytest.approx(2 * 1.984 * np.std(scores), rel=0.25)


def test_no_datum_comes_twice():
    """It would look like information to a function that counts, or looks for neighbours."""
    sizes = []

    def distinct(codes, factors):
        sizes.append(len(codes))
        return len(np.unique(codes, axis=0)) / len(codes)

    _, factors = data(100)
    codes = np.random.RandomState(0).randn(100, 2)
    assert own(distinct, codes, factors, calibration=Calibration(5, 0)).interval == (1, 1)
    assert sizes == [100, *5 * [50], 100]


def test_factors_come_as_integers_from_0_and_codes_as_floats():
    codes, factors = data(100)
    seen = []

    def kinds(codes, factors):
        seen.append((codes.dtype, factors.dtype.kind, np.unique(factors).tolist()))
        return 0.5

    own(kinds, codes.astype(np.float32), 10.0 * factors + 5, calibration=None)
    assert seen == [(np.dtype(np.float64), "i", [0, 1, 2, 3])]


def test_a_function_may_change_what_it_gets():
    def careless(codes, factors):
        result = correlation(codes, factors)
        codes[:], factors[:] = 0, 0
        return result

    codes, factors = data()
    kept = codes.copy(), factors.astype(float)
    careful, found = (own(function, *kept) for function in (correlation, careless))
    assert (found.score, found.floor, found.ceiling) == (careful.score, careful.floor, careful.ceiling)
    assert found.interval == careful.interval
    assert np.array_equal(kept[0], codes)
    assert np.array_equal(kept[1], factors)


def test_the_seed_settles_it():
    one, same, other = (own(correlation, *data(), seed=seed) for seed in (1, 1, 2))
    assert (one.interval, one.floor) == (same.interval, same.floor)
    assert one.floor != other.floor


def test_bounds_and_direction_are_said():
    codes, factors = data(noise=0.01)

    def error(codes, factors):
        return 1 - correlation(codes, factors)

    found = own(error, codes, factors, bounds=(0, 1), higher_is_better=False, name="mine")
    assert found.interval[0] >= 0
    assert not found.higher_is_better
    assert "mine (lower is better)" in str(ScoreTable({"mine": found}))


def test_an_encoder_and_a_source_will_do():
    class Source:
        factor_sizes = (3, 4)

        def sample_factors(self, n, *, seed=None):
            return np.stack([seed.randint(size, size=n) for size in self.factor_sizes], axis=1)

        def observations(self, factors):
            return np.asarray(factors, dtype=float)

    found = own(correlation, lambda x: -x, Source(), num_points=200)
    assert found.score == pytest.approx(1)
    table = score(lambda x: -x, Source(), which=[correlation], num_points=200, progress=False)
    assert table["correlation"].score == pytest.approx(1)


# ---- In the table.


def test_it_has_a_row_beside_the_others():
    codes, factors = data()
    few = Calibration(bootstraps=3, permutations=3)
    table = score(codes, factors, which=["sap", correlation], calibration=few, seed=3, progress=False)
    assert list(table) == ["sap", "correlation"]
    alone = own(correlation, codes, factors, seed=3, calibration=few)
    assert str(table["correlation"]) == str(alone)
    assert table["sap"].score == sap(codes, factors, seed=3, calibration=None, progress=False).score
    row = table.to_frame().loc["correlation"]
    assert (row["score"], row["low"], row["high"]) == (alone.score, *alone.interval)
    assert (row["floor"], row["ceiling"]) == (alone.floor, alone.ceiling)
    assert "correlation" in str(table)


def test_it_is_drawn_with_the_others():
    table = score(*data(), which=["mig", correlation], calibration=FEW, progress=False)
    axes = plots.scores(table.to_frame())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["mig", "correlation"]
    plt.close(axes.figure)


def test_it_has_its_own_calibration_by_default():
    table = score(*data(), which=correlation, progress=False)
    assert str(table["correlation"]) == str(calibrated_score(correlation, *data(), progress=False))


def test_there_is_one_definition_for_reference_too():
    one, other = (
        score(*data(), which=[correlation], reference=reference, calibration=FEW, progress=False)
        for reference in (False, True)
    )
    assert str(one) == str(other)


def test_functions_of_the_room_stand_for_their_names():
    table = score(*data(), which=[mig, "mig", correlation, correlation], calibration=None, progress=False)
    assert list(table) == ["mig", "correlation"]
    assert "entropy" in table["mig"].parts


def test_a_function_may_call_a_score_of_the_room():
    def half_gap(codes, factors):
        return mig(codes[:, :2], factors[:, :2], calibration=None, progress=False)

    codes, factors = data()
    expected = mig(codes[:, :2], factors[:, :2], calibration=None, progress=False).score
    assert own(half_gap, codes, factors, calibration=None).score == expected


# ---- What is refused.

BAD = {
    "None": None,
    "nan": float("nan"),
    "inf": np.inf,
    "'0.5'": "0.5",
    "array([0.1, 0.2])": np.array([0.1, 0.2]),
    "1j": 1j,
    "(0.5, 'note')": (0.5, "note"),
}


@pytest.mark.parametrize("shown", BAD)
def test_anything_but_a_finite_number_is_refused(shown):
    with pytest.raises(ValueError, match="Expected broken to return one finite number but got") as caught:
        own(lambda codes, factors: BAD[shown], *data(), name="broken")
    assert f"got {shown} for these codes: return the number" in str(caught.value)


@pytest.mark.parametrize(
    ("call", "where"),
    [(2, "half of the data"), (3, "codes shuffled against the factors"), (4, "the factors as codes")],
)
def test_the_error_says_for_which_data(call, where):
    calls = []

    def late(codes, factors):
        calls.append(None)
        return np.nan if len(calls) == call else 0.5

    with pytest.raises(
        ValueError, match=f"Expected late to return one finite number but got nan for {where}"
    ):
        own(late, *data(), calibration=Calibration(1, 1))


def test_what_the_function_raises_is_passed_on():
    def fails(codes, factors):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        own(fails, *data())


def renamed(name):
    def function(codes, factors):
        return 0.0

    function.__name__ = name
    return function


REFUSED = {
    "two of one name": ([renamed("mine"), renamed("mine")], "two called 'mine': rename one of them"),
    "the name of another": ([renamed("sap")], "one called 'sap', which is a score here: rename it"),
    "the name of one elsewhere": ([renamed("udr")], "one called 'udr', which is a score here"),
    "no name": ([partial(correlation)], r"a function with a name but got .*: define it with def"),
    "no function": ([3], "but got 3: they are .*, or functions of your own"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_the_table_refuses(case):
    which, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        score(*data(), which=which, calibration=None, progress=False)


def test_what_is_no_function_is_refused():
    codes, factors = data()
    with pytest.raises(ValueError, match=r"Expected a function .* but got ndarray"):
        calibrated_score(codes, factors, correlation)


def test_codes_are_checked_as_for_any_score():
    codes, factors = data()
    with pytest.raises(ValueError, match="Expected a row of factors for every row of codes"):
        own(correlation, codes[1:], factors)


def test_a_table_holds_scores_under_their_own_names():
    with pytest.raises(ValueError, match="Expected scores under their own names but got 'mig' under 'good'"):
        ScoreTable({"good": Score("mig", 0.5), "bad": Score("mig", 0.1)})
