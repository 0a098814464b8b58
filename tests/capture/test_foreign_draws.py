"""The states of generators other than torch's."""

import random

import numpy as np
import pytest
import torch

from pyro_infomax.capture._watch import ForeignDraws


@pytest.mark.parametrize(
    ("generator", "draw"),
    [
        (random, lambda _: random.random()),
        (np.random, lambda _: np.random.rand()),  # noqa: NPY002
        (random.Random(0), lambda own: own.random()),
        (np.random.default_rng(0), lambda own: own.normal()),
        (torch.Generator(), lambda own: float(torch.rand((), generator=own))),
    ],
)
def test_put_back(generator, draw):
    draws = ForeignDraws(generator, "own")
    first = draw(generator)
    assert draws.put_back()
    assert not draws.put_back()
    assert draw(generator) == first
