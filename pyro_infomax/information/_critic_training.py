"""How a critic is trained: by a torch optimiser, whose steps can be recorded as operations on tensors too."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import SGD, Adam, AdamW, Optimizer, optimizer as torch_optimizer

from pyro_infomax._data import Tensors

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


# ---- The steps of an optimiser as operations.

_OPTIONS: Final[dict[type[Optimizer], tuple[str, ...]]] = {
    Adam: ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    AdamW: ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay"),
    # torch adds a gradient times the rate with a single rounding, which a rate in a tensor would not
    SGD: ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize"),
}
_OTHERWISE: Final = ("fused", "capturable", "differentiable")
_NUMBERS: Final = 3  # of a step, for the parameters of one group that have taken as many steps


class _Member(NamedTuple):
    """A parameter, the number of its group, and that of the row of numbers it is stepped by."""

    parameter: Tensor
    group: int
    row: int


@final
class OptimizerOperations:
    """The steps of an Adam, AdamW or SGD as operations on tensors, to the bit those of torch's loop.

    An optimiser reads how many steps it has taken, and computes numbers from it in Python, which a recording
    would fix. Here these numbers, and the learning rate among them, come from outside. Parameters, moments
    and counts are the optimiser's own, and move in place.

    It holds for the options and the tensors that the optimiser has when it is made. Moments that are not
    there yet are made.

    Args:
        optimizer: the optimiser.

    Attributes:
        refusal: why its steps are none that can be written down, as the end of a sentence, or None.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self.refusal = _refusal(optimizer)
        self._members: list[_Member] = []
        self._firsts: list[_Member] = []
        self._fixed: tuple[object, ...] = (self.refusal,)
        self._tensors: tuple[Tensor, ...] = ()
        if self.refusal is None:
            self._look()

    def _look(self) -> None:
        names = _OPTIONS[type(self._optimizer)]
        options, kept, rows = [], [], dict[tuple[int, float], int]()
        for number, group in enumerate(self._optimizer.param_groups):
            options.append(tuple(group.get(name) for name in names))
            for parameter in group["params"]:
                options.append((parameter.requires_grad, parameter.dtype, parameter.device))
                kept.append(parameter)
                if parameter.requires_grad:
                    state = self._begun(parameter, group)
                    kept += [each for each in state.values() if isinstance(each, Tensor)]
                    place = number, float(state.get("step", 0.0))
                    member = _Member(parameter, number, rows.setdefault(place, len(rows)))
                    if member.row == len(self._firsts):
                        self._firsts.append(member)
                    self._members.append(member)
        self._fixed = (*options, *(each.row for each in self._members))
        self._tensors = tuple(kept)

    def _begun(self, parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Any]:
        """What the optimiser keeps for a parameter; before its first step, what it would make there."""
        names = _names_kept(self._optimizer, group)
        if not names:
            return {}
        state: dict[str, Any] = self._optimizer.state[parameter]
        if state.get(names[-1]) is None:
            double = torch.get_default_dtype() is torch.float64
            state.update({name: torch.zeros_like(parameter) for name in names})
            if "step" in names:
                state["step"] = torch.zeros((), dtype=torch.float64 if double else torch.float32)
        return state

    def same_as(self, other: "OptimizerOperations | None") -> bool:
        """Whether a recording of the one is one of the other."""
        return (
            other is not None
            and self._optimizer is other._optimizer
            and self._fixed == other._fixed
            and len(self._tensors) == len(other._tensors)
            and all(one is another for one, another in zip(self._tensors, other._tensors, strict=True))
        )

    def numbers(self, steps: int) -> Tensor:
        """What the next steps need to know that is no tensor of the optimiser's, (step, number)."""
        columns = [self._numbers_of(first, steps) for first in self._firsts]
        rows = [[number for row in each for number in row] for each in zip(*columns, strict=True)]
        return torch.tensor(rows or [[]] * steps, dtype=torch.float64)

    def _numbers_of(self, member: _Member, steps: int) -> list[tuple[float, float, float]]:
        # All that SGD has is fixed
        if isinstance(self._optimizer, SGD):
            return [(0.0, 0.0, 0.0)] * steps
        group, state = self._optimizer.param_groups[member.group], self._optimizer.state[member.parameter]
        lr, (first, second), taken = group["lr"], group["betas"], float(state["step"])
        return [
            (
                (1 - second**step) ** 0.5,
                -(lr / (1 - first**step)),
                1 - lr * group["weight_decay"],
            )
            for step in (taken + 1 + each for each in range(steps))
        ]

    def step(self, loss: Tensor, numbers: Tensor) -> None:
        """Takes a step down a loss, by a row of :meth:`numbers`."""
        parameters = [each.parameter for each in self._members]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        move = self._move_by_sgd if isinstance(self._optimizer, SGD) else self._move_by_adam
        with torch.no_grad():
            each_number = numbers.unbind()
            for member, gradient in zip(self._members, gradients, strict=True):
                if gradient is not None:
                    begin = member.row * _NUMBERS
                    move(member, gradient, each_number[begin : begin + _NUMBERS])

    def _move_by_adam(self, member: _Member, gradient: Tensor, numbers: Sequence[Tensor]) -> None:
        group, state = self._optimizer.param_groups[member.group], self._optimizer.state[member.parameter]
        parameter, (first, second), decay = member.parameter, group["betas"], group["weight_decay"]
        root, rate, shrinkage = numbers
        state["step"].add_(1)
        gradient = -gradient if group["maximize"] else gradient
        if decay and _is_decoupled(self._optimizer, group):
            parameter.mul_(shrinkage)
        elif decay:
            gradient = gradient.add(parameter, alpha=decay)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - first)
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        if group["amsgrad"]:
            square = state["max_exp_avg_sq"].copy_(torch.maximum(state["max_exp_avg_sq"], square))
        parameter.add_((mean * rate) / (square.sqrt() / root).add_(group["eps"]))

    def _move_by_sgd(self, member: _Member, gradient: Tensor, _: Sequence[Tensor]) -> None:
        group = self._optimizer.param_groups[member.group]
        gradient = -gradient if group["maximize"] else gradient
        if group["weight_decay"]:
            gradient = gradient.add(member.parameter, alpha=group["weight_decay"])
        if group["momentum"]:
            momentum = self._optimizer.state[member.parameter]["momentum_buffer"].mul_(group["momentum"])
            momentum.add_(gradient, alpha=1 - group["dampening"])
            gradient = gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
        member.parameter.add_(gradient, alpha=-group["lr"])


def _is_decoupled(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    return bool(group.get("decoupled_weight_decay", type(optimizer) is AdamW))


def _refusal(optimizer: Optimizer) -> str | None:
    name = type(optimizer).__name__
    if type(optimizer) not in _OPTIONS:
        return f"{name}, of which no step can be recorded (those of Adam, AdamW and SGD can)"
    hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    of_all = torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
    # A scheduler's own wrapper counts the steps and does nothing else
    step = vars(optimizer).get("step")
    if hooks or of_all or (step is not None and not hasattr(step, "_wrapped_by_lr_sched")):
        return f"{name} with a hook on its steps, or a step of its own, which a recorded one would not call"
    for group in optimizer.param_groups:
        for option in _OTHERWISE:
            if group.get(option):
                return f"{name} with {option}=True, of which no step can be recorded: leave it out"
        if tensors := [option for option, each in group.items() if option != "params" and _has_tensor(each)]:
            return f"{name} with a tensor for its {tensors[0]}: give it a number"
        for parameter in group["params"]:
            if parameter.dtype not in (torch.float32, torch.float64):
                return f"{name} in {parameter.dtype}, which it rounds otherwise than its operations do"
            if refused := _refusal_of_state(optimizer, group, parameter):
                return refused
    return None


def _refusal_of_state(optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor) -> str | None:
    name, names = type(optimizer).__name__, _names_kept(optimizer, group)
    state = optimizer.state.get(parameter) or {}
    present = [isinstance(state.get(each), Tensor) for each in names]
    if any(present) and not all(present):
        return f"{name} that keeps some of {', '.join(names)} of a parameter and not all"
    if not all(present) and group.get("dampening"):
        return f"{name} with dampening, whose first step is another one: take a step before"
    return None


def _names_kept(optimizer: Optimizer, group: Mapping[str, Any]) -> tuple[str, ...]:
    """What an optimiser keeps of each parameter."""
    if isinstance(optimizer, SGD):
        return ("momentum_buffer",) if group["momentum"] else ()
    return "step", "exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ())


def _has_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, list | tuple) and any(map(_has_tensor, value)))
