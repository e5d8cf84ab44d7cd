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
    best = torch.full((n_genes,), n_genes, device=signature.device)
    genes = allowed.nonzero()[:, 0]
    level = level[genes].T.contiguous()
    n_chosen = min(n_chosen, len(genes))
    for i in range(n_types if n_chosen else 0):
        value, gene = _highest(level[i] - level, n_chosen, min_log_ratio)
        rank = torch.arange(n_chosen, device=signature.device).expand(n_types, -1)
        good = value > min_log_ratio
        best.scatter_reduce_(0, genes[gene[good]], rank[good], "amin")
    chosen = (best < n_chosen).nonzero()[:, 0]
    if len(chosen) == 0:
        raise ValueError("no gene separates any two types of the signature; expected types that differ. Merge types.")
    if len(chosen) > max_genes:
        chosen = chosen[best[chosen].argsort(stable=True)[:max_genes]].sort().values
    return chosen


def _highest(ratio: Tensor, n_chosen: int, least: float) -> tuple[Tensor, Tensor]:
    """The `n_chosen` highest values of each row and their places; of equal ones the first.

    So it is for values above `least`; the others may be any of those that are equal.
    """
    if n_chosen == ratio.shape[1]:
        return ratio.sort(dim=1, descending=True, stable=True)
    gene = ratio.topk(n_chosen + 1, dim=1, sorted=False).indices.sort(dim=1).values
    value, order = ratio.gather(1, gene).sort(dim=1, descending=True, stable=True)
    gene = gene.gather(1, order)
    last = value[:, n_chosen - 1]
    tied = ((last == value[:, n_chosen]) & (last > least)).nonzero()[:, 0]  # topk took any of the equal ones
    value, gene = value[:, :n_chosen], gene[:, :n_chosen].clone()
    if len(tied):  # the values are the same, and of the equal ones at the end the first are taken; no sort of all
        whole, at_end = ratio[tied], value[tied, -1:]
        above, equal = whole > at_end, whole == at_end
        first = equal & (equal.cumsum(dim=1) <= n_chosen - above.sum(dim=1, keepdim=True))
        chosen = (above | first).nonzero()[:, 1].reshape(len(tied), n_chosen)
        order = whole.gather(1, chosen).sort(dim=1, descending=True, stable=True).indices
        gene[tied] = chosen.gather(1, order)
    return value, gene
