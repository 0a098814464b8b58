"""FusedOptim takes the steps of Pyro's optimiser, over parameters that it lays out itself."""

import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.util import zero_grads
from pyro.optim import PyroOptim
from pyro.optim.adagrad_rmsprop import AdagradRMSProp
from pyro.optim.clipped_adam import ClippedAdam
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor, nn, optim
from torch.distributions import constraints
from torch.optim import lr_scheduler

from pyro_infomax.capture import FusedOptim

SHAPES = {"net$$$weight": (4, 3), "net$$$bias": (4,), "scale": (), "late": (2, 2, 2)}
NAMES = tuple(SHAPES)
Present = Callable[[int], tuple[str, ...]]
Values = dict[str, Tensor]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def always(_: int) -> tuple[str, ...]:
    return NAMES


def comes_late(step: int) -> tuple[str, ...]:
    return NAMES if step >= 10 else NAMES[:-1]


def stays_out(step: int) -> tuple[str, ...]:
    return NAMES[1:] if 10 <= step < 20 else NAMES


def comes_and_goes(step: int) -> tuple[str, ...]:
    drawn = torch.rand(len(NAMES), generator=torch.Generator().manual_seed(step))
    return tuple(name for name, number in zip(NAMES, drawn.tolist(), strict=True) if number > 0.4)


def leaf(name: str, device: str = "cpu") -> Tensor:
    initial = torch.linspace(-1, 2, int(torch.Size(SHAPES[name]).numel())).reshape(SHAPES[name])
    return pyro.param(name, lambda: initial.to(device)).unconstrained()


def loss_of(parameters: Iterable[Tensor]) -> Tensor:
    """Steep and shallow directions, and a pull of each parameter on all others."""
    terms = [
        (each.reshape(-1) * torch.arange(1.0, each.numel() + 1, device=each.device)).sum()
        for each in parameters
    ]
    return (torch.stack(terms).sum() / 10).cos() + torch.stack(terms).square().sum() / 200


def step(optimizer: PyroOptim, names: Iterable[str], device: str = "cpu") -> None:
    leaves = [leaf(name, device) for name in names]
    if leaves:
        loss_of(leaves).backward()
    optimizer(set(leaves))
    zero_grads(leaves)


def values() -> Values:
    return {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}


def run(
    optimizer: PyroOptim, steps: Iterable[int] = range(50), present: Present = always, device: str = "cpu"
) -> Values:
    for number in steps:
        step(optimizer, present(number), device)
    return values()


def anew(optimizer: PyroOptim, *args: Any, **kwargs: Any) -> Values:
    pyro.clear_param_store()
    return run(optimizer, *args, **kwargs)


def assert_same(found: Values, expected: Values, *, atol: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0.0, atol=atol)


def decay_by_name(name: str) -> dict[str, float]:
    return {"lr": 0.01, "weight_decay": 0.3 if name == "net.weight" else 0.0}


OPTIMISERS: dict[str, tuple[type[optim.Optimizer], Any]] = {
    "Adam": (optim.Adam, {"lr": 0.05}),
    "amsgrad": (optim.Adam, {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    "maximize": (optim.Adam, {"lr": 0.001, "maximize": True}),
    "AdamW by name": (optim.AdamW, decay_by_name),
    "Adam, not fused": (optim.Adam, {"lr": 0.05, "fused": False}),
    "Adam, foreach": (optim.Adam, {"lr": 0.05, "foreach": True}),
    "SGD": (optim.SGD, {"lr": 0.01}),
    "momentum": (optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "RMSprop": (optim.RMSprop, {"lr": 0.01, "momentum": 0.5, "centered": True}),
    "Adagrad": (optim.Adagrad, {"lr": 0.1, "initial_accumulator_value": 0.2, "lr_decay": 0.01}),
    "Adadelta": (optim.Adadelta, {"lr": 0.5}),
    "Adamax": (optim.Adamax, {"lr": 0.02}),
    "NAdam": (optim.NAdam, {"lr": 0.02}),
    "RAdam": (optim.RAdam, {"lr": 0.02}),
    "ASGD": (optim.ASGD, {"lr": 0.01, "t0": 10.0}),
    "Rprop": (optim.Rprop, {"lr": 0.01}),
    "ClippedAdam": (ClippedAdam, {"lr": 0.05, "lrd": 0.99, "clip_norm": 0.5}),
    "AdagradRMSProp": (AdagradRMSProp, {"eta": 0.1}),
    "Adafactor": (optim.Adafactor, {"lr": 0.01}),
}
by_case = pytest.mark.parametrize("case", OPTIMISERS)
# A kernel, one without, options by name, moments of another kind, and one that is not flattened
by_kind = pytest.mark.parametrize("case", ["Adam", "momentum", "AdamW by name", "NAdam", "ASGD", "Adafactor"])


class TestSameAsPyro:
    @by_case
    def test_parameters(self, case: str) -> None:
        expected = anew(PyroOptim(*OPTIMISERS[case]), present=comes_and_goes)
        assert_same(anew(FusedOptim(*OPTIMISERS[case]), present=comes_and_goes), expected)

    @pytest.mark.parametrize("present", [always, comes_late, stays_out])
    @pytest.mark.parametrize("case", ["Adam", "AdamW by name"])
    def test_steadier_programs(self, case: str, present: Present) -> None:
        expected = anew(PyroOptim(*OPTIMISERS[case]), present=present)
        assert_same(anew(FusedOptim(*OPTIMISERS[case]), present=present), expected)

    @by_kind
    def test_buffers(self, case: str) -> None:
        optimizer = FusedOptim(*OPTIMISERS[case])
        anew(optimizer, range(2))
        groups = optimizer.groups(map(leaf, NAMES))
        assert {group.flat is not None for group in groups} == {case != "Adafactor"}
        assert len(groups) == (2 if case == "AdamW by name" else 1)

    @pytest.mark.parametrize(
        ("kind", "options"),
        [(optim.Adam, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.3}), (optim.AdamW, {"lr": 0.1})],
    )
    def test_large_parameters_whose_gradients_are_not_copied(self, kind: Any, options: Any) -> None:
        found = []
        for optimizer in (PyroOptim(kind, options), FusedOptim(kind, options)):
            leaves = [torch.full((300, 300), 0.5, requires_grad=True), torch.zeros((), requires_grad=True)]
            for number in range(4):
                for each in leaves:
                    each.grad = torch.full_like(each, number - 1.5)
                optimizer(leaves)
                zero_grads(leaves)
            found.append(dict(zip("ab", (each.detach() for each in leaves), strict=True)))
        assert_same(found[1], found[0])

    def test_transposed_gradients(self) -> None:
        parameter, optimizer = torch.zeros(2, 3, requires_grad=True), FusedOptim(optim.Adam, {"lr": 0.5})
        rows = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]])
        for _ in range(2):
            parameter.grad = rows.t().contiguous().t()
            optimizer([parameter])
        torch.testing.assert_close(parameter, -rows)

    @pytest.mark.parametrize("case", ["Adam", "amsgrad", "maximize"])
    def test_from_the_second_step_on_the_kernel_alone_is_called(self, case: str) -> None:
        optimizer = FusedOptim(*OPTIMISERS[case])
        run(optimizer, range(1))
        (group,) = optimizer.groups(map(leaf, NAMES))
        before = values()
        group.optimizer.step = None  # what torch does around the kernel
        run(optimizer, range(1, 3))
        assert not torch.equal(values()["scale"], before["scale"])
        assert optimizer.get_state()["scale"]["state"][0]["step"] == 3

    def test_hooks_of_the_torch_optimiser_are_called(self) -> None:
        optimizer, calls = FusedOptim(optim.Adam, {"lr": 0.1}), []
        (group,) = optimizer.groups(map(leaf, NAMES))
        group.optimizer.register_step_post_hook(lambda *_: calls.append(1))
        run(optimizer, range(3))
        assert len(calls) == 3

    def test_programs(self) -> None:
        expected, found = (
            trained_pair(kind(torch.optim.Adam, {"lr": 0.01})) for kind in (PyroOptim, FusedOptim)
        )
        assert_same(found, expected)

    def test_gradients_are_gone(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        for _ in range(3):
            loss_of(map(leaf, NAMES)).backward()
            optimizer(map(leaf, NAMES))
            assert all(leaf(name).grad is None for name in NAMES)

    def test_two_part_names(self) -> None:
        asked = []

        def options(module: str, name: str) -> dict[str, float]:
            asked.append((module, name))
            return {"lr": 0.1}

        run(FusedOptim(optim.Adam, options), range(2))
        assert asked[:2] == [("net", "weight"), ("net", "bias")]
        assert len(asked) == len(NAMES)


def trained_pair(optimizer: PyroOptim) -> Values:
    """A pair of programs with modules and a constrained parameter, after some steps."""
    pyro.clear_param_store()
    torch.manual_seed(3)
    encoder, decoder = nn.Linear(3, 4), nn.Linear(2, 3)
    x = torch.randn(8, 3)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        scale = pyro.param("scale", torch.ones(3), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    svi = SVI(model, guide, optimizer, Trace_ELBO())
    for _ in range(50):
        svi.step(x)
    return values()


class TestAbsence:
    @pytest.fixture
    def optimizer(self) -> FusedOptim:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        run(optimizer, range(3))
        return optimizer

    def test_not_stated(self, optimizer: FusedOptim) -> None:
        before, kept = values()["scale"], optimizer.get_state()["scale"]
        step(optimizer, ("net$$$weight", "late"))
        assert torch.equal(values()["scale"], before)
        assert torch.equal(optimizer.get_state()["scale"]["state"][0]["exp_avg"], kept["state"][0]["exp_avg"])
        assert optimizer.get_state()["scale"]["state"][0]["step"] == 3
        assert optimizer.get_state()["late"]["state"][0]["step"] == 4

    def test_without_gradient(self, optimizer: FusedOptim) -> None:
        before = values()
        loss_of([leaf("scale")]).backward()
        optimizer({leaf(name) for name in NAMES})
        assert {name for name, value in values().items() if not torch.equal(value, before[name])} == {"scale"}
        assert optimizer.get_state()["late"]["state"][0]["step"] == 3

    def test_no_gradient_ever(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        optimizer({leaf(name) for name in NAMES})
        assert optimizer.get_state()["late"]["state"] == {}

    def test_nothing(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1}, clip_norm=1.0)
        loss_of(map(leaf, NAMES)).backward()
        before = values()
        optimizer(set())
        assert all(torch.equal(value, before[name]) for name, value in values().items())
        assert optimizer.get_state() == {}

    def test_halves_of_a_group(self, optimizer: FusedOptim) -> None:
        groups = optimizer.groups([leaf("scale"), leaf("late")])
        assert [set(group.parameters) for group in groups] == [{leaf("scale"), leaf("late")}]
        everything = optimizer.groups(map(leaf, NAMES))
        assert len(everything) == 2
        assert groups[0] in everything


class TestGroups:
    @pytest.fixture
    def optimizer(self) -> FusedOptim:
        return FusedOptim(optim.Adam, {"lr": 0.1})

    def test_same_groups_again(self, optimizer: FusedOptim) -> None:
        leaves = tuple(map(leaf, NAMES))
        groups = optimizer.groups(leaves)
        assert optimizer.groups(leaves) is groups
        assert optimizer.groups(set(leaves)) is groups
        assert optimizer.groups(list(leaves)) is groups

    def test_each_parameter_once(self, optimizer: FusedOptim) -> None:
        leaves = [leaf(name) for name in (*NAMES, *NAMES)]
        assert sum(len(group.parameters) for group in optimizer.groups(leaves)) == len(NAMES)

    def test_set_in_order_of_the_store(self) -> None:
        names = [f"p{number}" for number in range(30)]
        leaves = [pyro.param(name, torch.zeros(16)).unconstrained() for name in names]
        (group,) = FusedOptim(optim.Adam, {"lr": 0.1}).groups(set(leaves))
        assert all(a is b for a, b in zip(group.parameters, leaves, strict=True))

    def test_tensors_of_even_size_first(self, optimizer: FusedOptim) -> None:
        odd, even = (pyro.param(f"of {size}", torch.zeros(size)).unconstrained() for size in (5, 32))
        (group,) = optimizer.groups([odd, even])
        assert group.parameters[0] is even

    def test_views_and_slices(self, optimizer: FusedOptim) -> None:
        before = {name: leaf(name).detach().clone() for name in NAMES}
        (group,) = optimizer.groups(map(leaf, NAMES))
        assert group.flat is not None
        group.flat.add_(1.0)
        for name in NAMES:
            assert torch.equal(leaf(name), before[name] + 1)
        for parameter, part in zip(group.parameters, group.slices, strict=True):
            assert torch.equal(group.flat[part].view(parameter.shape), parameter)

    def test_one_group_a_dtype(self, optimizer: FusedOptim) -> None:
        single = pyro.param("single", torch.zeros(2, dtype=torch.float32)).unconstrained()
        groups = optimizer.groups([single, leaf("late")])
        assert {group.flat.dtype for group in groups} == {torch.float32, torch.float64}

    @pytest.mark.parametrize("clip_norm", [None, 0.5])
    @by_kind
    def test_apply(self, case: str, clip_norm: float | None) -> None:
        expected = anew(FusedOptim(*OPTIMISERS[case], clip_norm=clip_norm), range(20))
        pyro.clear_param_store()
        optimizer = FusedOptim(*OPTIMISERS[case], clip_norm=clip_norm)
        for _ in range(20):
            groups = optimizer.groups(tuple(map(leaf, NAMES)))
            loss_of(map(leaf, NAMES)).backward()
            flat = [torch.cat([each.grad.reshape(-1) for each in group.parameters]) for group in groups]
            for name in NAMES:
                leaf(name).grad = None
            optimizer.apply(groups, flat)
        assert_same(values(), expected)

    def test_parameters_of_shared_memory_stay_shared(self) -> None:
        results = []
        for kind in (PyroOptim, FusedOptim):
            pyro.clear_param_store()
            first = nn.Parameter(torch.ones(3))
            second = nn.Parameter(first.data)
            optimizer = kind(optim.Adam, {"lr": 0.1})
            for _ in range(5):
                (first.sum() + second.square().sum()).backward()
                optimizer([first, second])
                zero_grads([first, second])
            assert first.data_ptr() == second.data_ptr()
            results.append({"first": first.detach()})
        assert_same(results[1], results[0])

    @pytest.mark.parametrize(
        ("tensor", "expected"),
        [
            (torch.ones(2), True),
            (torch.ones(2, dtype=torch.bfloat16), True),
            (torch.ones(2, dtype=torch.complex64), False),
            (torch.ones(2).as_subclass(type("Own", (Tensor,), {})), False),
        ],
        ids=["plain", "bfloat16", "complex", "subclass"],
    )
    def test_which_parameters_move_into_a_buffer(
        self, optimizer: FusedOptim, tensor: Tensor, expected: bool
    ) -> None:
        (group,) = optimizer.groups([tensor.requires_grad_()])
        assert (group.flat is not None) is expected

    def test_parameters_that_overlap_stay_where_they_are(self, optimizer: FusedOptim) -> None:
        base = torch.zeros(20)
        around, early, late, apart = base[:8], base[1:3], base[5:7], base[8:]
        leaves = [torch.zeros(3), late, early, around, apart, torch.zeros(0)]
        groups = optimizer.groups([each.requires_grad_() for each in leaves])
        loose = [parameter for group in groups if group.flat is None for parameter in group.parameters]
        assert {id(each) for each in loose} == {id(each) for each in (around, early, late)}
        assert len(groups) == 4

    def test_parameters_shared_with_other_processes_stay_there(self, optimizer: FusedOptim) -> None:
        parameter = nn.Parameter(torch.ones(3))
        parameter.share_memory_()
        assert [group.flat for group in optimizer.groups([parameter])] == [None]
        assert parameter.is_shared()

    def test_tied_weights(self) -> None:
        pair = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        pair[1].weight = pair[0].weight

        def model() -> None:
            pyro.module("pair", pair)
            pyro.factor("fit", -pair(torch.ones(3)).square().sum())

        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        SVI(model, lambda: None, optimizer, Trace_ELBO()).step()
        assert pair[1].weight is pair[0].weight
        assert sum(len(group.parameters) for group in optimizer.groups(set(pair.parameters()))) == 3

    @pytest.mark.parametrize(
        "tensor",
        [
            torch.arange(6.0, dtype=torch.float64).view(2, 3).t(),
            torch.arange(2.0, dtype=torch.float64).expand(3, 2),
            torch.tensor(2.0, dtype=torch.float64),
            torch.zeros(0, 3, dtype=torch.float64),
            torch.ones(2, dtype=torch.complex128),
            torch.ones(2, dtype=torch.float16),
        ],
        ids=["transposed", "expanded", "scalar", "empty", "complex", "half"],
    )
    def test_odd_parameters(self, tensor: Tensor) -> None:
        parameter, other = nn.Parameter(tensor), nn.Parameter(torch.ones(3))
        expected = nn.Parameter(tensor.clone().contiguous())
        optimizer, reference = FusedOptim(optim.Adam, {"lr": 0.1}), PyroOptim(optim.Adam, {"lr": 0.1})
        for _ in range(3):
            for each in (parameter, expected, other):
                (each * each.conj()).real.sum().backward()
            optimizer([parameter, other])
            reference([expected])
            zero_grads([expected])
        rtol = 2e-3 if tensor.dtype == torch.float16 else 0.0
        torch.testing.assert_close(parameter, expected, atol=1e-12, rtol=rtol)

    @pytest.mark.filterwarnings("ignore:Sparse invariant checks")
    @pytest.mark.parametrize("kind", [optim.SGD, optim.Adagrad, optim.SparseAdam])
    def test_sparse_gradients(self, kind: type[optim.Optimizer]) -> None:
        tables = [nn.Embedding(5, 2, sparse=True) for _ in range(2)]
        tables[0].load_state_dict(tables[1].state_dict())
        optimizers = PyroOptim(kind, {"lr": 0.1}), FusedOptim(kind, {"lr": 0.1})
        for table, optimizer in zip(tables, optimizers, strict=True):
            for _ in range(3):
                table(torch.tensor([1, 3])).square().sum().backward()
                optimizer([table.weight])
                table.weight.grad = None
        torch.testing.assert_close(tables[1].weight, tables[0].weight, rtol=0, atol=1e-12)


SCHEDULERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "exponential": (lr_scheduler.ExponentialLR, {"gamma": 0.8}),
    "step": (lr_scheduler.StepLR, {"step_size": 2}),
    "milestones": (lr_scheduler.MultiStepLR, {"milestones": [2, 4]}),
    "lambda": (lr_scheduler.LambdaLR, {"lr_lambda": lambda epoch: 1 / (1 + epoch)}),
    "one cycle": (lr_scheduler.OneCycleLR, {"max_lr": 0.2, "total_steps": 12}),
    "cosine": (lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 3}),
    "plateau": (lr_scheduler.ReduceLROnPlateau, {"patience": 1}),
}
by_scheduler = pytest.mark.parametrize("scheduler", SCHEDULERS)


def pyro_scheduled(scheduler: str) -> PyroOptim:
    kind, options = SCHEDULERS[scheduler]
    return PyroLRScheduler(kind, {"optimizer": optim.Adam, "optim_args": {"lr": 0.05}, **options})


def fused_scheduled(scheduler: str) -> FusedOptim:
    kind, options = SCHEDULERS[scheduler]
    return FusedOptim(optim.Adam, {"lr": 0.05}, scheduler=lambda optimizer: kind(optimizer, **options))


def run_scheduled(optimizer: Any, scheduler: str, epochs: Iterable[int], present: Present = always) -> Values:
    for epoch in epochs:
        run(optimizer, range(5 * epoch, 5 * epoch + 5), present)
        optimizer.step(*((max(1.0, 3.0 - epoch),) if scheduler == "plateau" else ()))
    return values()


class TestSchedulers:
    @by_scheduler
    def test_same_as_pyro(self, scheduler: str) -> None:
        expected = run_scheduled(pyro_scheduled(scheduler), scheduler, range(10), comes_and_goes)
        pyro.clear_param_store()
        found = run_scheduled(fused_scheduled(scheduler), scheduler, range(10), comes_and_goes)
        assert_same(found, expected)

    @by_scheduler
    def test_going_on(self, scheduler: str) -> None:
        optimizer = fused_scheduled(scheduler)
        run_scheduled(optimizer, scheduler, range(4), comes_and_goes)
        saved = saved_and_loaded({"values": values(), "optim": optimizer.get_state()})
        expected = run_scheduled(optimizer, scheduler, range(4, 8), comes_and_goes)
        resumed = fused_scheduled(scheduler)
        resume(resumed, saved)
        assert_same(run_scheduled(resumed, scheduler, range(4, 8), comes_and_goes), expected, atol=0.0)

    @by_scheduler
    def test_from_pyro(self, scheduler: str) -> None:
        theirs = pyro_scheduled(scheduler)
        run_scheduled(theirs, scheduler, range(4))
        saved = {"values": values(), "optim": theirs.get_state()}
        saved["optim"] = {name: dict(state) for name, state in saved["optim"].items()}
        copied = torch.load(_written(saved), weights_only=False)
        expected = run_scheduled(theirs, scheduler, range(4, 8))
        ours = fused_scheduled(scheduler)
        resume(ours, copied)
        assert_same(run_scheduled(ours, scheduler, range(4, 8)), expected)

    def test_learning_rate_is_seen_by_optim_objs(self) -> None:
        optimizer = fused_scheduled("exponential")
        run_scheduled(optimizer, "exponential", range(2))
        for each in optimizer.optim_objs.values():
            assert each.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 0.8**2)
        assert len(optimizer.optim_objs) == len(NAMES)

    def test_none(self) -> None:
        with pytest.raises(ValueError, match="Expected an optimiser with a scheduler but got none"):
            FusedOptim(optim.Adam, {"lr": 0.1}).step()


def _written(tree: object) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(tree, file)
    file.seek(0)
    return file


def saved_and_loaded(tree: Any) -> Any:
    return torch.load(_written(tree), weights_only=True)


def resume(optimizer: PyroOptim, saved: Any) -> None:
    """As in a process that has just started: no parameters yet but those of the file."""
    pyro.clear_param_store()
    for name, value in saved["values"].items():
        pyro.param(name, value)
    optimizer.set_state(saved["optim"])


class TestState:
    @by_case
    def test_going_on_to_the_bit(self, case: str) -> None:
        optimizer = FusedOptim(*OPTIMISERS[case])
        run(optimizer, range(23), comes_and_goes)
        saved = saved_and_loaded({"values": values(), "optim": optimizer.get_state()})
        expected = run(optimizer, range(23, 40), comes_and_goes)
        resumed = FusedOptim(*OPTIMISERS[case])
        resume(resumed, saved)
        assert_same(run(resumed, range(23, 40), comes_and_goes), expected, atol=0.0)

    @by_case
    def test_from_pyro_and_back(self, case: str) -> None:
        theirs = PyroOptim(*OPTIMISERS[case])
        run(theirs, range(15), comes_late)
        saved = torch.load(_written({"values": values(), "optim": theirs.get_state()}), weights_only=False)
        expected = run(theirs, range(15, 40))
        ours = FusedOptim(*OPTIMISERS[case])
        resume(ours, saved)
        run(ours, range(15, 25))
        again = PyroOptim(*OPTIMISERS[case])
        resume(again, saved_and_loaded({"values": values(), "optim": ours.get_state()}))
        assert_same(run(again, range(25, 40)), expected)

    def test_between_differently_split_groups(self) -> None:
        split = FusedOptim(optim.Adam, {"lr": 0.05})
        for name in NAMES:
            split.groups([leaf(name)])
        run(split, range(10))
        assert len(split.groups(map(leaf, NAMES))) == len(NAMES)
        state = split.get_state()
        for kept in state.values():
            del kept["param_groups"][0]["fused_group"]
        saved = saved_and_loaded({"values": values(), "optim": state})
        expected = run(split, range(10, 30))
        whole = FusedOptim(optim.Adam, {"lr": 0.05})
        resume(whole, saved)
        assert_same(run(whole, range(10, 30)), expected)
        assert len(whole.groups(map(leaf, NAMES))) == 1

    def test_layout_is_restored(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(3))
        step(optimizer, NAMES[2:])
        step(optimizer, NAMES[:2])
        layout = layout_of(optimizer)
        saved = saved_and_loaded({"values": values(), "optim": optimizer.get_state()})
        saved["values"] = dict(reversed(saved["values"].items()))
        resumed = FusedOptim(optim.Adam, {"lr": 0.05})
        resume(resumed, saved)
        assert layout_of(resumed) == layout
        assert len(layout) == 2

    def test_precision_of_what_is_kept_once(self) -> None:
        torch.set_default_dtype(torch.float32)
        results = []
        for saves in (False, True):
            parameter = pyro.param(f"saves {saves}", torch.ones(3, dtype=torch.float64)).unconstrained()
            optimizer = FusedOptim(optim.NAdam, {"lr": 0.01})
            for number in range(20):
                if saves and number == 10:
                    state = optimizer.get_state()
                    optimizer = FusedOptim(optim.NAdam, {"lr": 0.01})
                    optimizer.set_state(state)
                parameter.square().sum().backward()
                optimizer([parameter])
            results.append(parameter.detach())
        assert torch.equal(*results)

    def test_waits_for_parameters(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(5))
        saved = optimizer.get_state()
        resumed = FusedOptim(optim.Adam, {"lr": 0.05})
        resumed.set_state(saved)
        pyro.clear_param_store()
        run(resumed, range(3), lambda _: NAMES[:2])
        assert resumed.get_state()["late"]["state"][0]["step"] == 5
        assert resumed.get_state()["net$$$bias"]["state"][0]["step"] == 8
        run(resumed, range(1))
        assert resumed.get_state()["late"]["state"][0]["step"] == 6

    @by_kind
    def test_of_living_parameters(self, case: str) -> None:
        optimizer = FusedOptim(*OPTIMISERS[case])
        run(optimizer, range(5))
        before, state = values(), optimizer.get_state()
        expected = run(optimizer, range(5, 10))
        for name, value in before.items():
            leaf(name).data.copy_(value)
        optimizer.load_state_dict(state)
        assert_same(run(optimizer, range(5, 10)), expected, atol=0.0)

    def test_is_a_copy(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(5))
        state = optimizer.state_dict()
        before = state["late"]["state"][0]["exp_avg"].clone()
        run(optimizer, range(5, 10))
        assert torch.equal(state["late"]["state"][0]["exp_avg"], before)
        assert state["late"]["state"][0]["step"] == 5

    def test_is_small_plain_and_taken_by_torch(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": np.float64(0.05)})
        large = pyro.param("large", torch.zeros(10_000)).unconstrained()
        for each in (large, leaf("scale")):
            each.grad = torch.ones_like(each)
        optimizer([large, leaf("scale")])
        state = optimizer.get_state()["scale"]
        assert _written(state).getbuffer().nbytes < 10_000
        saved = saved_and_loaded(state)
        assert type(saved["param_groups"][0]["lr"]) is float
        theirs = optim.Adam([torch.ones(())], lr=0.7)
        theirs.load_state_dict(saved)
        assert theirs.param_groups[0]["lr"] == 0.05
        assert theirs.state_dict()["state"][0]["exp_avg"].item() == pytest.approx(0.1)

    @pytest.mark.parametrize(
        "change",
        [
            lambda saved: saved["param_groups"][0].update(lr=0.2),
            lambda saved: saved["state"][0].update(step=torch.tensor(9.0)),
            lambda saved: saved["state"].clear(),
        ],
    )
    def test_parameters_of_unlike_states_are_stepped_apart(self, change: Callable[[Any], None]) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(3))
        saved = {"values": values(), "optim": optimizer.get_state()}
        change(saved["optim"]["scale"])
        resumed = FusedOptim(optim.Adam, {"lr": 0.05})
        resume(resumed, saved)
        groups = resumed.groups(map(leaf, NAMES))
        assert sorted(len(group.parameters) for group in groups) == [1, 3]

    def test_of_a_file(self, tmp_path: Path) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(5))
        optimizer.save(str(tmp_path / "optim.pt"))
        before = values()
        expected = run(optimizer, range(5, 10))
        resumed = FusedOptim(optim.Adam, {"lr": 0.05})
        resume(resumed, {"values": before, "optim": {}})
        resumed.load(str(tmp_path / "optim.pt"))
        assert_same(run(resumed, range(5, 10)), expected, atol=0.0)

    def test_of_another_shape(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(5))
        state = optimizer.get_state()
        state["scale"] = state["late"]
        resumed = FusedOptim(optim.Adam, {"lr": 0.05})
        resumed.set_state(state)
        with pytest.raises(
            ValueError, match=r"Expected a state of the parameter 'scale' of shape \(\) but got"
        ):
            run(resumed, range(1))

    def test_names_of_the_present_parameters(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.05})
        run(optimizer, range(5))
        anew(optimizer, range(2))
        assert optimizer.get_state()["late"]["state"][0]["step"] == 2

    def test_parameters_without_a_name(self) -> None:
        parameter = nn.Parameter(torch.ones(2))
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        optimizer.groups([parameter])
        with pytest.raises(ValueError, match="Expected every parameter to have a name"):
            optimizer.get_state()
        optimizer.name_parameters({"own": parameter})
        assert set(optimizer.get_state()) == {"own"}

    def test_options_of_a_parameter_without_a_name(self) -> None:
        optimizer = FusedOptim(optim.Adam, lambda name: {"lr": {"own": 0.5}[name]})
        parameter = nn.Parameter(torch.ones(2))
        with pytest.raises(ValueError, match="Expected a parameter with a name, of which optim_args"):
            optimizer.groups([parameter])
        optimizer.name_parameters({"own": parameter})
        (group,) = optimizer.groups([parameter])
        assert group.optimizer.param_groups[0]["lr"] == 0.5

    @pytest.mark.parametrize("clear", [FusedOptim.forget, lambda optimizer: optimizer.optim_objs.clear()])
    def test_forgotten(self, clear: Callable[[FusedOptim], None]) -> None:
        optimizer, theirs = FusedOptim(optim.Adam, {"lr": 0.05}), PyroOptim(optim.Adam, {"lr": 0.05})
        run(theirs, range(5))
        theirs.optim_objs.clear()
        expected = run(theirs, range(5))
        anew(optimizer, range(5))
        clear(optimizer)
        assert_same(run(optimizer, range(5)), expected)


def layout_of(optimizer: FusedOptim) -> list[list[str | None]]:
    groups = optimizer.groups(set(map(leaf, NAMES)))
    return [list(map(pyro.get_param_store().param_name, group.parameters)) for group in groups]


class TestBrokenViews:
    @by_kind
    def test_other_data(self, case: str) -> None:
        expected = anew(FusedOptim(*OPTIMISERS[case]), range(20))
        pyro.clear_param_store()
        optimizer = FusedOptim(*OPTIMISERS[case])
        run(optimizer, range(10))
        leaf("net$$$bias").data = leaf("net$$$bias").data.clone()
        assert_same(run(optimizer, range(10, 20)), expected)
        assert all(group.intact for group in optimizer.groups(map(leaf, NAMES)))

    def test_new_values_count(self) -> None:
        optimizer = FusedOptim(optim.SGD, {"lr": 0.1})
        run(optimizer, range(2))
        leaf("scale").data = torch.tensor(7.0)
        optimizer.groups(map(leaf, NAMES))
        assert leaf("scale").item() == 7.0

    @by_kind
    def test_double(self, case: str) -> None:
        module = nn.Linear(3, 2).float()
        names = {f"net${name}": each for name, each in module.named_parameters()}
        optimizer = FusedOptim(*OPTIMISERS[case])
        optimizer.name_parameters(names)
        train_module(module, optimizer)
        before = optimizer.get_state()
        module.double()
        after = optimizer_state_after_layout(optimizer, module)
        for name, kept in before.items():
            for key, value in kept["state"].get(0, {}).items():
                expected = torch.as_tensor(value).to(torch.float64)
                assert torch.equal(torch.as_tensor(after[name]["state"][0][key]).to(expected), expected)
        train_module(module, optimizer)
        (group, *_) = optimizer.groups(module.parameters())
        assert {each.dtype for each in group.parameters} == {torch.float64}

    def test_another_shape(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        run(optimizer, range(3))
        leaf("late").data = torch.zeros(3, 3)
        run(optimizer, range(1))
        state = optimizer.get_state()
        assert state["late"]["state"][0]["exp_avg"].shape == (3, 3)
        assert state["late"]["state"][0]["step"] == 1
        assert state["scale"]["state"][0]["step"] == 4

    def test_part_of_the_module(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        leaves = [pyro.param(name, torch.ones(2)).unconstrained() for name in "ab"]
        optimizer.groups(leaves)
        leaves[0].data = leaves[0].data.float()
        assert {group.flat.dtype for group in optimizer.groups(leaves)} == {torch.float32, torch.float64}


def train_module(module: nn.Linear, optimizer: FusedOptim) -> None:
    for _ in range(3):
        module(torch.ones(3, dtype=module.weight.dtype)).square().sum().backward()
        optimizer(module.parameters())


def optimizer_state_after_layout(optimizer: FusedOptim, module: nn.Module) -> dict[str, Any]:
    optimizer.groups(module.parameters())
    return optimizer.get_state()


class TestModules:
    @pytest.fixture
    def module(self) -> nn.Module:
        module = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 3))
        FusedOptim(optim.Adam, {"lr": 0.1}).groups(module.parameters())
        return module

    def test_state_dict(self, module: nn.Module) -> None:
        other = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 3))
        other.load_state_dict(saved_and_loaded(module.state_dict()))
        for found, expected in zip(other.parameters(), module.parameters(), strict=True):
            assert torch.equal(found, expected)

    def test_loading_keeps_the_views(self, module: nn.Module) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        groups = optimizer.groups(tuple(module.parameters()))
        module.load_state_dict({name: torch.zeros_like(value) for name, value in module.state_dict().items()})
        assert all(group.intact and not group.flat.any() for group in groups)

    def test_a_small_parameter_is_saved_small(self, module: nn.Module) -> None:
        assert _written(module[1].bias).getbuffer().nbytes < 5_000
        assert _written(module.state_dict()).getbuffer().nbytes < 1.2 * 8 * 10_403


class TestClipNorm:
    @pytest.mark.parametrize(
        ("case", "clip_norm"),
        [
            ("SGD", 1e-3),
            ("SGD", 0.5),
            ("SGD", 1e6),
            ("Adam", 0.5),
            ("AdamW by name", 0.5),
            ("Adafactor", 0.5),
        ],
    )
    def test_same_as_torch(self, case: str, clip_norm: float) -> None:
        constructor, options = OPTIMISERS[case]
        leaves = [leaf(name) for name in NAMES]
        given = [options(name.replace("$$$", ".")) if callable(options) else options for name in NAMES]
        groups = [{"params": [each], **own} for each, own in zip(leaves, given, strict=True)]
        torch_optimizer = constructor(groups)
        for _ in range(20):
            loss_of(leaves).backward()
            nn.utils.clip_grad_norm_(leaves, clip_norm)
            torch_optimizer.step()
            torch_optimizer.zero_grad()
        expected = values()
        assert_same(anew(FusedOptim(constructor, options, clip_norm=clip_norm), range(20)), expected)

    @pytest.mark.parametrize("clip_norm", [0.0, -1.0, float("nan"), "1"])
    def test_errors(self, clip_norm: Any) -> None:
        with pytest.raises(ValueError, match="Expected clip_norm > 0 or None but got"):
            FusedOptim(optim.Adam, {"lr": 0.1}, clip_norm=clip_norm)


class NeedsRate(optim.SGD):
    def __init__(self, params: Any, lr: float, **more: Any) -> None:
        super().__init__(params, lr=lr, **more)


class Subclass(optim.Adam):
    pass


class TestImplementation:
    @pytest.mark.parametrize(
        ("kind", "options", "fused"),
        [
            (optim.Adam, {}, True),
            (optim.AdamW, {}, True),
            (optim.SGD, {}, True),
            (optim.Adagrad, {}, True),
            (optim.RMSprop, {}, None),
            (optim.Adam, {"fused": None}, True),
            (optim.Adam, {"fused": False}, False),
            (optim.Adam, {"foreach": True}, None),
            (optim.Adam, {"differentiable": True}, None),
        ],
    )
    def test_fused_where_there_is_a_kernel_and_no_other_choice(
        self, kind: Any, options: Any, fused: bool | None
    ) -> None:
        (group,) = FusedOptim(kind, {"lr": 0.1} | options).groups(map(leaf, NAMES))
        assert group.optimizer.param_groups[0].get("fused") is fused

    def test_classes_of_ones_own(self) -> None:
        optimizer = FusedOptim(NeedsRate, {"lr": 0.1, "momentum": 0.9})
        (group,) = optimizer.groups(map(leaf, NAMES))
        assert group.optimizer.param_groups[0]["momentum"] == 0.9
        pyro.clear_param_store()
        # A subclass of an elementwise class may mix elements
        expected = anew(PyroOptim(Subclass, {"lr": 0.1}), range(5))
        optimizer = FusedOptim(Subclass, {"lr": 0.1})
        assert_same(anew(optimizer, range(5)), expected)
        assert {group.flat for group in optimizer.groups(map(leaf, NAMES))} == {None}


class TestErrors:
    @pytest.mark.parametrize(
        ("constructor", "options", "message"),
        [
            (3, {}, "Expected a class of torch optimisers such as torch.optim.Adam but got 3"),
            (nn.Linear, {}, "Expected a class of torch optimisers .* but got .*Linear"),
            (pyro.optim.Adam, {}, "but got pyro.optim.Adam, which wraps one: pass torch.optim.Adam"),
            (optim.LBFGS, {"lr": 0.1}, "Expected an optimiser that steps by gradients alone but got LBFGS"),
            (
                optim.Adam,
                {"learning_rate": 0.1},
                r"Expected options of Adam \(lr, .*\) but got 'learning_rate'",
            ),
            (optim.Adam, 0.1, "Expected the options of Adam as a dict but got 0.1"),
            (NeedsRate, {"momentum": 0.9}, "'lr' among the options of NeedsRate but got {'momentum': 0.9}"),
        ],
    )
    def test_at_once(self, constructor: Any, options: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            FusedOptim(constructor, options)

    def test_options_by_name(self) -> None:
        optimizer = FusedOptim(optim.Adam, lambda name: {"lr": 0.1, "rate": 2, "name": name})
        with pytest.raises(ValueError, match="but got 'rate', 'name'"):
            run(optimizer, range(1))

    def test_negative_rate(self) -> None:
        with pytest.raises(ValueError, match="Invalid learning rate"):
            run(FusedOptim(optim.Adam, {"lr": -1.0}), range(1))

    def test_scheduler(self) -> None:
        with pytest.raises(ValueError, match="Expected scheduler to be a function from a torch optimiser"):
            FusedOptim(optim.Adam, {"lr": 0.1}, scheduler=0.9)  # type: ignore[arg-type]

    def test_closure(self) -> None:
        with pytest.raises(ValueError, match="there is no closure"):
            FusedOptim(optim.Adam, {"lr": 0.1})([leaf("scale")], lambda: 0.0)


@needs_cuda
class TestCuda:
    @by_kind
    def test_parameters(self, case: str) -> None:
        expected = anew(PyroOptim(*OPTIMISERS[case]), present=comes_and_goes, device="cuda")
        found = anew(FusedOptim(*OPTIMISERS[case]), present=comes_and_goes, device="cuda")
        assert_same(found, expected, atol=1e-10)

    def test_fused(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        run(optimizer, range(2), device="cuda")
        (group,) = optimizer.groups(leaf(name, "cuda") for name in NAMES)
        assert group.flat is not None
        assert group.flat.is_cuda
        assert group.optimizer.param_groups[0]["fused"]

    def test_going_on_to_the_bit(self) -> None:
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1}, clip_norm=1.0)
        run(optimizer, range(10), stays_out, "cuda")
        saved = saved_and_loaded({"values": values(), "optim": optimizer.get_state()})
        expected = run(optimizer, range(10, 30), stays_out, "cuda")
        resumed = FusedOptim(optim.Adam, {"lr": 0.1}, clip_norm=1.0)
        resume(resumed, saved)
        assert_same(run(resumed, range(10, 30), stays_out, "cuda"), expected, atol=0.0)

    def test_to_another_device(self) -> None:
        module = nn.Linear(3, 2)
        optimizer = FusedOptim(optim.Adam, {"lr": 0.1})
        optimizer.name_parameters(dict(module.named_parameters()))
        train_module(module, optimizer)
        before = optimizer.get_state()
        module.cuda()
        after = optimizer_state_after_layout(optimizer, module)
        for name, kept in before.items():
            for key, value in kept["state"][0].items():
                torch.testing.assert_close(after[name]["state"][0][key].cpu(), value, rtol=0, atol=0)
        module(torch.ones(3, device="cuda")).sum().backward()
        optimizer(module.parameters())
