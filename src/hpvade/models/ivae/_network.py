"""The networks of the interpretable variational autoencoder, to the letter (spec 3.1)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def weight_init(m: nn.Module) -> None:
    """Initialise a linear layer: Xavier normal weights, biases of 0.01; other modules are left as they are.

    Examples
    --------
    >>> from torch import nn
    >>> layer = nn.Linear(3, 2)
    >>> weight_init(layer)
    >>> layer.bias
    Parameter containing:
    tensor([0.0100, 0.0100], requires_grad=True)
    """
    if isinstance(m, nn.Linear):
        nn.init.xavier_normal_(m.weight)
        nn.init.constant_(m.bias, 0.01)


class Encoder(nn.Module):
    """Map cells to a diagonal normal posterior, and sample from it.

    `nn` is Linear(G, H), ReLU, Linear(H, H), ReLU, Linear(H, 2D), initialised by :func:`weight_init`.

    Parameters
    ----------
    state_dim
        Number of genes G.
    hidden_dim
        Hidden units H.
    action_dim
        Latent size D.

    Examples
    --------
    >>> import torch
    >>> q_z, q_m, q_s = Encoder(50, 16, 4)(torch.rand(3, 50))
    >>> q_z.shape
    torch.Size([3, 4])
    """

    def __init__(self, state_dim: int, hidden_dim: int, action_dim: int):
        super().__init__()
        self.nn = nn.Sequential(
            nn.Linear(state_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, 2 * action_dim),
        )
        self.apply(weight_init)

    @staticmethod
    def scale(q_s: Tensor) -> Tensor:
        """Standard deviation of the posterior, ``softplus(q_s) + 1e-6``: the one definition for sampling and losses."""
        return softplus(q_s) + 1e-6

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean `q_m` and the raw scale `q_s`, the first and the last D columns of ``nn(x)``."""
        q_m, q_s = self.nn(x).chunk(2, dim=-1)
        return q_m, q_s

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a sample `q_z`, the mean `q_m` and the raw scale `q_s`, each (B, D), for `x` (B, G)."""
        q_m, q_s = self.posterior(x)
        q_z = q_m + self.scale(q_s) * torch.randn_like(q_m)
        return q_z, q_m, q_s


class Decoder(nn.Module):
    """Map latent vectors to proportions of expression, which sum to one over genes.

    `nn` is Linear(D, H), ReLU, Linear(H, H), ReLU, Linear(H, G), Softmax(dim=-1), initialised by :func:`weight_init`;
    `disp` (G,) is the logarithm of the inverse dispersions.

    Parameters
    ----------
    state_dim
        Number of genes G.
    hidden_dim
        Hidden units H.
    action_dim
        Width of the input: the latent size D, plus covariates where there are any.

    Examples
    --------
    >>> import torch
    >>> proportions = Decoder(50, 16, 4)(torch.rand(3, 4))
    >>> bool(torch.allclose(proportions.sum(dim=1), torch.ones(3)))
    True
    """

    def __init__(self, state_dim: int, hidden_dim: int, action_dim: int):
        super().__init__()
        self.nn = nn.Sequential(
            nn.Linear(action_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.ReLU(),
            nn.Linear(hidden_dim, state_dim),
            nn.Softmax(dim=-1),
        )
        self.disp = nn.Parameter(torch.randn(state_dim))
        self.apply(weight_init)

    def logits(self, x: Tensor) -> Tensor:
        """Return what enters the softmax, (..., G)."""
        return self.nn[:-1](x)

    def forward(self, x: Tensor) -> Tensor:
        """Return proportions (..., G) for `x` (..., D)."""
        return self.nn(x)


class VAE(nn.Module):
    """Autoencoder with a second, very small code inside: the bottleneck.

    `latent_encoder` is Linear(D, I) and `latent_decoder` Linear(I, D), with torch's default initialisation. The
    bottleneck's code is expanded again and decoded by the same `decoder`.

    Parameters
    ----------
    state_dim
        Number of genes G.
    hidden_dim
        Hidden units H.
    action_dim
        Latent size D.
    i_dim
        Bottleneck size I.
    n_covariates
        Columns that the decoder gets beside the latent vector.

    Examples
    --------
    >>> import torch
    >>> q_z, q_m, q_s, pred_x, le, ld, pred_xl = VAE(50, 16, 4, 2)(torch.rand(3, 50))
    >>> pred_x.shape, le.shape, ld.shape
    (torch.Size([3, 50]), torch.Size([3, 2]), torch.Size([3, 4]))
    """

    def __init__(self, state_dim: int, hidden_dim: int, action_dim: int, i_dim: int, *, n_covariates: int = 0):
        super().__init__()
        self.encoder = Encoder(state_dim, hidden_dim, action_dim)
        self.decoder = Decoder(state_dim, hidden_dim, action_dim + n_covariates)
        self.latent_encoder = nn.Linear(action_dim, i_dim)
        self.latent_decoder = nn.Linear(i_dim, action_dim)

    def forward(self, x: Tensor, covariates: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode, compress, expand and decode.

        Parameters
        ----------
        x
            Input of the encoder, log1p of counts (B, G).
        covariates
            (B, `n_covariates`); None without covariates.

        Returns
        -------
        ``(q_z, q_m, q_s, pred_x, le, ld, pred_xl)``: the sample, mean and raw scale of the posterior (B, D); the
        proportions decoded from the sample (B, G); the bottleneck (B, I), expanded (B, D), and the proportions decoded
        from it (B, G).
        """
        q_z, q_m, q_s = self.encoder(x)
        le = self.latent_encoder(q_z)
        ld = self.latent_decoder(le)
        return q_z, q_m, q_s, self.decode(q_z, covariates), le, ld, self.decode(ld, covariates)

    def bottleneck(self, z: Tensor) -> Tensor:
        """Return latent vectors (..., D) that went through the bottleneck and back."""
        return self.latent_decoder(self.latent_encoder(z))

    @torch.no_grad()
    def order_latent(self, order: Tensor, signs: Tensor) -> None:
        """Put the latent axes in this order, times these signs (D,); the layers that read them undo it."""
        signs = signs.to(self.latent_encoder.weight)
        encode, read = self.encoder.nn[-1], self.decoder.nn[0]
        rows = torch.cat([order, order + len(order)]).to(signs.device)  # of the means and of the raw scales
        flips = torch.cat([signs, torch.ones_like(signs)])
        encode.weight.copy_(flips[:, None] * encode.weight[rows])
        encode.bias.copy_(flips * encode.bias[rows])
        order = rows[: len(order)]
        read.weight[:, : len(order)] = read.weight[:, order] * signs
        self.latent_encoder.weight.copy_(self.latent_encoder.weight[:, order] * signs)
        self.latent_decoder.weight.copy_(signs[:, None] * self.latent_decoder.weight[order])
        self.latent_decoder.bias.copy_(signs * self.latent_decoder.bias[order])

    @torch.no_grad()
    def turn_bottleneck(self, matrix: Tensor, centre: Tensor) -> None:
        """Make ``matrix @ (b - centre)`` the bottleneck, for b what it was; its expansion undoes it."""
        encode, expand = self.latent_encoder, self.latent_decoder
        matrix, centre = (value.to(encode.weight.device).double() for value in (matrix, centre))
        expand.bias.add_(expand.weight.double() @ centre)
        expand.weight.copy_(torch.linalg.solve(matrix, expand.weight.double(), left=False))
        encode.bias.copy_(matrix @ (encode.bias.double() - centre))
        encode.weight.copy_(matrix @ encode.weight.double())

    def decode(self, z: Tensor, covariates: Tensor | None = None) -> Tensor:
        """Return proportions (..., G) of latent vectors (..., D)."""
        return self.decoder(join(z, covariates))


def join(z: Tensor, covariates: Tensor | None) -> Tensor:
    """Return the input of the decoder: latent vectors (..., B, D) beside covariates (B, C)."""
    return z if covariates is None else torch.cat([z, covariates.expand(*z.shape[:-1], -1)], dim=-1)
