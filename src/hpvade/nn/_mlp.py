"""The three networks of HP-VADE, each two linear layers with a ReLU between them (spec 3.1)."""

import torch
from torch import nn


class Encoder(nn.Module):
    """Map cells to the mean and log-variance of a diagonal normal latent posterior.

    `mlp` is Linear(G, H), ReLU, Linear(H, 2D) with torch's default initialisation.

    Parameters
    ----------
    in_features
        Number of genes G.
    latent_dim
        Latent size D.
    n_hidden
        Hidden units H.

    Examples
    --------
    >>> import torch
    >>> mu, logvar = Encoder(50, 8)(torch.rand(4, 50))
    >>> mu.shape, logvar.shape
    (torch.Size([4, 8]), torch.Size([4, 8]))
    """

    def __init__(self, in_features: int, latent_dim: int, n_hidden: int = 128):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(in_features, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 2 * latent_dim))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `mu` and `logvar`, each (B, D): the first and the last D columns of `mlp(x)`; `x` is (B, G)."""
        mu, logvar = self.mlp(x).chunk(2, dim=1)
        return mu, logvar


class Decoder(nn.Module):
    """Map latent vectors to expression, without a final activation: the output is unbounded.

    `mlp` is Linear(D, H), ReLU, Linear(H, G) with torch's default initialisation.

    Parameters
    ----------
    latent_dim
        Latent size D.
    out_features
        Number of genes G.
    n_hidden
        Hidden units H.

    Examples
    --------
    >>> import torch
    >>> Decoder(8, 50)(torch.zeros(4, 8)).shape
    torch.Size([4, 50])
    """

    def __init__(self, latent_dim: int, out_features: int, n_hidden: int = 128):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(latent_dim, n_hidden), nn.ReLU(), nn.Linear(n_hidden, out_features))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the reconstruction (B, G) of latent vectors `z` (B, D)."""
        return self.mlp(z)


class DeconvolutionNetwork(nn.Module):
    """Map bulk samples to cell-type proportions.

    `mlp` is Linear(G, H), ReLU, Linear(H, K), Softmax(dim=1) with torch's default initialisation.

    Parameters
    ----------
    in_features
        Number of genes G.
    n_cell_types
        Number of cell types K.
    n_hidden
        Hidden units H.

    Examples
    --------
    >>> import torch
    >>> proportions = DeconvolutionNetwork(50, 3)(torch.rand(4, 50))
    >>> bool(torch.allclose(proportions.sum(dim=1), torch.ones(4)))
    True
    """

    def __init__(self, in_features: int, n_cell_types: int, n_hidden: int = 128):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_features, n_hidden), nn.ReLU(), nn.Linear(n_hidden, n_cell_types), nn.Softmax(dim=1)
        )

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Return what enters the softmax, (B, K): its `log_softmax` is finite where the log of `forward` is -inf."""
        return self.mlp[:-1](x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return proportions (B, K), rows sum to one, of bulk samples `x` (B, G)."""
        return self.mlp(x)
