"""Genes that tell every pair of types apart."""

import torch
from torch import Tensor


def marker_genes(
    signature: Tensor,
    allowed: Tensor | None = None,
    *,
    n_per_pair: int = 25,
    n_total: int = 500,
    max_genes: int = 3000,
    floor: float = 5e-5,
    min_log_ratio: float = 0.3,
) -> Tensor:
    r"""Choose the genes that separate each type from each other one, by :math:`\log(s_{gi} + c) - \log(s_{gj} + c)`.

    Every ordered pair of types chooses its own genes, so that two similar types have as many as two different ones; a
    ranking by overall spread gives nearly all genes to the most distinct type. The floor c is that of the residuals
    of :func:`hpvade.solvers.robust`: genes below it say little.

    Parameters
    ----------
    signature
        (genes x types), linear scale, columns that sum to one over all genes.
    allowed
        Genes to choose from, bool (genes,); all when None.
    n_per_pair
        Genes per ordered pair of types.
    n_total
        With few types, each pair chooses more, so that the pairs together have this many choices.
    max_genes
        Most genes; the ones that rank highest for some pair stay.
    floor
        c, as a share of the total (5e-5 is 50 counts per million).
    min_log_ratio
        Smallest log ratio that counts as a difference.

    Returns
    -------
    Index of the chosen genes, ascending.

    Raises
    ------
    ValueError
        If no gene separates any two types.

    Examples
    --------
    >>> import torch
    >>> marker_genes(torch.tensor([[0.5, 0.1], [0.3, 0.3], [0.2, 0.6]]))
    tensor([0, 2])
    """
    n_genes, n_types = signature.shape
    level = torch.log(signature + floor)
    allowed = torch.ones(n_genes, dtype=torch.bool, device=signature.device) if allowed is None else allowed
    n_pairs = n_types * (n_types - 1)
    n_chosen = min(max(n_per_pair, -(-n_total // max(n_pairs, 1))), n_genes)
    rank = torch.arange(n_chosen, device=signature.device).expand(n_types, -1)
    best = torch.full((n_genes,), n_genes, device=signature.device)
    for i in range(n_types):
        ratio = (level[:, i : i + 1] - level).masked_fill(~allowed[:, None], -torch.inf).T  # (other types x genes)
        value, gene = ratio.sort(dim=1, descending=True, stable=True)
        value, gene = value[:, :n_chosen], gene[:, :n_chosen]
        good = value > min_log_ratio
        best.scatter_reduce_(0, gene[good], rank[good], "amin")
    chosen = (best < n_chosen).nonzero()[:, 0]
    if len(chosen) == 0:
        raise ValueError("no gene separates any two types of the signature; expected types that differ. Merge types.")
    if len(chosen) > max_genes:
        chosen = chosen[best[chosen].argsort(stable=True)[:max_genes]].sort().values
    return chosen
