"""Any temperature from one scoring of both ends."""

import math

import torch

from pyro_infomax.information import AnnealedState


def state(offset: float = 0.0) -> AnnealedState:
    z = torch.randn(3, 2, 4)
    return AnnealedState(
        z, torch.zeros(3, 2) + offset, torch.ones(3, 2) + offset, torch.zeros_like(z), torch.ones_like(z)
    )


def test_a_temperature_mixes_both_ends() -> None:
    here = state()
    torch.testing.assert_close(here.log_prob(0.25), torch.full((3, 2), 0.25))
    torch.testing.assert_close(here.gradient(0.25), torch.full((3, 2, 4), 0.25))
    torch.testing.assert_close(here.log_ratio, torch.ones(3, 2))


def test_what_has_no_gradient_gives_no_push() -> None:
    here = state()
    here.target_gradient[0, 0, 0] = math.nan
    here.target_gradient[1, 0, 0] = math.inf
    assert here.gradient(0.5).isfinite().all()
    assert here.gradient(0.5)[0, 0, 0] == 0


def test_states_are_chosen_chain_by_chain() -> None:
    a, b = state(), state(5.0)
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    chosen = a.where(mask, b)
    for name in ("z", "log_start", "log_target", "start_gradient", "target_gradient"):
        found, of_a, of_b = (getattr(each, name) for each in (chosen, a, b))
        assert torch.equal(found[mask], of_a[mask])
        assert torch.equal(found[~mask], of_b[~mask])
