"""Building blocks of the networks."""

from torch import nn


def hidden_layers(n_in: int, n_hidden: int, n_layers: int, dropout_rate: float) -> nn.Sequential:
    """`n_layers` times Linear, LayerNorm, ReLU, Dropout."""
    layers: list[nn.Module] = []
    for i in range(n_layers):
        layers += [nn.Linear(n_hidden if i else n_in, n_hidden), nn.LayerNorm(n_hidden), nn.ReLU()]
        if dropout_rate > 0:
            layers.append(nn.Dropout(dropout_rate))
    return nn.Sequential(*layers)


def dead_unit_share(layers: nn.Sequential, x) -> float:
    """Share of hidden ReLU units in `layers` that are zero for every row of `x`."""
    dead, total = 0, 0
    for layer in layers:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            dead += int((x <= 0).all(dim=0).sum())
            total += x.shape[1]
    return dead / max(total, 1)
