"""Hidden layers and the share of dead units."""

import pytest
import torch
from torch import nn

from hpvade.nn._blocks import dead_unit_share, hidden_layers


@pytest.mark.parametrize("dropout_rate", [0.0, 0.2])
def test_hidden_layers(dropout_rate):
    layers = hidden_layers(7, 5, 2, dropout_rate)
    kinds = [nn.Linear, nn.LayerNorm, nn.ReLU] + ([nn.Dropout] if dropout_rate else [])
    assert [type(layer) for layer in layers] == kinds * 2
    assert layers[0].weight.shape == (5, 7) and layers[len(kinds)].weight.shape == (5, 5)
    assert layers(torch.rand(3, 7)).shape == (3, 5)
    if dropout_rate:
        assert layers[3].p == dropout_rate


def test_dead_unit_share():
    """Of 2 + 4 units, one of the first layer is off for every row and two of the second."""
    layers = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 4), nn.ReLU())
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([[1.0], [0.0]]))
        layers[0].bias.copy_(torch.tensor([0.0, -1.0]))
        layers[2].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        layers[2].bias.copy_(torch.tensor([0.0, 0.0, -1.0, -1.5]))
    assert dead_unit_share(layers, torch.tensor([[1.0], [2.0]])) == pytest.approx(3 / 6)
    # a smaller input no longer reaches the last unit, a negative one silences the first and wakes none
    assert dead_unit_share(layers, torch.tensor([[1.0]])) == pytest.approx(4 / 6)
    assert dead_unit_share(layers, torch.tensor([[-1.0]])) == 1


def test_dead_unit_share_without_relu_is_zero():
    assert dead_unit_share(nn.Sequential(nn.Linear(2, 3)), torch.rand(4, 2)) == 0
