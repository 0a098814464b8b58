import traceback

import pyro
import pytest
import torch
from pyro import poutine

from pyro_infomax.poutine import plain_errors


@pytest.mark.parametrize("kind", [ValueError, NotImplementedError])
def test_a_sentence_of_ours_stays_as_it_was_said(kind):
    def model():
        raise kind("Expected data but got none.")

    with pytest.raises(kind) as caught, plain_errors():
        poutine.trace(poutine.trace(model)).get_trace()
    assert str(caught.value) == "Expected data but got none."


def test_other_errors_keep_the_shapes():
    def model():
        raise RuntimeError("mat1 and mat2")

    with pytest.raises(RuntimeError, match="Trace Shapes"), plain_errors():
        poutine.trace(model).get_trace()


def test_an_error_of_torch_is_told_once_with_the_shapes_once():
    def model():
        pyro.param("weight", torch.ones(2, 3))
        torch.ones(2) @ torch.ones(3)

    with pytest.raises(RuntimeError) as caught, plain_errors():
        poutine.trace(poutine.trace(poutine.trace(model))).get_trace()
    told = "".join(traceback.format_exception(caught.value))
    assert told.count("Traceback") == 1
    assert told.count("weight 2 3") == 1
