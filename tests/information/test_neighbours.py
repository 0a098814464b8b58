"""The nearest posterior, against a search by hand."""

import torch
from scipy import spatial
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from pyro_infomax.information._control_variates import nearest


def by_hand(position: Tensor) -> Tensor:
    return torch.cdist(position, position).fill_diagonal_(torch.inf).argmin(1)


def test_it_is_the_nearest_in_widths_of_the_posteriors() -> None:
    mean, width = torch.randn(80, 2) * torch.tensor([1.0, 100.0]), torch.tensor([0.01, 100.0])
    found = nearest(Independent(Normal(mean, width), 1))
    assert torch.equal(found, by_hand(mean / width))
    assert not torch.equal(found, by_hand(mean))


def test_dimensions_that_tell_nothing_do_not_count() -> None:
    mean = torch.randn(80, 9)
    mean[:, 1:6] *= 1e-3
    found = nearest(Independent(Normal(mean, 0.1), 1))
    assert torch.equal(found, by_hand(mean[:, [0, 6, 7, 8]]))


def test_twins_are_neighbours_and_nobody_is_their_own() -> None:
    mean = torch.arange(60.0)[:, None].expand(60, 2)
    for copies in (2, 3):
        found = nearest(Independent(Normal(mean.repeat(copies, 1), 1.0), 1))
        assert torch.equal(found % 60, torch.arange(60).repeat(copies))
        assert not (found == torch.arange(60 * copies)).any()


def test_few_data_and_codes_without_moments_have_none() -> None:
    assert nearest(Independent(Normal(torch.randn(49, 2), 1.0), 1)) is None
    assert nearest(Independent(Categorical(torch.rand(80, 2, 3)), 1)) is None


def test_a_crowd_of_twins_takes_no_longer_than_other_data(monkeypatch) -> None:
    """All in one leaf of the tree, each would be compared with all."""
    seen = []

    class Watched(spatial.cKDTree):
        def __init__(self, points: object) -> None:
            super().__init__(points)
            seen.append(self.size)

    monkeypatch.setattr(spatial, "cKDTree", Watched)
    found = nearest(Independent(Normal(torch.zeros(2000, 2), 1.0), 1))
    assert seen[0] > 200
    assert int((found - torch.arange(2000)).abs().max()) == 1
