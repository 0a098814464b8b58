"""Every test starts from an empty parameter store, in float64, and leaves torch's globals as they were."""

from collections.abc import Iterator

import matplotlib
import pyro
import pytest
import torch

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    pyro.clear_param_store()
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled():
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(dtype)
    pyro.clear_param_store()
