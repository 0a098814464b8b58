import math

import numpy as np
import pytest
import torch

from pyro_infomax.oracles import _checks as checks


def test_what_is_right_comes_back_in_float64() -> None:
    single = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float32)
    for check in (checks.real, checks.finite, checks.positive, checks.non_negative, checks.probabilities):
        assert check("p", single).dtype == torch.float64
    assert checks.probabilities("p", single).sum() == 1
    assert checks.real("d", [math.inf]).item() == math.inf


def test_arrays_may_run_backwards_be_read_only_or_come_in_a_list() -> None:
    ascending = np.array([0.2, 0.3, 0.5])
    ascending.flags.writeable = False
    torch.testing.assert_close(checks.probabilities("p", ascending[::-1]).numpy(), ascending[::-1].copy())
    for rows in ([ascending, ascending], [torch.from_numpy(ascending.copy())] * 2):
        torch.testing.assert_close(checks.finite("p", rows).numpy(), np.stack([ascending, ascending]))


def test_spectra_keep_their_order_and_lose_their_round_off() -> None:
    assert checks.spectrum_of("p", [1e-17, 2.0, -1e-17, 3.0]).tolist() == [0.0, 2.0, 0.0, 3.0]


def test_probabilities_over_several_axes() -> None:
    table = torch.full((2, 2, 2), 0.25)
    torch.testing.assert_close(checks.probabilities("p", table, axes=2), table)
    with pytest.raises(ValueError, match=r"Expected p to sum to 1 but got 0\.5; normalise it"):
        checks.probabilities("p", table)


@pytest.mark.parametrize(
    ("check", "value", "sentence"),
    [
        (checks.real, [math.nan, 1.0], "Expected p without nan but got 1 values"),
        (checks.finite, [math.inf, math.nan], "Expected p to be finite but got 2 values"),
        (checks.positive, [1.0, 0.0], r"Expected p > 0 but got 0\.0"),
        (checks.positive_number, [1.0, 2.0], r"Expected p of shape \(\) but got \(2,\)"),
        (checks.non_negative, [1.0, -2.0], r"Expected p >= 0 but got -2\.0"),
        (checks.probabilities, [], "Expected p with at least 1 axes"),
        (checks.probabilities, [0.0, 0.0], "Expected p to sum to 1 but got 0"),
        (checks.spectrum_of, [], r"Expected p of shape \(dim\)"),
        (checks.spectrum_of, [1.0, -1e-3], r"Expected p >= 0 with one positive but got -0\.001"),
        (checks.spectrum_of, [0.0], r"Expected p >= 0 with one positive but got 0\.0"),
        (checks.covariance_of, [1.0], r"Expected p of shape \(size, size\)"),
        (checks.covariance_of, [[1.0, 0.0]], r"Expected p of shape \(1, 1\) but got \(1, 2\)"),
        (checks.covariance_of, [[1.0, 0.5], [0.0, 1.0]], "Expected p to be symmetric"),
        (checks.covariance_of, [[1.0, 1.0], [1.0, 1.0]], "Expected p to be positive definite"),
    ],
)
def test_what_is_wrong_is_refused(check, value, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        check("p", value)
