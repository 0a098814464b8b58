"""Many trainings side by side: each of them, and the parameters of all with what their optimisers keep.

In this order: one of the trainings, and the parameters of all, a row a training, which few optimisers step.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import cached_property
from itertools import accumulate, groupby
from typing import Any, final

import torch
from pyro.infer import ELBO, SVI
from torch import Tensor
from torch.optim import Optimizer

from pyro_infomax._data import Tensors
from pyro_infomax._types import State
from pyro_infomax.capture._captured_step import Outcome, Programs, undone
from pyro_infomax.capture._captured_svi import CapturedSVI
from pyro_infomax.capture._optim import (
    FusedOptim,
    ParameterGroup,
    ParameterState,
    frozen,
    has_fused_kernel,
    kernel_is_ready,
    kernel_step,
    own_options,
    plain_step,
)
from pyro_infomax.capture._refusals import NotCapturableError
from pyro_infomax.infer import SurrogateLoss, WeightedELBO
from pyro_infomax.programs import ProgramState, RandomStreams

# ---- One of the trainings.


@final
class NotStackableError(Exception):
    """Why trainings cannot be run as one."""


@final
class StackedMember:
    """One of the trainings that are run as one.

    Args:
        svi: its model, guide, optimiser and objective.
        name: what it is called in sentences.
        inside: enters what belongs to the process and is this training's own, as its parameter store.
        state: the parameters and buffers that its programs keep.

    Attributes:
        random_state: where its random streams stand, see :class:`~pyro_infomax.programs.RandomStreams`.

    Raises:
        NotStackableError: for an SVI whose step is not a function of model, guide, ELBO and FusedOptim alone.
    """

    def __init__(
        self,
        svi: SVI,
        *,
        name: str,
        inside: Callable[[], AbstractContextManager[None]],
        state: ProgramState,
    ) -> None:
        if type(svi) not in (SVI, CapturedSVI):
            raise NotStackableError(f"{type(svi).__name__} has steps of its own; take SVI or CapturedSVI")
        if getattr(svi, "reduce_gradients", None) is not None:
            raise NotStackableError("its gradients go through a function of the user's own, reduce_gradients")
        objective = getattr(svi.loss_and_grads, "__self__", None)
        if not isinstance(objective, ELBO):
            raise NotStackableError("its loss is a plain function; take an ELBO, whose terms are known")
        if not isinstance(svi.optim, FusedOptim):
            raise NotStackableError(f"its optimiser is a {type(svi.optim).__name__}; take FusedOptim")
        self.svi, self.name, self.inside = svi, name, inside
        self.random_state: State = {}
        self.optim: FusedOptim = svi.optim
        self.objective = objective
        self.weighted = objective if isinstance(objective, WeightedELBO) else None
        self.programs = Programs(svi.model, svi.guide, objective)
        self.state = state

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Has its block draw from the random streams of this training."""
        streams = RandomStreams()
        before = streams.state_dict()
        streams.load_state_dict(self.random_state)
        try:
            yield
        finally:
            self.random_state = streams.state_dict()
            streams.load_state_dict(before)

    def ordinary_step(self, batch: Tensors) -> Any:
        """A step of the SVI itself, which creates what is created at first."""
        with self.inside(), self.state.watch(), self.drawing():
            return self.svi.step(*batch)

    @torch.no_grad()
    def loss(self, batch: Tensors) -> float:
        """The loss of a batch, in the state that is in force, which stays as it is."""
        objective: Any = copy(self.objective)  # which keeps its terms
        with self.drawing(), undone(self.state):
            return float(objective.loss(self.svi.model, self.svi.guide, *batch))

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The present weights of the objective, numbers among them."""
        return {} if self.weighted is None else self.weighted.variable_weights(numbers=True)

    def weights_ahead(self, steps: int) -> list[tuple[Tensor, ...]]:
        """The same for each of the next steps."""
        return [()] * steps if self.weighted is None else self.weighted.weights_ahead(steps, numbers=True)

    def adopt(
        self, losses: Tensor, terms: Mapping[str, Tensor], subsampled: Mapping[int, int]
    ) -> dict[str, list[float]]:
        """Has the objective take steps for its own; the terms of each by name, for those that have any."""
        if self.weighted is None:
            return {}
        last = SurrogateLoss(losses[-1], losses[-1], {name: each[-1] for name, each in terms.items()})
        self.weighted.adopt(last, subsampled, steps=len(losses))
        return self.weighted.terms_of(SurrogateLoss(losses, losses, terms))

    def ordinary_evaluation(self, batch: Tensors, parameters: Sequence[Tensor]) -> Outcome:
        """Loss, terms and gradients by the SVI itself; schedules stay where they are."""
        stood = None if self.weighted is None else self.weighted.state_dict()
        loss = self.svi.loss_and_grads(self.svi.model, self.svi.guide, *batch)
        terms = {} if self.weighted is None else dict(self.weighted.terms or {})
        gradients = {each: each.grad for each in parameters if each.grad is not None}
        found = Outcome({"loss": loss, **terms}, gradients, {})
        if self.weighted is not None and stood is not None:
            self.weighted.load_state_dict(stood)
        for each in parameters:
            each.grad = None
        return found

    def check(self) -> None:
        """Checks that a step calls nothing of the user's own which no graph has."""
        plain = CapturedSVI(self.svi.model, self.svi.guide, self.optim, self.objective)
        try:
            plain._check_objective()
        except NotCapturableError as error:
            raise NotStackableError(str(error)) from error


# ---- The parameters of all trainings, and what their optimisers keep, a row a training.


@final
class StackedParameters:
    """The parameters of all members in one tensor a group of their optimisers: (member, element).

    The rows of members whose optimisers have the same options lie together, so that one optimiser steps them.

    Attributes:
        members: the members, in the order of the rows.
        flats: a tensor a group.

    Raises:
        NotStackableError: where optimisers differ in more than their options.
    """

    def __init__(self, members: Sequence[StackedMember], parameters: Sequence[Sequence[Tensor]]) -> None:
        order = {id(member): own for member, own in zip(members, parameters, strict=True)}
        groups = {id(each): each.optim.groups(tuple(order[id(each)])) for each in members}
        self._check(members, order, groups)
        keys = {each: tuple(map(_key, of)) for each, of in groups.items()}
        ranks = {key: rank for rank, key in enumerate(dict.fromkeys(keys.values()))}
        self.members = sorted(members, key=lambda each: ranks[keys[id(each)]])
        self._groups = [groups[id(each)] for each in self.members]
        self.parameters = [order[id(each)] for each in self.members]
        self.flats = [
            torch.stack([flat_of(groups[number]) for groups in self._groups])
            for number in range(len(self._groups[0]))
        ]
        self._options = list(map(_options_of, self._groups))
        self._make_steppers()
        limits = [each.optim.clip_norm for each in self.members]
        self._limits = None if limits[0] is None else self.flats[0].new_tensor(limits).unsqueeze(1)

    def _make_steppers(self) -> None:
        keys = [tuple(map(_key, groups)) for groups in self._groups]
        sizes = [len(list(rows)) for _, rows in groupby(keys)]
        ends = list(accumulate(sizes))
        self._blocks = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
        self._steppers = [
            [self._stepper(number, rows) for rows in self._blocks] for number in range(len(self.flats))
        ]

    @torch.no_grad()
    def read(self, rows: Iterable[int], *, moments: bool) -> None:
        """Takes over what members hold, to which rows had been written, and moments where they may differ."""
        before = list(self._groups)
        for row in rows:
            self._groups[row] = self.members[row].optim.groups(self.parameters[row])
            for group, flat in zip(self._groups[row], self.flats, strict=True):
                flat[row].copy_(flat_of(group))
        options = list(map(_options_of, self._groups))
        if moments or self._groups != before or options != self._options:
            self._options = options
            self._make_steppers()

    def views(self) -> list[Tensor]:
        """For each parameter its values in all members, (member, *shape), in memory of :attr:`flats`."""
        found = {}
        for group, flat in zip(self._groups[0], self.flats, strict=True):
            for parameter, part in zip(group.parameters, group.slices, strict=True):
                found[id(parameter)] = flat[:, part].view(len(flat), *parameter.shape)
        return [found[id(each)] for each in self.parameters[0]]

    def weights(self, steps: int) -> list[list[Tensor]]:
        """The weights of all members in each of the next steps, (member, *shape)."""
        ahead = [each.weights_ahead(steps) for each in self.members]
        return [stacked(each) for each in zip(*ahead, strict=True)]

    @cached_property
    def order(self) -> list[list[int]]:
        """For each group the numbers of its parameters."""
        numbers = {id(each): number for number, each in enumerate(self.parameters[0])}
        return [[numbers[id(each)] for each in group.parameters] for group in self._groups[0]]

    def split(self, row: int, gradients: Sequence[Tensor]) -> dict[Tensor, Tensor]:
        """The gradients of one member by its parameters."""
        return {
            parameter: gradient[row, part].view(parameter.shape)
            for group, gradient in zip(self._groups[row], gradients, strict=True)
            for parameter, part in zip(group.parameters, group.slices, strict=True)
        }

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Moves all by a gradient a group, (member, element), which may be scaled in place."""
        if self._limits is not None:
            norms = torch.stack([torch.linalg.vector_norm(each, dim=1) for each in gradients])
            factor = (self._limits[:, 0] / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)).clamp_(max=1.0)
            for gradient in gradients:
                gradient.mul_(factor.unsqueeze(1))
        for steppers, gradient in zip(self._steppers, gradients, strict=True):
            for stepper, rows in zip(steppers, self._blocks, strict=True):
                stepper(gradient[rows])

    def is_finite(self, row: int) -> bool:
        """Whether the parameters of a member are."""
        return all(bool(flat[row].isfinite().all()) for flat in self.flats)

    @torch.no_grad()
    def write(self, row: int) -> None:
        """Has the parameters of one member hold what its row does."""
        for group, flat in zip(self._groups[row], self.flats, strict=True):
            flat_of(group).copy_(flat[row])

    @torch.no_grad()
    def write_moments(self, row: int) -> None:
        """Has the optimiser of one member keep what was kept for its row."""
        for number, group in enumerate(self._groups[row]):
            block = next(i for i, rows in enumerate(self._blocks) if rows.start <= row < rows.stop)
            stepper = self._steppers[number][block]
            kept = group.optimizer.state[flat_of(group)]
            of_block = ParameterState(dict(stepper.state), {})
            for name, value in of_block.elementwise.items():
                kept[name] = value[row - self._blocks[block].start].clone()
            for name, value in of_block.shared.items():
                kept[name] = value.clone() if isinstance(value, Tensor) else value
            group.optimizer.param_groups[0].update(own_options(stepper.optimizer.param_groups[0]))

    def _stepper(self, number: int, rows: slice) -> "_Stepper":
        groups = [of[number] for of in self._groups[rows]]
        make = self.members[rows.start].optim.maker_for(groups[0].parameters[0])
        return _Stepper(self.flats[number][rows], groups, make)

    def _check(
        self,
        members: Sequence[StackedMember],
        order: Mapping[int, Sequence[Tensor]],
        groups: Mapping[int, Sequence[ParameterGroup]],
    ) -> None:
        first = members[0]
        for each in members:
            layouts = [
                [
                    [_index(order[id(of)], parameter) for parameter in group.parameters]
                    for group in groups[id(of)]
                ]
                for of in (first, each)
            ]
            kinds = [(of.optim.pt_optim_constructor, of.optim.clip_norm is None) for of in (first, each)]
            if kinds[0] != kinds[1] or layouts[0] != layouts[1]:
                raise NotStackableError(f"{each.name} has another optimiser than {first.name}")
            hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
            if any(getattr(group.optimizer, name) for group in groups[id(each)] for name in hooks):
                raise NotStackableError(f"the optimiser of {each.name} has hooks, which would not be called")
            if any(group.flat is None for group in groups[id(each)]):
                raise NotStackableError(
                    f"the parameters of {each.name} do not lie together, as its optimiser does not take each "
                    "element by itself, or they share memory or are complex"
                )


@final
class _Stepper:
    """The optimiser of some rows."""

    def __init__(
        self, rows: Tensor, groups: Sequence[ParameterGroup], make: Callable[[list[Tensor]], Optimizer]
    ) -> None:
        states = [_kept(group) for group in groups]
        moments = {
            name: torch.stack([each.elementwise[name] for each in states]) for name in states[0].elementwise
        }
        state = ParameterState(moments | states[0].shared, states[0].options)
        group = ParameterGroup([rows], flatten=False, make_optimizer=make, states=[state])
        self._rows = rows
        self.optimizer = group.optimizer
        self._has_kernel = has_fused_kernel(self.optimizer, rows)

    @property
    def state(self) -> State:
        """What the optimiser keeps."""
        return self.optimizer.state[self._rows]

    def __call__(self, gradient: Tensor) -> None:
        if self._has_kernel and kernel_is_ready(self.optimizer, self._rows):
            kernel_step(self.optimizer, self._rows, [gradient])
        else:
            plain_step(self.optimizer, self._rows, gradient)


def _kept(group: ParameterGroup) -> ParameterState:
    """What the optimiser of a group keeps for all of its parameters together."""
    options = own_options(group.optimizer.param_groups[0])
    return ParameterState(dict(group.optimizer.state.get(flat_of(group), {})), options)


def _options_of(groups: Sequence[ParameterGroup]) -> Hashable:
    return tuple(frozen(_kept(group).options) for group in groups)


def _key(group: ParameterGroup) -> Hashable:
    """Equal for groups that one optimiser can step together."""
    kept = _kept(group)
    return frozenset(kept.elementwise), frozen(kept.shared), frozen(kept.options)


def flat_of(group: ParameterGroup) -> Tensor:
    """The tensor that the parameters of a group are views into."""
    assert group.flat is not None
    return group.flat


def _index(tensors: Sequence[Tensor], tensor: Tensor) -> int:
    return next(number for number, each in enumerate(tensors) if each is tensor)


def stacked(batches: Sequence[Tensors]) -> list[Tensor]:
    """The tensors of batches of one shape, (batch, *shape)."""
    return [torch.stack(each) for each in zip(*batches, strict=True)]
