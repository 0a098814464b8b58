import numpy as np
import pandas as pd
import pytest

from pyro_infomax import disentanglement
from pyro_infomax.disentanglement import (
    Calibration,
    Score,
    ScoreTable,
    gaussian_total_correlation_score,
    mig,
    sap,
    score,
)

SIZES = (3, 4, 5)
ALL = (
    "beta_vae_score",
    "factor_vae_score",
    "mig",
    "dci",
    "sap",
    "modularity",
    "explicitness",
    "irs",
    "gaussian_total_correlation",
    "wasserstein_correlation",
    "mutual_information_score",
)
SUPERVISED = ALL[:-3]
NEED_SEVERAL = {"beta_vae_score", "factor_vae_score", "dci", "modularity", "modularity reference"}
FEW = Calibration(bootstraps=3, permutations=3)


class Grid:
    factor_sizes = SIZES

    def sample_factors(self, n, *, seed=None):
        return np.stack([seed.randint(size, size=n) for size in SIZES], axis=1)

    def observations(self, factors):
        return np.asarray(factors, dtype=float)


def data(n=1200):
    draws = np.random.RandomState(5)
    factors = np.stack([draws.randint(size, size=n) for size in SIZES], axis=1)
    return factors + 0.2 * draws.randn(n, 3), factors


def shuffled(codes, seed):
    """Each code by itself, so that codes know nothing of one another either."""
    draws = np.random.RandomState(seed)
    return np.stack([draws.permutation(column) for column in codes.T], axis=1)


@pytest.fixture(scope="module")
def full():
    return score(*data(), calibration=FEW, progress=False)


def test_the_table_has_every_score_of_codes_and_factors(full):
    assert tuple(full) == ALL
    assert full.unavailable == {}
    assert all(isinstance(each, Score) for each in full.values())


def test_companions_have_rows(full):
    rows = full.to_frame().index
    assert set(rows) == {*ALL, "dci_completeness", "dci_informativeness"}


def test_the_frame_says_what_the_scores_say(full):
    frame = full.to_frame()
    row = frame.loc["mig"]
    assert row["score"] == full["mig"].score
    assert (row["low"], row["high"]) == full["mig"].interval
    assert (row["floor_low"], row["floor_high"]) == full["mig"].floor_interval
    assert row["calibrated"] == full["mig"].calibrated
    assert frame.loc["gaussian_total_correlation", "higher_is_better"] is np.False_
    assert pd.isna(frame.loc["gaussian_total_correlation", "ceiling"])


def function_of(name):
    return gaussian_total_correlation_score if name.startswith("gaussian") else getattr(disentanglement, name)


SLOW = ("beta_vae_score", "dci")
COUNTED = ("mig", "modularity", "irs", "mutual_information_score")


@pytest.mark.parametrize("name", [*ALL, *(f"{name} reference" for name in COUNTED)])
def test_codes_that_know_nothing_score_within_the_floor_interval(name):
    key, reference = name.split()[0], name.endswith("reference")
    function = (
        gaussian_total_correlation_score if key.startswith("gaussian") else getattr(disentanglement, key)
    )
    codes, factors = data(240)
    factors = factors if name in NEED_SEVERAL else factors[:, :1]
    permutations, number = (10, 6) if name in SLOW else (25, 13)
    options = {"reference": reference, "progress": False}
    floors = function(shuffled(codes, 0), factors, calibration=Calibration(0, permutations), **options)
    rest = [function(shuffled(codes, i), factors, calibration=None, **options) for i in range(1, number)]
    for floor, *others in zip(floors.all, *(each.all for each in rest), strict=True):
        low, high = floor.floor_interval
        values = np.array([each.score for each in (floor, *others)])
        # of 13 in intervals of 95 % fewer than 10 lie within in one case of 400
        assert ((values >= low) & (values <= high)).mean() > 0.75, (floor.name, low, high, values)


@pytest.mark.parametrize(
    "name", [*SUPERVISED, *(f"{name} reference" for name in SUPERVISED if name != "dci")]
)
def test_the_factors_score_the_ceiling(name):
    key, reference = name.split()[0], name.endswith("reference")
    function = (
        gaussian_total_correlation_score if key.startswith("gaussian") else getattr(disentanglement, key)
    )
    _, factors = data(240)
    score = function(factors, factors, reference=reference, calibration=Calibration(0, 0), progress=False)
    for each in score.all:
        assert each.ceiling == pytest.approx(each.score, abs=0.01), each.name
        if not reference and name != "sap":  # where the second best code is above chance by chance
            assert each.ceiling == pytest.approx(1, abs=1e-3), each.name


def test_codes_near_the_factors_are_near_the_ceiling(full):
    frame = full.to_frame()
    learned = frame[frame["higher_is_better"].astype(bool)]
    assert (learned["calibrated"] > 0.7).all(), learned


def test_it_prints_a_table_of_all(full):
    text = str(full)
    assert all(name in text for name in ALL)
    assert "gaussian_total_correlation (lower is better)" in text
    assert "nan" not in text.lower()
    assert repr(full) == text


def test_what_no_score_has_is_no_column():
    options = {"which": ["mig", "gaussian_total_correlation"], "progress": False}
    alone = score(*data(), calibration=None, **options)
    assert str(alone).splitlines()[0].split() == ["score"]
    assert list(alone.to_frame()) == list(score(*data(), calibration=FEW, **options).to_frame())
    floors = str(score(*data(), calibration=Calibration(0, 3), **options))
    assert "low" not in floors.split()
    assert "ceiling" in floors


def test_no_line_is_too_long():
    codes, factors = data()
    text = str(score(codes[:, :1], factors[:, :1], calibration=None, progress=False))
    assert max(map(len, text.splitlines())) <= 120


def test_a_single_code():
    codes, factors = data()
    table = score(codes[:, :1], factors, calibration=None, progress=False)
    assert {"mig", "dci", "sap"} <= table.unavailable.keys()
    assert {"beta_vae_score", "modularity", "explicitness", "irs"} <= table.keys()


def test_a_score_in_the_table_is_the_score_by_itself():
    table = score(*data(), which=["mig", "sap"], calibration=FEW, seed=7, progress=False)
    for name, function in (("mig", mig), ("sap", sap)):
        alone = function(*data(), calibration=FEW, seed=7, progress=False)
        assert (table[name].score, table[name].interval, table[name].floor) == (
            alone.score,
            alone.interval,
            alone.floor,
        )


def test_reference_reaches_the_scores():
    options = {"which": ["mig"], "calibration": None, "progress": False}
    assert score(*data(), reference=True, **options)["mig"].score == mig(*data(), reference=True).score
    assert score(*data(), reference=True, **options)["mig"].score != score(*data(), **options)["mig"].score


def test_without_calibration():
    table = score(*data(), which="modularity", calibration=None, progress=False)
    assert table["modularity"].floor is None


def test_an_encoder_and_a_source():
    which = ["mig", "irs", "factor_vae_score", "mutual_information_score"]
    options = {"which": which, "calibration": None, "progress": False}
    table = score(lambda x: 2 * x, Grid(), num_points=1200, **options)
    assert table["mig"].score == pytest.approx(1, abs=1e-9)
    assert table["factor_vae_score"].score == 1
    assert table["mutual_information_score"].score == pytest.approx(0, abs=0.02)
    assert table.to_frame().equals(score(lambda x: 2 * x, Grid(), num_points=1200, **options).to_frame())


def test_what_cannot_be_had_stands_beside_the_rest():
    codes, factors = data()
    table = score(codes, factors[:, :1], calibration=None, progress=False)
    assert {"dci", "modularity"} <= table.unavailable.keys()
    assert {"mig", "sap", "explicitness"} <= table.keys()
    assert "dci: not available, Expected" in str(table)
    with pytest.raises(ValueError, match="factor"):
        score(codes, factors[:, :1], which=["dci"], calibration=None)


WRONG = {
    "unknown": ({"which": ["gap"]}, "but got 'gap': they are beta_vae_score"),
    "of a posterior": ({"which": ["chen_mig"]}, "call chen_mig itself"),
    "of models": ({"which": ["udr"]}, "call udr itself"),
    "none": ({"which": []}, "a score but got none"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_names_are_refused(case):
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        score(*data(), **options)


def test_data_that_no_score_can_use_are_refused():
    codes, factors = data()
    codes[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite codes"):
        score(codes, factors)
    with pytest.raises(ValueError, match="factor 0 is always"):
        score(data()[0], 0 * factors)


def test_an_empty_table_is_a_table():
    assert len(ScoreTable({})) == 0
    assert ScoreTable({}).to_frame().empty
