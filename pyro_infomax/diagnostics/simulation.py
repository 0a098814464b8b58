"""Data that were simulated from a model, with the latents that they came from."""

from collections.abc import Callable
from typing import Any, Final, final

import torch

from pyro_infomax.joint import GenerativeJoint
from pyro_infomax.joint.latent_space import Sites
from pyro_infomax.joint.scoring import cycled
from pyro_infomax.nn.module_modes import evaluation_mode
from pyro_infomax.poutine import LocalProgram, SiteLayout, as_data, rows_of
from pyro_infomax.random_state import isolated_random_state

__all__ = ["Simulated"]

# what single precision leaves of sums over many sites
_RELATIVE: Final = 1e-4
_ABSOLUTE: Final = 1e-4

Tensors = tuple[torch.Tensor, ...]


@final
class Simulated:
    r"""Data drawn from a model, :math:`(z, x) \sim p(z) p(x \mid z)`, together with their latents.

    Each z is an exact draw from the posterior :math:`p(z \mid x)` of its own x. No real datum comes with one,
    which is why only these data have an upper bound on their log-evidence, see
    :func:`annealed_importance_sampling`.

    Reference: Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional
    Monte Carlo.

    Args:
        model: the Pyro program, whose observed sites are arguments of it.
        num_data: how many to draw.
        *args: data of the model, whose rows are used in turn, for their shapes and as covariates.
        seed: isolates the draws from torch's global state.
        data_plate: the name of the data plate, where it is not the only candidate.

    Attributes:
        model: what they were drawn from.
        data: the arguments of the model with the observed ones drawn, a tuple of tensors.
        latents: site names to (num_data, *event).

    Raises:
        ValueError: if an observed site is no argument of the model, if the prior follows the observed data,
            if the model has no latent site, or if ``args`` are missing.
        NotImplementedError: if the model has factors or global latents.

    Example:
        >>> from pyro_infomax.oracles import LinearGaussian
        >>> oracle = LinearGaussian.optimum([4.0, 2.0], beta=1.0, latent_dim=1, s2=0.5)
        >>> simulated = Simulated(oracle.model, 5, torch.zeros(1, 2, dtype=torch.float64), seed=0)
        >>> simulated.data[0].shape, simulated.latents["z"].shape
        (torch.Size([5, 2]), torch.Size([5, 1]))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        num_data: int,
        *args: torch.Tensor,
        seed: int | None = None,
        data_plate: str | None = None,
    ) -> None:
        self.model = model
        joint = GenerativeJoint(model, data_plate=data_plate)
        with evaluation_mode(model), torch.no_grad():
            sites = joint.sample(num_data, *args, seed=seed)
            given = cycled(as_data(args), num_data)
            program = joint.program(given)
            if not program.latents:
                raise ValueError("Expected a model with latent sites but got none; x alone has no posterior")
            self.latents = {name: sites[name] for name in program.latents}
            self.data = _observed_in(program, given, sites)
            self._log_prob = sum(joint.log_terms(self.data, self.latents), start=torch.zeros(()))
            self._check_reproduces(joint.log_prob(sites, *given))

    def _check_reproduces(self, drawn: torch.Tensor) -> None:
        if not _agree(self._log_prob, drawn):
            raise ValueError(
                "Expected a model whose latents and likelihood follow its observed arguments by their sites "
                "alone, but it scores the simulated data otherwise than it drew them; pass what it "
                "conditions on as an argument of its own"
            )

    def check_origin(self, model: Callable[..., Any], joint: GenerativeJoint) -> None:
        """Refuses what these data were not drawn from.

        Args:
            model: the one that they are to come from.
            joint: its generative joint.

        Raises:
            ValueError: if it is another model, or if model, data or latents have changed since the draw.
        """
        if model != self.model:
            raise ValueError(
                "Expected data simulated from this very model but got some of another one, whose latents are "
                "no draws of this one's posterior; simulate them from it, as Simulated(model, n, x)"
            )
        found = sum(joint.log_terms(self.data, self.latents), start=torch.zeros(()))
        if not _agree(found, self._log_prob):
            raise ValueError(
                "Expected simulated data as they were drawn but their density under the model is another one "
                "now, since parameters, data or latents have changed; simulate them again"
            )


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=_RELATIVE, atol=_ABSOLUTE)


@torch.no_grad()
def _observed_in(program: LocalProgram, given: Tensors, sites: Sites) -> Tensors:
    """The arguments with the observed ones replaced by the values of their sites."""
    first = next(program.pieces(len(given[0])))
    part = rows_of(given, first) if program.follows else given
    with isolated_random_state():
        nodes = program.trace(part, None if program.follows else first).nodes
    data = list(given)
    for name, layout in program.observed.items():
        position = _position(layout, nodes[name]["value"], part)
        data[position] = sites[name].reshape(given[position].shape).to(given[position].dtype)
    return tuple(data)


def _position(layout: SiteLayout, value: torch.Tensor, arguments: Tensors) -> int:
    """Which argument an observed value is: the one whose memory it shares, or else the one that it equals."""
    whole = [i for i, each in enumerate(arguments) if each.numel() == value.numel()]
    shared = [i for i in whole if _memory(arguments[i]) == _memory(value)]
    equal = [i for i in whole if torch.equal(arguments[i].reshape(-1).to(value.dtype), value.reshape(-1))]
    found = shared or equal
    if len(found) != 1:
        raise ValueError(
            f"Expected each observed site of the model to be one of its arguments but {layout.name!r} is "
            f"{'none' if not found else 'any'} of them; write obs=x with an argument x of its own"
        )
    return found[0]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
