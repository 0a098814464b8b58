"""How a critic is trained: by a torch optimiser, whose steps can be recorded as operations on tensors too."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import SGD, Adam, AdamW, Optimizer, optimizer as torch_optimizer

from pyro_infomax._data import Tensors
from pyro_infomax._recording import NotCapturableError
from pyro_infomax._types import State

# ---- What makes an optimiser, and what it minimises.

OptimizerFactory: TypeAlias = Callable[[Iterable[nn.Parameter]], Optimizer]


def adam(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Adam at the learning rate that suits most critics."""
    return Adam(parameters, lr=1e-3)


def minimise(optimizer: Optimizer, loss: Callable[[], Tensor]) -> None:
    """Takes a step of an optimiser, which may evaluate the loss several times."""

    def closure() -> float:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimizer.step(closure)
        optimizer.zero_grad()


def scores_of(critic: nn.Module, parts: Tensors) -> Tensor:
    """What a critic says of rows, (batch,).

    Args:
        critic: ``critic(*parts)`` scores rows.
        parts: (batch, \\*event) each.

    Raises:
        ValueError: for a critic that gives another shape.
    """
    scores = critic(*parts)
    if not isinstance(scores, Tensor) or scores.shape != parts[0].shape[:1]:
        found = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise ValueError(
            f"Expected the critic to score {len(parts)} parts of {len(parts[0])} rows as a tensor of "
            f"shape ({len(parts[0])},) but got {found}."
        )
    return scores


def logistic_loss(critic: nn.Module, first: Tensors, second: Tensors, *, gradient_penalty: float) -> Tensor:
    """What a critic costs that is to score rows of the first kind high, and of the second kind low.

    It is the one loss whose optimum is the log-ratio and whose gradient cannot explode. The penalty is the
    weight of half the squared gradient of the score in what it scores, the mean of both kinds.
    """
    loss = softplus(-scores_of(critic, first)).mean() + softplus(scores_of(critic, second)).mean()
    if gradient_penalty:
        squares = _squared_gradient(critic, first) + _squared_gradient(critic, second)
        loss = loss + gradient_penalty / 4 * squares
    return loss


def _squared_gradient(critic: nn.Module, parts: Tensors) -> Tensor:
    """The mean over rows of the squared gradient of the score in what it scores."""
    inputs = [each.detach().requires_grad_(each.is_floating_point()) for each in parts]
    smooth = [each for each in inputs if each.requires_grad]
    total = scores_of(critic, tuple(inputs)).sum()
    found = torch.autograd.grad(total, smooth, create_graph=True, materialize_grads=True)
    return sum((each.square().sum() for each in found), torch.zeros(())) / len(parts[0])


# ---- What training leaves in a critic and its optimiser.


def trained_state(critic: nn.Module, optimizer: Optimizer | None) -> State:
    """Copies of the states of both; None for that of an optimiser that there is not."""
    of_optimizer = None if optimizer is None else optimizer.state_dict()
    return copy.deepcopy({"critic": critic.state_dict(), "critic_optim": of_optimizer})


def load_trained_state(critic: nn.Module, optimizer: Optimizer | None, state: State) -> None:
    """Puts both back to a state of :func:`trained_state`.

    Raises:
        ValueError: for the state of another critic.
    """
    here, there = (_shapes(each) for each in (critic.state_dict(), state["critic"]))
    if here != there:
        raise ValueError(f"Expected the state of a critic with {here} but got one with {there}")
    if (optimizer is None) != (state["critic_optim"] is None):
        raise ValueError("Expected a state with that of the critic's optimiser, where it has one")
    critic.load_state_dict(state["critic"])
    if optimizer is not None:
        optimizer.load_state_dict(state["critic_optim"])


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(each.shape) for name, each in tensors.items() if isinstance(each, Tensor)}


# ---- The steps of an optimiser as operations.

_OPTIONS: Final[dict[type[Optimizer], tuple[str, ...]]] = {
    Adam: ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    AdamW: ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    # torch adds a gradient times the rate with a single rounding, which a rate in a tensor would not
    SGD: ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
}
_OTHERWISE: Final = ("fused", "capturable", "differentiable")
_NUMBERS: Final = 3  # of a step, for the parameters of one group that have taken as many steps


class _Stepped(NamedTuple):
    """A parameter, the number of its group, and that of the row of numbers it is stepped by."""

    parameter: Tensor
    group: int
    row: int


@final
class OptimizerOperations:
    """The steps of an Adam, AdamW or SGD as operations on tensors, to the bit those of torch's loop.

    An optimiser reads how many steps it has taken, and computes numbers from it in Python, which a recording
    would fix. Here these numbers come from outside, and the learning rate with them. Parameters, moments and
    counts are the optimiser's own, and move in place.

    It is for the options and tensors that the optimiser has when it is made. Moments that are not there yet
    are made then.

    Args:
        optimizer: the optimiser, or None where none takes steps.
    """

    def __init__(self, optimizer: Optimizer | None) -> None:
        self._optimizer = optimizer
        self._refusal = None if optimizer is None else _refusal(optimizer)
        self._members: list[_Stepped] = []
        self._fixed: tuple[object, ...] = (self._refusal,)
        self._tensors: tuple[Tensor, ...] = ()
        if optimizer is not None and self._refusal is None:
            self._look(optimizer)

    def _look(self, optimizer: Optimizer) -> None:
        fixed: list[object] = []
        tensors: list[Tensor] = []
        rows: dict[tuple[int, float], int] = {}
        for number, group in enumerate(optimizer.param_groups):
            fixed.append([group.get(name) for name in _OPTIONS[type(optimizer)]])
            for parameter in group["params"]:
                fixed.append((parameter.requires_grad, parameter.dtype, parameter.device))
                tensors.append(parameter)
                if parameter.requires_grad:
                    state = _begun(optimizer, group, parameter)
                    tensors += [each for each in state.values() if isinstance(each, Tensor)]
                    taken = number, float(state.get("step", 0.0))
                    row = rows.setdefault(taken, len(rows))
                    self._members.append(_Stepped(parameter, number, row))
                    fixed.append(row)
        self._fixed, self._tensors = tuple(fixed), tuple(tensors)

    def same_as(self, other: "OptimizerOperations") -> bool:
        """Whether what was recorded of the one is so of the other."""
        return (
            self._optimizer is other._optimizer
            and self._fixed == other._fixed
            and len(self._tensors) == len(other._tensors)
            and all(one is another for one, another in zip(self._tensors, other._tensors, strict=True))
        )

    def numbers(self, *shape: int) -> Tensor | None:
        """What the next steps need beside tensors, (\\*shape, number); None where there is nothing."""
        steps, firsts = math.prod(shape), {each.row: each for each in reversed(self._members)}
        if not steps or not firsts or isinstance(self._optimizer, SGD):
            return None
        columns = [self._numbers_of(firsts[row], steps) for row in sorted(firsts)]
        rows = [[number for each in row for number in each] for row in zip(*columns, strict=True)]
        return torch.tensor(rows, dtype=torch.float64).unflatten(0, shape)

    def _numbers_of(self, member: _Stepped, steps: int) -> list[tuple[float, float, float]]:
        group, state = self._kept(member)
        lr, (first, second), taken = group["lr"], group["betas"], float(state["step"])
        return [
            ((1 - second**step) ** 0.5, -(lr / (1 - first**step)), 1 - lr * group["weight_decay"])
            for step in (taken + 1 + each for each in range(steps))
        ]

    def step(self, loss: Callable[[], Tensor], numbers: Tensor | None) -> None:
        """Takes a step down a loss.

        Args:
            loss: evaluates it.
            numbers: those of the step, (number,).

        Raises:
            NotCapturableError: where the optimiser's step cannot be written down, or needs numbers.
        """
        by_numbers = not isinstance(self._optimizer, SGD)
        if self._refusal is not None:
            raise NotCapturableError(f"a critic is trained within each step, by {self._refusal}")
        if self._optimizer is None or (by_numbers and numbers is None):
            raise NotCapturableError(
                "a critic is trained within each step, which CapturedSVI records where it is given the "
                "objective itself"
            )
        with torch.enable_grad():
            parameters = [each.parameter for each in self._members]
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        with torch.no_grad():
            of_rows = [] if numbers is None else numbers.unflatten(0, (-1, _NUMBERS)).unbind()
            for member, gradient in zip(self._members, gradients, strict=True):
                if gradient is not None and by_numbers:
                    self._move_by_adam(member, gradient, of_rows[member.row])
                elif gradient is not None:
                    self._move_by_sgd(member, gradient)

    def _move_by_adam(self, member: _Stepped, gradient: Tensor, numbers: Tensor) -> None:
        group, state = self._kept(member)
        parameter, (first, second), decay = member.parameter, group["betas"], group["weight_decay"]
        root, rate, shrinkage = numbers.unbind()
        state["step"].add_(1)
        gradient = -gradient if group["maximize"] else gradient
        if decay and group.get("decoupled_weight_decay", type(self._optimizer) is AdamW):
            parameter.mul_(shrinkage)
        elif decay:
            gradient = gradient.add(parameter, alpha=decay)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        if group["amsgrad"]:
            square = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], square))
        parameter.add_((mean * rate) / (square.sqrt() / root).add_(group["eps"]))

    def _move_by_sgd(self, member: _Stepped, gradient: Tensor) -> None:
        group, state = self._kept(member)
        gradient = -gradient if group["maximize"] else gradient
        if group["weight_decay"]:
            gradient = gradient.add(member.parameter, alpha=group["weight_decay"])
        if group["momentum"]:
            momentum = state["momentum_buffer"].mul_(group["momentum"])
            momentum.add_(gradient, alpha=1 - group["dampening"])
            gradient = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        member.parameter.add_(gradient, alpha=-group["lr"])

    def _kept(self, member: _Stepped) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options for a parameter, and what is kept of it."""
        assert self._optimizer is not None
        return self._optimizer.param_groups[member.group], self._optimizer.state.get(member.parameter, {})


def _begun(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> dict[str, Any]:
    """What an optimiser keeps for a parameter; before its first step, what it would make there."""
    names = _names_kept(optimizer, group)
    if not names:
        return {}
    state: dict[str, Any] = optimizer.state[parameter]
    if state.get(names[-1]) is None:
        state.update({name: torch.zeros_like(parameter, requires_grad=False) for name in names})
        if "step" in names:
            double = torch.get_default_dtype() is torch.float64
            state["step"] = torch.zeros((), dtype=torch.float64 if double else torch.float32, device="cpu")
    return state


def _refusal(optimizer: Optimizer) -> str | None:
    """Why its steps cannot be written down, as the end of a sentence; None if they can."""
    name = type(optimizer).__name__
    if type(optimizer) not in _OPTIONS:
        return f"{name}, of which no step can be recorded: take Adam, AdamW or SGD"
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    of_all = torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
    # A scheduler's own wrapper counts the steps and does nothing else
    step = vars(optimizer).get("step")
    if hooks or of_all or (step is not None and not hasattr(step, "_wrapped_by_lr_sched")):
        return f"{name} with a hook on its steps, or a step of its own, which a recorded one would not call"
    for group in optimizer.param_groups:
        otherwise = [each for each in _OTHERWISE if group.get(each)]
        if otherwise:
            return f"{name} with {otherwise[0]}=True, of which no step can be recorded: leave it out"
        tensors = [each for each in group if each != "params" and _has_tensor(group[each])]
        if tensors:
            return f"{name} with a tensor for its {tensors[0]}: give it a number"
        for parameter in group["params"]:
            if parameter.dtype not in (torch.float32, torch.float64):
                return f"{name} in {parameter.dtype}, which rounds otherwise than a recorded step"
            if refused := _refusal_of_state(optimizer, group, parameter):
                return refused
    return None


def _refusal_of_state(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> str | None:
    name, names = type(optimizer).__name__, _names_kept(optimizer, group)
    state = optimizer.state.get(parameter) or {}
    present = [isinstance(state.get(each), Tensor) for each in names]
    if any(present) and not all(present):
        return f"{name} that keeps not all of {', '.join(names)} for a parameter"
    if not all(present) and group.get("dampening"):
        return f"{name} with dampening, whose first step is another one: take a step by SVI before"
    return None


def _names_kept(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[str, ...]:
    """What an optimiser keeps for each parameter."""
    if isinstance(optimizer, SGD):
        return ("momentum_buffer",) if group["momentum"] else ()
    return "step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ())


def _has_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_has_tensor, value)))
