import subprocess
import sys
from pathlib import Path

import pytest

import pyro_infomax
from pyro_infomax import distributions

WITHOUT = {"pyro", "sklearn", "pandas", "xarray", "scipy.interpolate"}
SCRIPT = """
import sys, types
package = types.ModuleType("pyro_infomax")
package.__path__ = [{path!r}]
sys.modules["pyro_infomax"] = package
import torch
from torch.distributions import Independent, Normal
from pyro_infomax.information import AggregatePosterior, mutual_information
posterior = Independent(Normal(torch.randn(20, 2), 0.5), 1)
mutual_information(posterior), AggregatePosterior(posterior).log_prob_marginals(torch.zeros(1, 2))
print(*({names!r} & sys.modules.keys()))
"""


def test_information_is_imported_and_used_without_heavy_libraries():
    script = SCRIPT.format(path=str(Path(pyro_infomax.__file__).parent), names=WITHOUT)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_waits_for_pyro_is_there_all_the_same():
    assert set(distributions.__all__) <= set(dir(distributions))
    assert all(getattr(distributions, name).__name__ == name for name in distributions.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'missing'"):
        _ = distributions.missing
