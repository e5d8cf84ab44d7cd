"""What each gene does to an estimate: covariances of estimates, with genes as independent draws."""

from dataclasses import dataclass

import torch
from torch import Tensor

_PAIRS = 2**26  # products of two types' genes that are held at once


@dataclass
class Influence:
    """Linear effect of every gene on the fractions of `robust`.

    Gene g moves sample n's fractions by ``inverse[n] @ profile[g] * score[n, g]``.

    Attributes
    ----------
    score
        (samples x genes): weighted residual over the mean, the factor put back.
    profile
        (genes x types): scaled signature.
    inverse
        (samples x types x types): of the curvature, per unit of the sample's total.
    """

    score: Tensor
    profile: Tensor
    inverse: Tensor

    def covariance(self, other: "Influence", rows=slice(None), genes=(slice(None), slice(None))) -> Tensor:
        """Sandwich covariance (samples x types x types) of these fractions with those of `other`.

        `genes` are the positions, in either, of the genes that both have: the others are draws of one estimate only.
        """
        mine, theirs = self.profile[genes[0]], other.profile[genes[1]]
        shared = self.score[rows][:, genes[0]] * other.score[rows][:, genes[1]]
        middle = weighted_products(shared, mine, theirs).double()
        return self.inverse[rows] @ middle @ other.inverse[rows].transpose(1, 2)


def weighted_products(weight: Tensor, left: Tensor, right: Tensor) -> Tensor:
    r""":math:`\sum_g w_{ng} l_{gi} r_{gj}` (samples x types x types), in blocks of genes that bound the memory."""
    n_pairs = left.shape[1] * right.shape[1]
    total: Tensor | float = 0.0
    for genes in torch.arange(len(left), device=left.device).split(max(_PAIRS // n_pairs, 1)):
        pairs = (left[genes][:, :, None] * right[genes][:, None, :]).reshape(len(genes), -1)
        total = total + weight[:, genes] @ pairs
    return total.reshape(len(weight), left.shape[1], -1)


def covariance_of_mean(parts: list[tuple[Influence, Tensor]], rows=slice(None)) -> Tensor:
    """Covariance (samples x types x types) of the mean of several estimates of the same samples.

    The influence of a gene on the mean is the mean of its influences, so that what estimates err in alone shrinks with
    their number and what they share, such as the bulk's platform, stays. `parts` are estimates and the index of their
    genes, ascending.
    """
    total: Tensor | float = 0.0
    for one, genes in parts:
        for other, others in parts:
            place = torch.searchsorted(others, genes).clamp(max=len(others) - 1)
            both = others[place] == genes
            total = total + one.covariance(other, rows, (torch.nonzero(both)[:, 0], place[both]))
    return total / len(parts) ** 2
