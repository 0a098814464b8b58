import pytest
import torch
from torch import nn

from pyro_infomax.nn import check_features, prototype_features


@pytest.mark.parametrize("shape", [(4, 3), (5,), (5, 2, 3), ()])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"len\(data\) = 5 but the encoder returned \("):
        check_features(torch.zeros(shape), 5)


def test_what_is_no_tensor_is_refused():
    with pytest.raises(ValueError, match="but got tuple: return the features alone"):
        check_features((torch.zeros(5, 2), torch.zeros(5, 2)), 5)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_features_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"Expected real features but .* {dtype}: return .*float"):
        check_features(torch.zeros(5, 2, dtype=dtype), 5)


@pytest.fixture
def encoder():
    layers = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.Linear(6, 3))
    layers[3].eval()
    return layers


def test_the_prototype_leaves_no_trace(encoder):
    x, state = torch.randn(5, 4), {k: v.clone() for k, v in encoder.state_dict().items()}
    random = torch.get_rng_state()
    features = prototype_features(encoder, x)
    assert features.shape == (5, 3)
    assert not features.requires_grad
    assert [module.training for module in encoder.modules()] == [True, True, True, True, False]
    torch.testing.assert_close(dict(encoder.state_dict()), state)
    assert torch.equal(random, torch.get_rng_state())


def test_the_prototype_draws_on_a_copy_of_the_random_state():
    random = torch.get_rng_state()
    prototype_features(lambda x: x + torch.randn(5, 4), torch.zeros(5, 4))
    assert torch.equal(random, torch.get_rng_state())


def test_the_modes_come_back_after_an_error(encoder):
    with pytest.raises(RuntimeError):
        prototype_features(encoder, torch.randn(5, 9))
    assert encoder.training


def test_a_method_of_a_module_is_prototyped_in_evaluation_mode():
    norm = nn.BatchNorm1d(4)
    prototype_features(norm.forward, torch.randn(5, 4))
    assert norm.training
    assert norm.num_batches_tracked == 0


def test_further_data_reach_the_encoder():
    assert prototype_features(
        lambda x, y: torch.cat([x, y], -1), torch.zeros(5, 2), torch.ones(5, 3)
    ).shape == (5, 5)
