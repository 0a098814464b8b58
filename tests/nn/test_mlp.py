import pytest
import torch
from torch import nn

from pyro_infomax.nn import MLP, MLPDecoder, MLPEncoder


def test_layers_alternate_and_end_linear():
    layers = [type(layer) for layer in MLP(4, 2, hidden=(8, 6), activation=nn.Tanh)]
    assert layers == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]


def test_without_hidden_layers_an_mlp_is_linear():
    f, x, y = MLP(4, 2, hidden=()), torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(f(x + y) + f(torch.zeros(3, 4)), f(x) + f(y))


@pytest.mark.parametrize(("shape", "batch"), [((8,), (2, 5)), ((8, 8), ()), ((3, 8, 8), (5,))])
def test_an_encoder_restores_leading_axes(shape, batch):
    encoder, x = MLPEncoder(shape, hidden=(7,)), torch.rand(*batch, *shape)
    features = encoder(x)
    assert features.shape == (*batch, encoder.out_features) == (*batch, 7)
    torch.testing.assert_close(features.reshape(-1, 7)[-1], encoder(x.reshape(-1, *shape)[-1]))


def test_features_have_their_activation():
    assert (MLPEncoder(8, hidden=(7,))(torch.randn(50, 8)) >= 0).all()


def test_an_encoder_without_hidden_layers_gives_the_flat_datum():
    encoder, x = MLPEncoder((3, 4), hidden=()), torch.randn(5, 3, 4)
    assert encoder.out_features == 12
    assert torch.equal(encoder(x), x.flatten(1))


@pytest.mark.parametrize(("shape", "batch"), [((9,), ()), ((8, 8), (2, 5)), ((), (5,))])
def test_a_decoder_takes_any_leading_axes(shape, batch):
    decoder, z = MLPDecoder(3, shape, hidden=(7,)), torch.randn(*batch, 3)
    assert decoder(z).shape == (*batch, *shape)
    torch.testing.assert_close(decoder(z).reshape(-1, *shape)[-1], decoder(z.reshape(-1, 3)[-1]))


@pytest.mark.parametrize("shape", [(), (4,), (5, 4, 3), (5, 3, 4, 1)])
def test_data_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"Expected data of shape \(\.\.\., 3, 4\) but got \(.*\)"):
        MLPEncoder((3, 4))(torch.zeros(shape))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"Expected data of shape \(\.\.\., 8, 8\) but got \(5, 64\)"):
        MLPEncoder((8, 8))(torch.zeros(5, 64))
    with pytest.raises(ValueError, match=r"Expected latents of shape \(\.\.\., 3\) but got \(5, 2\)"):
        MLPDecoder(3, (8, 8))(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="latent_dim"):
        MLPDecoder(0, (8, 8))


@pytest.mark.parametrize(
    "build",
    [
        lambda: MLP(True, 3),
        lambda: MLP(4, 0),
        lambda: MLP(4, 3, hidden=(8, 2.5)),
        lambda: MLPEncoder(4, hidden=(0,)),
        lambda: MLPEncoder((3, 0)),
        lambda: MLPEncoder((-1,)),
        lambda: MLPDecoder(True, 4),
    ],
)
def test_sizes_are_integers(build):
    with pytest.raises(ValueError, match="to be an integer >= 1 but got"):
        build()
