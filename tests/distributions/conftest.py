"""Functions that build flows, as a user would write them."""

import warnings
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from pyro.distributions import transforms


def autoregressive(size, context):
    return transforms.conditional_affine_autoregressive(size, context, hidden_dims=[16])


def mixed(size, context):
    return [
        transforms.conditional_spline(size, context, hidden_dims=[8], count_bins=4),
        transforms.permute(size, torch.arange(size).flip(0)),
        transforms.affine_autoregressive(size, hidden_dims=[16]).inv,
        transforms.AffineTransform(0.3, 2.0),
    ]


def mild_spline(size):
    """As it begins, its density would have peaks that no grid shows."""
    spline = transforms.spline(size, count_bins=4)
    with torch.no_grad():
        for parameter in spline.parameters():
            parameter *= 0.2
    return spline


def unconditional(size):
    return [
        transforms.affine_autoregressive(size, hidden_dims=[16]),
        transforms.permute(size, torch.arange(size).flip(0)),
        transforms.ComposeTransform([mild_spline(size), transforms.AffineTransform(0.0, 2.0)]),
    ]


def zuko_or_skip() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("zuko")


def zuko_flow(*sizes, **kwargs):
    zuko = zuko_or_skip()
    return zuko.flows.NSF(*sizes, transforms=1, hidden_features=(16,), **kwargs)


CONDITIONAL = {
    "default": None,
    "autoregressive": autoregressive,
    "mixed": mixed,
    "zuko": zuko_flow,
    "zuko coupling": partial(zuko_flow, passes=2),
}
UNCONDITIONAL = {"default": None, "transforms": unconditional, "zuko": zuko_flow}


@pytest.fixture(params=CONDITIONAL)
def conditional(request) -> Any:
    """Each function of (size, context) in turn."""
    return CONDITIONAL[request.param]


@pytest.fixture(params=UNCONDITIONAL)
def without_context(request) -> Any:
    """Each function of (size) in turn."""
    return UNCONDITIONAL[request.param]


@pytest.fixture
def zuko() -> ModuleType:
    return zuko_or_skip()


@pytest.fixture
def stir() -> Any:
    """Takes a module away from where it begins."""

    def stirred(module, scale=0.06):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter += scale * torch.randn_like(parameter)
        return module

    return stirred


@pytest.fixture
def no_second_pass(monkeypatch) -> Any:
    """Makes every score of a value that is not the last draw an error."""

    def forbid(flow):
        def score(*_):
            raise AssertionError("the flow was run backwards")

        monkeypatch.setattr(flow, "score", score)

    return forbid
