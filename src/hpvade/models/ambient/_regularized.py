"""Encoder and decoder of the regularised models: LayerNorm without affine, categories injected into every layer."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

_MIN_VARIANCE = 1e-4


class RegularizedFCLayers(nn.Module):
    """Fully connected layers with the categories of a cell given to every layer.

    Each layer: dropout of its input, one-hot categories appended, Linear, [BatchNorm], [LayerNorm], ReLU.

    Parameters
    ----------
    n_in, n_out
        Sizes of input and output.
    n_cat_list
        Number of categories of each categorical covariate; covariates with one category are ignored.
    n_layers, n_hidden
        Number of layers, and size of those before the last.
    dropout_rate
        Share of the input of each layer that is dropped in training.
    batch_norm, layer_norm
        Which normalisations to use; neither has affine parameters.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_cat_list: Sequence[int] = (),
        *,
        n_layers: int = 1,
        n_hidden: int = 128,
        dropout_rate: float = 0.1,
        batch_norm: bool = False,
        layer_norm: bool = True,
    ):
        super().__init__()
        self.n_cat_list = [n if n > 1 else 0 for n in n_cat_list]
        self.n_covariates = sum(self.n_cat_list)
        self.dropout_rate = dropout_rate
        sizes = [n_in, *[n_hidden] * (n_layers - 1), n_out]
        layers = OrderedDict()
        for i, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            parts: list[nn.Module] = [nn.Linear(before + self.n_covariates, after)]
            if batch_norm:
                parts.append(nn.BatchNorm1d(after, momentum=0.01, eps=1e-3, affine=False))
            if layer_norm:
                parts.append(nn.LayerNorm(after, elementwise_affine=False))
            layers[f"Layer {i}"] = nn.Sequential(*parts, nn.ReLU())
        self.fc_layers = nn.Sequential(layers)

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Hidden values (..., n_out) of `x` (..., n_in) and one-hot `covariates` (cells, n_covariates)."""
        shape = x.shape[:-1]
        x = x.reshape(-1, x.shape[-1])
        if self.n_covariates:
            covariates = covariates.expand(*shape, -1).reshape(len(x), -1)
        for layer in self.fc_layers:
            x = nn.functional.dropout(x, self.dropout_rate, self.training)
            x = layer(torch.cat([x, covariates], dim=-1) if self.n_covariates else x)
        return x.reshape(*shape, -1)

    def weights(self) -> list[Tensor]:
        """Weight matrices of the linear layers, without biases."""
        return [layer[0].weight for layer in self.fc_layers]


class RegularizedEncoder(nn.Module):
    """Diagonal normal posterior from fully connected layers; variance exp(.) + 1e-4.

    Parameters
    ----------
    n_in, n_out
        Sizes of input and of the latent variable.
    n_cat_list
        See :class:`RegularizedFCLayers`.
    **layers
        Options of :class:`RegularizedFCLayers`.
    """

    def __init__(self, n_in: int, n_out: int, n_cat_list: Sequence[int] = (), *, n_hidden: int = 128, **layers):
        super().__init__()
        self.encoder = RegularizedFCLayers(n_in, n_hidden, n_cat_list, n_hidden=n_hidden, **layers)
        self.mean_encoder = nn.Linear(n_hidden, n_out)
        self.var_encoder = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> tuple[Normal, Tensor]:
        """Posterior and one sample of it, each (cells, n_out)."""
        hidden = self.encoder(x, covariates)
        q = Normal(self.mean_encoder(hidden), (self.var_encoder(hidden).exp() + _MIN_VARIANCE).sqrt())
        return q, q.rsample()


class RegularizedDecoderSCVI(nn.Module):
    """Positive rates from the latent variable: fully connected layers without dropout, Linear, softplus.

    Parameters
    ----------
    n_in, n_out
        Sizes of the input (latent and continuous covariates) and of the output (features).
    n_cat_list
        See :class:`RegularizedFCLayers`.
    **layers
        Options of :class:`RegularizedFCLayers`.
    """

    def __init__(self, n_in: int, n_out: int, n_cat_list: Sequence[int] = (), *, n_hidden: int = 128, **layers):
        super().__init__()
        self.n_in = n_in
        layers = layers | {"dropout_rate": 0.0}
        self.px_decoder = RegularizedFCLayers(n_in, n_hidden, n_cat_list, n_hidden=n_hidden, **layers)
        self.px_scale_decoder = nn.Sequential(nn.Linear(n_hidden, n_out), nn.Softplus())

    def forward(self, z: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Rates (..., n_out), on no particular scale, and the last hidden values (..., n_hidden)."""
        hidden = self.px_decoder(z, covariates)
        return self.px_scale_decoder(hidden), hidden

    def weights(self) -> list[Tensor]:
        """Weight matrices of all linear layers, without biases."""
        return [*self.px_decoder.weights(), self.px_scale_decoder[0].weight]

    def covariate_weights(self) -> Tensor:
        """Columns of the first layer that belong to categories."""
        return self.px_decoder.weights()[0][:, self.n_in :]
