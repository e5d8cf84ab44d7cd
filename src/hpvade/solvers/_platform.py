"""How a platform sees each gene against the reference's: what one cohort teaches about samples measured like it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._linear import check_options, check_shapes
from ._robust import HUBER, MAD, count_distinct, moderated_weight, shrunk_factor

_ROUNDS = 10


@dataclass(frozen=True)
class PlatformFactor:
    """Result of `platform_factor`, to pass to `robust` on any of these genes.

    Attributes
    ----------
    gene_factor
        (genes,): log factor; NaN for genes about which the cohort says nothing.
    gene_weight
        (genes,): how far to trust each gene, 1 for the median gene; NaN as above.
    """

    gene_factor: Tensor
    gene_weight: Tensor


def platform_factor(
    bulk: Tensor,
    signature: Tensor,
    rna_proportions: Tensor,
    *,
    depth: Tensor | None = None,
    factor_penalty: float = 1.0,
    weight_samples: float = 20.0,
    offset: float = 5e-5,
    dispersion: float = 0.3,
) -> PlatformFactor:
    r"""Gene factor and gene weights of a cohort for all genes, given its composition.

    The estimates of :func:`robust`, which has them for the genes of its fit only. Other samples of the platform may
    have other genes, so that those of all are worth keeping: with them, one sample is solved like one of a cohort.
    The composition is held; with that of a fit that knew no more than the types, the factor has no part in what types
    have in common with it. Genes below `offset` in bulk and fit say nothing.

    Parameters
    ----------
    bulk
        (samples x genes), shares of the sample's total.
    signature
        (genes x types), columns that sum to one over all genes.
    rna_proportions
        (samples x types), such as ``robust(...).rna_proportions``.
    depth, factor_penalty, weight_samples, offset, dispersion
        As in :func:`robust`.

    Returns
    -------
    Factor and weights; pass ``gene_factor=found.gene_factor[genes], gene_weight=found.gene_weight[genes]`` to
    :func:`robust`, which takes NaN for "not known".

    Raises
    ------
    ValueError
        Shapes that do not match, one sample only, or a number out of range.

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> signature = torch.rand(200, 3, generator=g) ** 4
    >>> signature = signature / signature.sum(0)
    >>> parts = torch.rand(20, 3, generator=g)
    >>> parts = parts / parts.sum(1, keepdim=True)
    >>> factor = 0.5 * torch.randn(200, generator=g)
    >>> bulk = parts @ signature.T * factor.exp()
    >>> from hpvade.solvers import robust
    >>> cohort = robust(bulk, signature)
    >>> found = platform_factor(bulk, signature, cohort.rna_proportions)
    >>> both = torch.stack([factor, found.gene_factor])[:, found.gene_factor.isfinite()]
    >>> bool(torch.corrcoef(both)[0, 1] > 0.95)
    True
    """
    check_shapes(bulk, signature)
    check_options(factor_penalty=factor_penalty, weight_samples=weight_samples, offset=offset, dispersion=dispersion)
    n, n_genes = bulk.shape
    if rna_proportions.shape != (n, signature.shape[1]):
        raise ValueError(
            f"rna_proportions has shape {tuple(rna_proportions.shape)}; expected {(n, signature.shape[1])}, samples x "
            "types."
        )
    if n < 2:
        raise ValueError(f"a platform's factor is what samples share; found {n} sample, expected two or more.")
    bulk, fitted = bulk.float(), rna_proportions.float() @ signature.float().T
    depth = torch.full((n,), 5e6, device=bulk.device) if depth is None else depth.float()
    fitted = fitted * (bulk.sum(dim=1) / fitted.sum(dim=1).clamp(min=1e-30))[:, None]
    known = (torch.maximum(bulk.mean(dim=0), fitted.mean(dim=0)) > offset).nonzero()[:, 0]
    if len(known) == 0:
        raise ValueError(f"no gene has {offset:g} of the total or more; expected shares of each sample's total.")
    bulk, fitted, depth = bulk[:, known], fitted[:, known], depth[:, None]
    offsets = (0.5 / depth).clamp(min=offset)
    log_bulk, factor = torch.log(bulk + offsets), torch.zeros(len(known), device=bulk.device)
    gene_weight = torch.ones_like(factor)
    for _ in range(_ROUNDS):
        mean = fitted * factor.exp() + offsets
        residual = log_bulk - torch.log(mean)
        fitted = fitted * residual.median(dim=1, keepdim=True).values.exp()
        limit = HUBER * MAD * residual.abs().median(dim=1, keepdim=True).values
        weight = (limit / residual.abs().clamp(min=1e-12)).clamp(max=1) * gene_weight
        weight = weight * dispersion / (dispersion + 1 / (mean * depth))
        n_distinct, raw = count_distinct(residual), residual + factor
        factor = shrunk_factor(raw, weight, n_distinct, factor_penalty)
        gene_weight = moderated_weight(raw - factor, weight_samples, n_distinct)
    nothing = torch.full((n_genes,), torch.nan, device=bulk.device)
    return PlatformFactor(*(nothing.index_copy(0, known, x) for x in (factor, gene_weight)))
