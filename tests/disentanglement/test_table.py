import numpy as np
import pandas as pd
import pytest

from pyro_infomax.disentanglement import Calibration, Score, ScoreTable, mig, sap, score

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


def test_codes_near_the_factors_are_near_the_ceiling(full):
    frame = full.to_frame()
    learned = frame[frame["higher_is_better"].astype(bool)]
    assert (learned["calibrated"] > 0.7).all(), learned


def test_it_prints_a_table_of_all(full):
    text = str(full)
    assert all(name in text for name in ALL)
    assert "gaussian_total_correlation (lower is better)" in text
    assert "nan" not in text.lower()


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
