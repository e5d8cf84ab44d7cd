"""What each gene does to an estimate: covariances of estimates, with genes as independent draws."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
        pairs = (mine[:, :, None] * theirs[:, None, :]).reshape(len(mine), -1)
        shared = self.score[rows][:, genes[0]] * other.score[rows][:, genes[1]]
        middle = (shared @ pairs).double().reshape(len(shared), mine.shape[1], -1)
        return self.inverse[rows] @ middle @ other.inverse[rows].transpose(1, 2)


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
