"""Distributions of several families in one."""

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    Normal,
    Poisson,
    StudentT,
    kl_divergence,
)

from pyro_infomax.distributions import SideBySide, in_parts, joined, parts_of


def parts(batch=(5,)):
    torch.manual_seed(0)
    return [
        LogNormal(torch.randn(*batch, 2), 0.5),
        Bernoulli(torch.rand(*batch, 1).float()),
        Laplace(torch.randn(*batch, 3), 1.0),
    ]


def test_scores_and_moments_stand_side_by_side() -> None:
    both, each = SideBySide(parts()), parts()
    assert both.batch_shape == (5, 6)
    assert both.event_shape == ()
    z = both.sample((4,))
    assert z.shape == (4, 5, 6)
    assert z.dtype == torch.float64
    pieces = z.split([2, 1, 3], -1)
    expected = torch.cat([part.log_prob(piece) for part, piece in zip(each, pieces, strict=True)], -1)
    torch.testing.assert_close(both.log_prob(z), expected)
    for moment in ("mean", "variance"):
        torch.testing.assert_close(getattr(both, moment)[:, :2], getattr(each[0], moment))
        torch.testing.assert_close(getattr(both, moment)[:, 3:], getattr(each[2], moment))
    assert not both.has_rsample


def test_points_meet_all_rows() -> None:
    both = SideBySide(parts())
    z = both.sample()  # (data, latent)
    table = both.log_prob(z[:3, None])
    assert table.shape == (3, 5, 6)
    torch.testing.assert_close(table.diagonal().T, both.log_prob(z)[:3])


def test_it_is_a_product_like_any_other() -> None:
    product = Independent(SideBySide([Laplace(torch.zeros(5, 1), 1.0), Normal(torch.zeros(5, 2), 2.0)]), 1)
    assert product.has_rsample
    assert product.rsample().shape == (5, 3)
    entropy = Laplace(0.0, 1.0).entropy() + 2 * Normal(0.0, 2.0).entropy()
    torch.testing.assert_close(product.entropy(), entropy.expand(5).double())
    assert product.expand([7, 5]).batch_shape == (7, 5)


def test_a_missing_moment_is_missing_in_all() -> None:
    with pytest.raises(NotImplementedError):
        SideBySide([Normal(torch.zeros(5, 1), 1.0), Poisson(torch.ones(5, 1))]).entropy()


def test_divergences_go_part_by_part() -> None:
    q, p = parts(), [Gamma(torch.ones(2), 2.0), Bernoulli(torch.tensor([0.3])), Laplace(torch.zeros(3), 1.0)]
    found = kl_divergence(SideBySide(q), SideBySide(p).expand([5, 6]))
    torch.testing.assert_close(found[:, 3:], kl_divergence(q[2], p[2]))
    z = q[0].sample((200_000,))
    gap = q[0].log_prob(z) - p[0].log_prob(z)
    assert ((found[:, :2] - gap.mean(0)).abs() < 4 * gap.std(0) / 200_000**0.5).all()


def test_divergences_from_and_to_plain_normals() -> None:
    q = [Normal(torch.randn(5, 2), 0.5), Normal(torch.randn(5, 1), 2.0)]
    p = [Normal(torch.zeros(2), 1.0), Normal(torch.ones(1), 1.0)]
    expected = torch.cat([kl_divergence(one, other) for one, other in zip(q, p, strict=True)], -1)
    for one, other in ((joined(q), SideBySide(p)), (SideBySide(q), joined(p))):
        torch.testing.assert_close(kl_divergence(one, other), expected)


def test_a_missing_divergence_is_no_number() -> None:
    q, p = SideBySide([Normal(torch.zeros(5, 1), 1.0)]), SideBySide([StudentT(torch.ones(1))])
    with pytest.raises(NotImplementedError, match="not all parts have a divergence"):
        kl_divergence(q, p)


def test_parts_come_back() -> None:
    normals = [Normal(torch.randn(5, 2), 0.5), Normal(torch.randn(5, 1), 2.0)]
    assert isinstance(joined(normals), Normal)
    for one, other in zip(parts_of(joined(normals), [2, 1]), normals, strict=True):
        assert torch.equal(one.loc, other.loc)
        assert torch.equal(one.scale, other.scale)
    mixed = parts()
    assert parts_of(joined(mixed), [2, 1, 3]) == mixed
    assert joined(mixed[:1]) is mixed[0]
    with pytest.raises(NotImplementedError, match=r"SideBySide is not known in parts of the sizes \[3, 3\]"):
        parts_of(joined(mixed), [3, 3])


def test_classes_are_scored_from_any_numbers() -> None:
    both = SideBySide([Categorical(torch.tensor([[[0.2, 0.8]]])), Normal(torch.zeros(1, 1), 1.0)])
    expected = torch.tensor([[0.8, 0.5 / (torch.pi / 2) ** 0.5]]).log()
    torch.testing.assert_close(both.log_prob(torch.tensor([[1.0, 0.0]])), expected)


def test_parts_of_many_data_make_the_whole() -> None:
    for factors in (SideBySide(parts((9000,))), Laplace(torch.randn(9000, 2), 1.0)):
        some = list(in_parts(factors))
        assert [each.batch_shape[0] for each in some] == [8192, 808]
        torch.testing.assert_close(torch.cat([each.mean for each in some]), factors.mean, rtol=0, atol=0)
    few = Laplace(torch.randn(9, 2), 1.0)
    assert list(in_parts(few)) == [few]
