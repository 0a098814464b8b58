import math

import numpy as np
import pytest
import torch
from pyro.distributions import MultivariateStudentT
from scipy.stats import multivariate_t, t

from pyro_infomax.oracles import CorrelatedNormals, CorrelatedStudent, dense_covariance


@pytest.mark.parametrize(("df", "correlation"), [(3.0, 0.0), (6.0, 0.7)])
def test_truth_by_numerical_integration(df: float, correlation: float) -> None:
    shape = [[1, correlation], [correlation, 1]]
    joint = multivariate_t(shape=shape, df=df)
    angle = (torch.arange(800) + 0.5) / 800 * math.pi - math.pi / 2
    x = angle.tan().numpy()  # brings the tails within reach
    width = math.pi / 800 * (1 + x * x)
    log_joint = joint.logpdf(np.stack(np.meshgrid(x, x), -1))
    log_alone = t.logpdf(x, df)
    terms = np.exp(log_joint) * (log_joint - log_alone - log_alone[:, None]) * width * width[:, None]
    truth = CorrelatedStudent(shape, 1, df).mutual_information
    assert terms.sum() == pytest.approx(truth.item(), abs=1e-4)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("df", [1.0, 4.5])
def test_truth_is_the_entropies_that_scipy_knows(m: int, n: int, df: float) -> None:
    shape = dense_covariance(m + n, 0.4)
    blocks = (shape[:m, :m], shape[m:, m:], shape)
    x, y, both = (multivariate_t(shape=block.numpy(), df=df).entropy() for block in blocks)
    assert CorrelatedStudent(shape, m, df).mutual_information.item() == pytest.approx(x + y - both, abs=1e-10)


def test_tails_tell_of_each_other_without_any_correlation() -> None:
    tails = [CorrelatedStudent(torch.eye(5), 2, df).mutual_information.item() for df in (1.0, 5.0, 1e6)]
    assert tails[0] > tails[1] > 0.01
    assert tails[2] == pytest.approx(0, abs=1e-5)


def test_many_degrees_of_freedom_are_normal() -> None:
    shape = dense_covariance(5, 0.5)
    normal, student = CorrelatedNormals(shape, 2), CorrelatedStudent(shape, 2, 1e6)
    torch.testing.assert_close(student.mutual_information, normal.mutual_information, atol=1e-4, rtol=0)


def test_densities_make_up_the_joint() -> None:
    shape = dense_covariance(5, 0.3)
    pair = CorrelatedStudent(shape, x_dim=2, df=3.0)
    x, y = 3 * torch.randn(6, 2), 3 * torch.randn(6, 3)
    both = MultivariateStudentT(3.0, torch.zeros(5), torch.linalg.cholesky(shape)).log_prob(
        torch.cat([x, y], 1)
    )
    alone = MultivariateStudentT(3.0, torch.zeros(2), torch.linalg.cholesky(shape[:2, :2])).log_prob(x)
    torch.testing.assert_close(alone + pair.conditional(x).log_prob(y), both)


def test_draws_have_the_tails() -> None:
    x, y = CorrelatedStudent(torch.eye(2), 1, 3.0).sample(20_000, seed=0)
    for part in (x, y):
        share = (part.abs() > t.ppf(0.99, 3)).double().mean().item()
        assert share == pytest.approx(0.02, abs=4 * math.sqrt(0.02 * 0.98 / 20_000))


@pytest.mark.parametrize("df", [0.0, -1.0, math.nan])
def test_wrong_degrees_of_freedom_are_refused(df: float) -> None:
    with pytest.raises(ValueError, match="Expected df"):
        CorrelatedStudent(torch.eye(2), 1, df)
