"""The three networks against their description in spec 3.1."""

import pytest
import torch
from torch import nn

import hpvade.models.hpvade._module
import hpvade.nn
from hpvade.nn import Decoder, DeconvolutionNetwork, Encoder

G, D, K, H = 30, 5, 4, 128


@pytest.mark.parametrize(
    ("network", "layers", "shapes"),
    [
        (Encoder(G, D), [nn.Linear, nn.ReLU, nn.Linear], [(H, G), (2 * D, H)]),
        (Decoder(D, G), [nn.Linear, nn.ReLU, nn.Linear], [(H, D), (G, H)]),
        (DeconvolutionNetwork(G, K), [nn.Linear, nn.ReLU, nn.Linear, nn.Softmax], [(H, G), (K, H)]),
        (Encoder(G, D, 7), [nn.Linear, nn.ReLU, nn.Linear], [(7, G), (2 * D, 7)]),
    ],
)
def test_hp01_layers_and_shapes(network, layers, shapes):
    assert isinstance(network.mlp, nn.Sequential)
    assert [type(layer) for layer in network.mlp] == layers
    linear = [layer for layer in network.mlp if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == shapes
    assert all(layer.bias is not None for layer in linear)
    assert [name for name, _ in network.named_children()] == ["mlp"]


@pytest.mark.parametrize("n", [1, 6])
def test_hp01_encoder_returns_the_two_column_halves(n):
    encoder, x = Encoder(G, D), torch.randn(n, G)
    mu, logvar = encoder(x)
    assert torch.equal(mu, encoder.mlp(x)[:, :D])
    assert torch.equal(logvar, encoder.mlp(x)[:, D:])


def test_hp01_deconvolution_rows_sum_to_one():
    network, x = DeconvolutionNetwork(G, K), 20 * torch.randn(50, G)
    p = network(x)
    assert network.mlp[-1].dim == 1
    torch.testing.assert_close(p.sum(dim=1), torch.ones(50), atol=1e-6, rtol=0)
    assert (p >= 0).all()
    assert torch.equal(torch.softmax(network.logits(x), dim=1), p)


def test_hp01_decoder_is_unbounded():
    x = Decoder(D, G)(100 * torch.randn(200, D))
    assert x.min() < -1 and x.max() > 1


def test_nn_lends_hp_vade_and_refuses_other_names():
    assert hpvade.nn.HP_VADE is hpvade.models.hpvade._module.HP_VADE
    with pytest.raises(AttributeError, match="HP_VAD"):
        hpvade.nn.HP_VAD  # noqa: B018
