import pytest
import torch
from torch import nn

from pyro_infomax.nn import ConvDecoder, ConvEncoder

SHAPES = [(4, 4), (5, 7), (8, 8), (1, 28, 28), (3, 32, 32), (1, 64, 64), (2, 9, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_any_size_goes_in_and_comes_out(shape):
    encoder = ConvEncoder(shape, channels=(2, 3), out_features=6)
    assert encoder(torch.rand(2, *shape)).shape == (2, encoder.out_features) == (2, 6)
    for channels in ((3, 2), (2,), (4, 3, 2)):
        decoder = ConvDecoder(3, shape, channels=channels, hidden=5)
        assert decoder(torch.rand(2, 3)).shape == (2, *shape)


@pytest.mark.parametrize("batch", [(), (2, 5)])
def test_leading_axes_are_restored(batch):
    encoder = ConvEncoder((5, 6), channels=(2,), out_features=4)
    decoder = ConvDecoder(4, (5, 6), channels=(2,), hidden=5)
    x = torch.rand(*batch, 5, 6)
    assert decoder(encoder(x)).shape == x.shape
    torch.testing.assert_close(encoder(x).reshape(-1, 4)[-1], encoder(x.reshape(-1, 5, 6)[-1]))


def test_the_layer_sizes_mirror_each_other():
    encoder, decoder = ConvEncoder((9, 8), channels=(2, 3)), ConvDecoder(1, (9, 8), channels=(3, 2))
    down = [encoder.layers[i].weight.shape for i in (0, 2)]
    up = [m.weight.shape for m in decoder.layers if isinstance(m, nn.ConvTranspose2d)]
    assert down == up[::-1]


def test_every_pixel_of_the_output_follows_the_latent():
    decoder = ConvDecoder(2, (7, 8), channels=(8, 8), activation=nn.Tanh)
    a, b = decoder(torch.randn(2, 2))
    assert ((a - b).abs() > 0).all()


@pytest.mark.parametrize("build", [ConvEncoder, lambda shape: ConvDecoder(2, shape)])
@pytest.mark.parametrize("shape", [(3, 8), (1, 8, 3), (64,), (2, 1, 8, 8)])
def test_what_is_no_image_is_refused(build, shape):
    with pytest.raises(ValueError, match=r"sides >= 4 but got \(.*\): use an MLP"):
        build(shape)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"Expected data of shape \(\.\.\., 1, 8, 8\) but got \(5, 8, 8\)"):
        ConvEncoder((1, 8, 8))(torch.zeros(5, 8, 8))
    with pytest.raises(ValueError, match=r"Expected latents of shape \(\.\.\., 3\) but got \(5, 2\)"):
        ConvDecoder(3, (8, 8))(torch.zeros(5, 2))
