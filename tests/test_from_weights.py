"""Weights of any origin against closed forms, under ArviZ 0.23 and, without torch, under ArviZ 1."""

import math
import warnings
from importlib import import_module

import arviz as az
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import pyro_infomax
from pyro_infomax import from_weights

IS_TREE = not az.__version__.startswith("0.")
X = np.linspace(-2, 2, 8)
LOG_EVIDENCE = -(X**2) / 4 - math.log(4 * math.pi) / 2


def weighted(scale: float, samples: int, seed: int = 0):
    """z ~ N(x / 2, scale²) for z ~ N(0, 1) and x ~ N(z, 1), whose posterior is N(x / 2, 1 / 2)."""
    z = X / 2 + scale * np.random.default_rng(seed).normal(size=(samples, len(X)))
    log_joint = -(z**2) / 2 - (X - z) ** 2 / 2 - math.log(2 * math.pi)
    log_proposal = -((z - X / 2) ** 2) / (2 * scale**2) - math.log(scale) - math.log(2 * math.pi) / 2
    return log_joint - log_proposal, z


def test_it_is_offered_at_the_top():
    assert "from_weights" in pyro_infomax.__all__


def test_the_evidence_is_bounded_within_its_error():
    found = from_weights(weighted(1.0, 4000)[0])
    assert (np.abs(found.per_datum - LOG_EVIDENCE) < 4 * found.standard_error).all()
    assert abs(found.lower - LOG_EVIDENCE.mean()) < 4 * found.lower_standard_error
    assert found.unreliable.size == 0


def test_the_error_is_the_spread_over_repetitions():
    repeated = [from_weights(weighted(1.0, 100, seed)[0]) for seed in range(200)]
    spread = np.std([each.per_datum for each in repeated], axis=0)
    told = np.sqrt(np.mean([each.standard_error**2 for each in repeated], axis=0))
    assert (abs(told / spread - 1) < 0.25).all()  # the error of a standard deviation of 200 is 5 %
    assert (
        abs(
            np.mean([each.lower_standard_error for each in repeated])
            / np.std([each.lower for each in repeated])
            - 1
        )
        < 0.25
    )


def test_the_jackknife_leaves_one_out():
    log_weight = weighted(0.6, 12)[0]
    left_out = [np.log(np.exp(np.delete(log_weight, i, 0)).mean(0)) for i in range(12)]
    truth = 11 / 12 * np.square(left_out - np.mean(left_out, 0)).sum(0)
    np.testing.assert_allclose(from_weights(log_weight).standard_error ** 2, truth, rtol=1e-10)


def test_the_jackknife_of_a_weight_that_outweighs_the_rest():
    log_weight = np.array([0.0, -50.0, -51.0, -52.0])[:, None]
    left_out = [np.logaddexp.reduce(np.delete(log_weight[:, 0], i)) - math.log(3) for i in range(4)]
    truth = 3 / 4 * np.square(left_out - np.mean(left_out)).sum()
    assert truth > 400
    np.testing.assert_allclose(from_weights(log_weight).standard_error ** 2, truth, rtol=1e-10)


def test_the_exact_posterior_has_the_evidence_and_no_tail():
    found = from_weights(weighted(0.5**0.5, 100)[0])
    np.testing.assert_allclose(found.per_datum, LOG_EVIDENCE, atol=1e-12)
    assert (found.pareto_k == -np.inf).all()
    np.testing.assert_allclose(found.effective_sample_size, 100)
    assert found.standard_error.max() < 1e-12


def psislw(log_weight):
    """ArviZ's Pareto k of log-weights (samples, data); from 1 on, it takes their negatives."""
    if IS_TREE:
        smooth = import_module("arviz_stats.base").array_stats.psislw
        return smooth(-log_weight, axis=0)[1]
    return az.psislw(log_weight.T)[1]


@pytest.mark.parametrize("samples", [40, 900])  # ArviZ 1 rounds the length of the tail down
def test_pareto_k_is_that_of_arviz(samples):
    log_weight = weighted(0.4, samples)[0]
    np.testing.assert_allclose(from_weights(log_weight).pareto_k, psislw(log_weight), atol=1e-6)


def test_a_proposal_that_is_too_narrow_is_named():
    found = from_weights(weighted(0.2, 500)[0])
    assert len(found.unreliable) > 4
    assert found.threshold == pytest.approx(1 - 1 / math.log10(500))
    assert "draw more, or from wider proposals" in str(found)
    wide = str(from_weights(weighted(1.0, 500)[0])).splitlines()
    assert len(wide) == 3
    assert wide[1] == "8 data, 500 weights each"
    assert "at least 21 weights" in str(from_weights(weighted(1.0, 20)[0]))


def test_resampled_draws_are_of_the_posterior():
    log_weight, z = weighted(1.0, 20_000)
    places, rows = np.mgrid[:20_000, :8]
    found = from_weights(log_weight, draws={"z": z, "place": places, "row": rows})
    drawn = found.resample(4000, seed=0)
    error = 0.5**0.5 / 4000**0.5
    assert (abs(drawn["z"].mean(0) - X / 2) < 5 * error).all()
    assert (abs(drawn["z"].std(0) / 0.5**0.5 - 1) < 0.06).all()
    # in no order of the proposals, so that the first of them are draws like all others
    assert abs(np.corrcoef(drawn["place"][:, 0], np.arange(4000))[0, 1]) < 5 / 4000**0.5
    # every site is taken at the same place, and no datum has the draws of another
    assert (drawn["row"] == np.arange(8)).all()
    assert np.array_equal(drawn["z"], found.resample(4000, seed=0)["z"])
    assert not np.array_equal(drawn["z"], found.resample(4000, seed=1)["z"])


def test_draws_of_which_nothing_is_known_are_not_to_be_used():
    few = from_weights(weighted(1.0, 20)[0])
    assert few.unreliable.tolist() == list(range(8))
    log_weight = np.zeros((50, 3))
    log_weight[:, 2] = np.log(np.linspace(1, 2, 50))
    kind = np.zeros((50, 3))
    kind[7, 1] = 1
    found = from_weights(log_weight, draws={"kind": kind, "none": np.zeros((50, 3, 0))})
    # one value alone was drawn of the first, two have the same weight of the second
    np.testing.assert_array_equal(np.isnan(found.pareto_k), [True, False, False])
    assert found.pareto_k[1] == -np.inf
    assert found.unreliable.tolist() == [0]
    assert "not known where all draws are one value: data 0" in str(found)
    assert "for 0 of 3" in str(found)
    sure = from_weights(log_weight[:, :2], draws={"kind": 0 * kind[:, :2]})
    assert str(sure).splitlines()[2:] == ["Pareto k is not known where all draws are one value: data 0, 1"]
    with pytest.raises(ValueError, match="seed to be an integer >= 0 but got -1"):
        found.resample(3, seed=-1)


def test_chains_are_one_sample():
    log_weight, z = weighted(1.0, 400)
    chains = from_weights(log_weight.reshape(4, 100, 8), draws={"z": z.reshape(4, 100, 8, 1)})
    np.testing.assert_array_equal(chains.per_datum, from_weights(log_weight).per_datum)
    np.testing.assert_array_equal(chains.draws["z"][..., 0], z)


def test_weights_of_zero():
    log_weight = weighted(1.0, 50)[0]
    log_weight[:, 0], log_weight[1:, 1] = -np.inf, -np.inf
    found = from_weights(log_weight, draws={"z": log_weight})
    assert found.per_datum[0] == -np.inf
    assert found.per_datum[1] == log_weight[0, 1] - math.log(50)
    assert found.effective_sample_size[:2].tolist() == [0, 1]
    assert (found.pareto_k[:2] == np.inf).all()
    assert (found.standard_error[:2] == np.inf).all()
    with pytest.raises(ValueError, match="for 1 of 8 data all are zero, the first in row 0"):
        found.resample(3)


def test_the_native_object():
    log_weight, z = weighted(1.0, 300)
    found = from_weights(log_weight, draws={"z": z[..., None], "kind": (z > 0).astype(int)})
    native = found.to_arviz(50, seed=0, coords={"datum": list("abcdefgh")}, dims={"z": ["axis"]})
    assert type(native) is (xr.DataTree if IS_TREE else az.InferenceData)
    posterior = native["posterior"]
    assert dict(posterior["z"].sizes) == {"chain": 1, "draw": 50, "datum": 8, "axis": 1}
    assert posterior["kind"].dtype.kind == "i"
    assert list(posterior["datum"].values) == list("abcdefgh")
    np.testing.assert_array_equal(native["importance"]["pareto_k"], found.pareto_k)
    assert native["importance"].attrs["num_samples"] == 300
    with pytest.raises(ValueError, match="nothing is called"):
        found.to_arviz(5, dims={"w": ["axis"]})
    with pytest.raises(ValueError, match="only weights were given"):
        from_weights(log_weight).to_arviz()


def test_arviz_compares_them():
    better, worse = (from_weights(weighted(scale, 2000)[0]) for scale in (0.8, 0.3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what ArviZ does with pandas, and of the large k
        frame = az.compare({"worse": worse.elpd, "better": better.elpd})
    assert list(frame.index) == ["better", "worse"]
    difference = better.per_datum - worse.per_datum
    assert abs(frame.loc["worse", "elpd_diff"]) == pytest.approx(difference.sum(), abs=0.06)
    assert frame.loc["worse", "dse"] == pytest.approx(math.sqrt(8 * difference.var()), rel=0.02)


def test_the_frame():
    found = from_weights(weighted(1.0, 100)[0])
    frame = found.to_frame()
    assert list(frame) == ["lower", "standard_error", "pareto_k", "effective_sample_size"]
    assert frame.index.name == "datum"
    assert frame["lower"].mean() == pytest.approx(found.lower)


def test_data_are_known_by_their_values():
    log_weight = weighted(1.0, 30)[0]
    data = X.astype(np.float32)
    known = from_weights(log_weight, data=data).fingerprint
    assert known == from_weights(log_weight, data=(data.astype(np.float64),)).fingerprint
    assert known == from_weights(log_weight, data=pd.Series(data)).fingerprint
    assert known == from_weights(log_weight, data=[*map(float, data)]).fingerprint
    assert known != from_weights(log_weight, data=data[::-1]).fingerprint
    whole, other = np.arange(8, dtype=np.uint16), pd.array(range(8), dtype="Int64")
    known = from_weights(log_weight, data=(whole, data)).fingerprint
    assert known == from_weights(log_weight, data=[whole.astype(np.int64), data]).fingerprint
    assert known == from_weights(log_weight, data=(pd.Series(other), data)).fingerprint
    mixed = from_weights(log_weight, data=pd.DataFrame({"a": other, "b": data})).fingerprint
    assert mixed == from_weights(log_weight, data=np.stack([whole, data], 1)).fingerprint
    assert not from_weights(log_weight).fingerprint


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            {"log_weight": np.zeros(5)},
            r"\(samples, data\).*got \(5,\); a single datum is log_weight\[:, None\]",
        ),
        ({"log_weight": np.zeros((1, 5))}, "at least two weights of at least one datum but got 1 of 5"),
        ({"log_weight": np.zeros((5, 0))}, "at least two weights of at least one datum but got 5 of 0"),
        ({"log_weight": np.diag([np.nan, 0, np.inf])}, "nan or inf for 2 of 3 data, the first in row 0"),
        ({"log_weight": np.ma.masked_greater(np.eye(3), 0.5)}, "log_weight without masked values"),
        ({"log_weight": np.zeros((4, 3)) + 1j}, "log_weight of real numbers but got complex128"),
        (
            {"log_weight": xr.DataArray(np.zeros((3, 4)), dims=("datum", "draw"))},
            r"first dimensions are \['draw'\] but got \['datum', 'draw'\]; write .transpose\('draw', ...\)",
        ),
        (
            {"log_weight": np.zeros((4, 3)), "data": (np.zeros(3), np.zeros((2, 5)))},
            r"a row for each of the 3 data of log_weight but got the lengths \[\[3\], \[2\]\]",
        ),
        (
            {"log_weight": np.zeros((4, 3)), "draws": {"z": np.zeros((3, 4))}},
            r"draws of 'z' that begin with the axes of log_weight, \(4, 3\), but got \(3, 4\)",
        ),
    ],
)
def test_wrong_input_is_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_weights(**arguments)
