"""What is known in closed form about the draws, as covariates for the one regression."""

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from pyro_infomax.information.closed_forms import divergence, entropy, expected_log_normal, moments
from pyro_infomax.information.control_variates import (
    DRAWS_PER_COVARIATE,
    ControlVariates,
    Expectation,
    available_draws,
)
from pyro_infomax.information.draws import Draws


@final
@dataclass(frozen=True)
class Covariates:
    """Values of the draws (S, N, k) and their means over each datum's posterior (N, k)."""

    values: Tensor
    exact: Tensor

    @classmethod
    def of(cls, values: Tensor, exact: Tensor | None) -> "Covariates":
        """None for the mean gives no covariate; a missing last axis is one covariate."""
        if exact is None:
            return cls(values.new_zeros(*values.shape[:2], 0), values.new_zeros(values.shape[1], 0))
        values, exact = (each.unsqueeze(-1) if values.dim() == 2 else each for each in (values, exact))
        return cls(values, exact)

    @classmethod
    def cat(cls, *parts: "Covariates") -> "Covariates":
        return cls(torch.cat([each.values for each in parts], -1), torch.cat([each.exact for each in parts], -1))

    def sum(self) -> "Covariates":
        if not self.exact.shape[-1]:
            return self
        return Covariates(self.values.sum(-1, keepdim=True), self.exact.sum(-1, keepdim=True))

    @property
    def affordable(self) -> bool:
        samples, batch, size = self.values.shape
        return available_draws(samples, batch) >= DRAWS_PER_COVARIATE * size
