import math

import pytest
import torch

from pyro_infomax.oracles._checks import cross_entropy, divergence, entropy, mutual_information_of


def test_entropy_of_rows_and_of_all() -> None:
    p = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    first = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    torch.testing.assert_close(entropy(p, 1), torch.tensor([first, 0.0]))
    assert entropy(p).item() == pytest.approx(first)


def test_divergence_and_cross_entropy() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    assert divergence(p, q).item() == pytest.approx(0.5 * math.log(2))
    assert cross_entropy(p, q).item() == pytest.approx(1.5 * math.log(2))
    assert divergence(q, p) == cross_entropy(q, p) == math.inf
    assert divergence(p, p) == 0


def test_zeros_leave_the_gradient_finite() -> None:
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    q = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    (divergence(p, q) + entropy(p) + cross_entropy(p, q)).backward()
    assert p.grad is not None
    assert q.grad is not None
    torch.testing.assert_close(q.grad, torch.tensor([-2.0, -2.0, 0.0]))
    assert p.grad.isfinite().all()


def test_mutual_information_of_tables_side_by_side() -> None:
    tables = torch.stack([torch.eye(2) / 2, torch.full((2, 2), 0.25)])
    torch.testing.assert_close(mutual_information_of(tables), torch.tensor([math.log(2), 0.0]))
