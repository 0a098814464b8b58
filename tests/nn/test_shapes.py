import pytest
import torch

from pyro_infomax.nn import merge_batch
from pyro_infomax.nn._encoders import batch_axes, to_shape


@pytest.mark.parametrize("shape", [0, (3, 0), (-1,)])
def test_sizes_below_one_are_refused(shape):
    with pytest.raises(ValueError, match="input_shape to be an integer >= 1 but got"):
        to_shape(shape, "input_shape")


@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
@pytest.mark.parametrize("event", [(), (3,), (3, 4)])
def test_leading_axes_are_merged(batch, event):
    x = torch.arange(torch.Size(batch + event).numel()).reshape(batch + event)
    rows = merge_batch(x, event, name="x", fix="fix it")
    assert rows.shape == (torch.Size(batch).numel(), *event)
    assert torch.equal(rows.flatten(), x.flatten())
    assert batch_axes(x, event) == batch


@pytest.mark.parametrize("shape", [(), (3,), (5, 4, 3), (5, 3, 4, 1)])
def test_another_event_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"Expected x of shape \(\.\.\., 3, 4\) but got \(.*\): fix it\."):
        merge_batch(torch.zeros(shape), (3, 4), name="x", fix="fix it")
