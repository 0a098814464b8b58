"""Compiled graphs; one compilation for all tests."""

import os
import shutil
from typing import NamedTuple

import pyro
import pytest
import torch

from pyro_infomax.capture import FusedOptim
from pyro_infomax.capture._graph import GradientBuffers, RecordedGraph, compile_graph

pytestmark = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler"
)


class Compiled(NamedTuple):
    run: object
    function: object
    buffers: GradientBuffers
    outside: torch.Tensor
    count: torch.Tensor
    parameters: list[torch.Tensor]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("inductor"))
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    generator = torch.Generator().manual_seed(0)
    for name, shape in {"weight": (3, 4), "bias": (3,)}.items():
        pyro.param(name, torch.randn(shape, generator=generator))
    parameters = [leaf for _, leaf in pyro.get_param_store().named_parameters()]
    outside, count = torch.ones(3), torch.zeros(())

    def function(x, beta):
        weight, bias = parameters
        noise = torch.randn(5, 3)
        count.add_(1)
        loss = beta * (x @ weight.T + bias * outside + noise).tanh().square().sum() + count
        return loss, *torch.autograd.grad(loss, parameters)

    inputs = [torch.randn(5, 4, generator=generator), torch.tensor(2.0)]
    with torch.random.fork_rng(devices=[]):
        buffers = GradientBuffers(FusedOptim(torch.optim.SGD, {"lr": 1.0}), parameters, parameters)
        recorded = RecordedGraph(function, inputs)
        recorded.simplify()
        yield Compiled(
            compile_graph(recorded, inputs, buffers), function, buffers, outside, count, parameters
        )
    torch.set_default_dtype(dtype)
    if before is None:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]
    else:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


def agree(compiled: Compiled, x, beta) -> None:
    count = compiled.count.clone()
    torch.manual_seed(3)
    with torch.no_grad():
        (loss,) = compiled.run(x, beta)
    after = torch.rand(())
    assert compiled.count == count + 1
    compiled.count.copy_(count)
    torch.manual_seed(3)
    expected = compiled.function(x, beta)
    assert after == torch.rand(())
    torch.testing.assert_close(loss, expected[0], rtol=1e-12, atol=0)
    for leaf, gradient in zip(compiled.parameters, expected[1:], strict=True):
        torch.testing.assert_close(compiled.buffers.views[leaf], gradient, rtol=1e-10, atol=1e-12)


def test_it_computes_what_the_function_does_with_the_same_draws(compiled):
    agree(compiled, torch.randn(5, 4), torch.tensor(0.5))


def test_parameters_are_those_that_the_optimiser_has_moved(compiled):
    before = [leaf.detach().clone() for leaf in compiled.parameters]
    compiled.buffers.apply()
    assert not any(map(torch.equal, before, compiled.parameters))
    agree(compiled, torch.randn(5, 4), torch.tensor(1.0))


def test_small_tensors_that_it_closes_over_stay_live(compiled):
    compiled.outside.mul_(-2)
    agree(compiled, torch.randn(5, 4), torch.tensor(1.0))
