"""The one transform in which expression is compared, and standardisation with stored statistics."""

import torch
from torch import Tensor, nn

CLIP = 6.0


def log1p_cp10k(x: Tensor) -> Tensor:
    """log(1 + counts per ten thousand) over the last dimension; the same for any positive multiple of a row."""
    return torch.log1p(1e4 * x / x.sum(dim=-1, keepdim=True).clamp(min=1e-30))


class Standardizer(nn.Module):
    """log1p cp10k, standardised per gene with statistics of the training data, which are part of the state dict.

    Parameters
    ----------
    n_genes
        Number of genes.
    scale_free
        First subtract each sample's mean over genes and divide by its standard deviation, which removes what differs
        between platforms for all genes alike, such as dynamic range (bulk). Off for cells.
    """

    def __init__(self, n_genes: int, *, scale_free: bool):
        super().__init__()
        self.scale_free = scale_free
        self.register_buffer("mean", torch.zeros(n_genes))
        self.register_buffer("std", torch.ones(n_genes))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the statistics from linear expression `x` (samples x genes); standard deviations are at least 0.01."""
        t = self._transform(x, None)
        self.mean.copy_(t.mean(dim=0))
        self.std.copy_(t.std(dim=0, correction=0).clamp(min=1e-2))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Standardised input (samples x genes), clipped to +-6; genes not in the mask `present` (genes,) become 0."""
        z = ((self._transform(x, present) - self.mean) / self.std).clamp(-CLIP, CLIP)
        return z if present is None else z * present

    def _transform(self, x: Tensor, present: Tensor | None) -> Tensor:
        if present is not None:
            x = x * present
        t = log1p_cp10k(x)
        if not self.scale_free:
            return t
        # absent genes are zero in t and add nothing to the sums
        n = t.shape[1] if present is None else present.sum().clamp(min=1)  # dropout may take all of few genes
        mean = t.sum(dim=1, keepdim=True) / n
        variance = t.square().sum(dim=1, keepdim=True) / n - mean.square()
        return (t - mean) / variance.clamp(min=0).sqrt().clamp(min=1e-6)
