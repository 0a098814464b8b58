import numpy as np
import pytest
import torch

from pyro_infomax.disentanglement._sample import codes_array, to_sample, to_split

CODES = np.arange(24.0).reshape(12, 2)
FACTORS = np.stack([np.arange(12) % 3 * 10 - 5, np.arange(12) // 6], axis=1)


def rng():
    return np.random.RandomState(0)


def test_factors_are_recoded_in_the_order_of_their_values():
    sample = to_sample(CODES, FACTORS)
    assert sample.sizes == (3, 2)
    assert sample.factors[:, 0].tolist() == [0, 1, 2] * 4
    assert sample.values[:, 0].tolist() == [-5, 5, 15] * 4
    assert (len(sample), sample.num_codes, sample.num_factors) == (12, 2, 2)


def test_tensors_and_whole_floats_will_do():
    codes = torch.tensor(CODES, dtype=torch.float32, requires_grad=True)
    sample = to_sample(codes, torch.tensor(FACTORS, dtype=torch.float64))
    assert sample.codes.dtype == np.float64
    assert np.array_equal(sample.codes, CODES)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int32])
def test_tensors_of_any_precision_will_do(dtype):
    assert np.array_equal(codes_array(torch.tensor(CODES, dtype=dtype)), CODES)


def test_codes_that_hardly_differ_from_0_are_0():
    codes = codes_array(CODES * [1e-62, 1e-59])
    assert (codes[:, 0] == 0).all()
    assert np.ptp(codes[:, 1]) > 0


def test_a_resampled_datum_keeps_its_factors_and_the_sizes_of_all():
    sample = to_sample(CODES, FACTORS).resampled(rng())
    rows = (sample.codes[:, 0] / 2).astype(int)
    assert np.array_equal(sample.values, FACTORS[rows])
    assert len(set(rows)) < 12
    assert sample.take(np.arange(2)).sizes == (3, 2)


def test_permuting_moves_whole_codes_and_no_factor():
    sample = to_sample(CODES, FACTORS).permuted(rng())
    assert np.array_equal(sample.values, FACTORS)
    assert not np.array_equal(sample.codes, CODES)
    assert np.array_equal(np.sort(sample.codes, axis=0), CODES)
    assert np.array_equal(sample.codes[:, 1] - sample.codes[:, 0], np.ones(12))


def test_factors_as_codes():
    assert np.array_equal(to_sample(CODES, FACTORS).as_codes().codes, FACTORS)
    alone = to_sample(CODES, FACTORS[:, :1]).as_codes()
    assert alone.dead.tolist() == [False, True]


def test_dead_codes_are_found():
    codes = np.concatenate([CODES, np.full((12, 1), 0.1)], axis=1)
    assert to_sample(codes, FACTORS).dead.tolist() == [False, False, True]


def test_the_reference_splits_in_order():
    split = to_split(to_sample(CODES, FACTORS), reference=True, rng=rng())
    assert np.array_equal(split.train.codes, CODES[:8])
    assert np.array_equal(split.test.codes, CODES[8:])


def test_a_split_is_shuffled_and_takes_every_datum_once():
    split = to_split(to_sample(CODES, FACTORS), reference=False, rng=rng())
    codes = np.concatenate([split.train.codes, split.test.codes])
    assert len(split.test) == 4
    assert not np.array_equal(codes, CODES)
    assert np.array_equal(np.sort(codes, axis=0), CODES)


def test_the_parts_of_a_split_are_resampled_and_permuted_by_themselves():
    split = to_split(to_sample(CODES, FACTORS), reference=True, rng=rng())
    for replicate in (split.resampled(rng()), split.permuted(rng())):
        assert set(replicate.train.codes[:, 0]) <= set(CODES[:8, 0])
        assert set(replicate.test.codes[:, 0]) <= set(CODES[8:, 0])
    assert np.array_equal(split.as_codes().test.codes, FACTORS[8:])


def poisoned(value):
    codes = CODES.copy()
    codes[3, 1] = value
    return codes


WRONG = {
    "nan": (poisoned(np.nan), FACTORS, "finite codes but got nan in row 3, column 1"),
    "inf": (poisoned(np.inf), FACTORS, "finite codes but got inf"),
    "nan factor": (CODES, poisoned(np.nan), "finite factors"),
    "lengths": (CODES, FACTORS[:11], "12 rows of codes and 11"),
    "a vector": (CODES[:, 0], FACTORS, r"codes of shape \(n, L\).*\(12,\)"),
    "no codes": (CODES[:, :0], FACTORS, r"codes of shape \(n, L\)"),
    "huge codes": (
        CODES * 1e60,
        FACTORS,
        r"between -1e\+60 and 1e\+60 but got 2e\+60 in row 1, column 0",
    ),
    "masked": (np.ma.masked_equal(CODES, 4.0), FACTORS, "finite codes but got nan in row 2, column 0"),
    "complex": (CODES + 1j, FACTORS, "codes to be an array of real numbers but got ndarray"),
    "a complex tensor": (torch.tensor(CODES + 1j), FACTORS, "real numbers but got Tensor"),
    "ragged": ([[1.0], [1.0, 2.0]], FACTORS, "real numbers but got list"),
    "huge factors": (CODES, FACTORS + 2**54, "factor 0 holds 1.80144e\\+16: number its values from 0"),
    "words": ([["a", "b"]] * 12, FACTORS, "codes to be an array of real numbers"),
    "tiny": (CODES[:9], FACTORS[:9], "at least 10 data but got 9"),
    "continuous": (CODES, FACTORS + 0.5, "integers but factor 0 holds"),
    "constant": (CODES, FACTORS * np.array([1, 0]), "factor 1 is always 0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case):
    codes, factors, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        to_sample(codes, factors)


def test_continuous_factors_where_they_may_be():
    assert to_sample(CODES, FACTORS + 0.5, continuous=True).values[0, 0] == -4.5


def test_codes_alone():
    assert np.array_equal(codes_array(CODES.tolist()), CODES)
    with pytest.raises(ValueError, match="at least 10"):
        codes_array(CODES[:3])
