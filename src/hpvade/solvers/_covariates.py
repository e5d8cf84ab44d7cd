"""What gene covariates say about the difference between a bulk's platform and the signature's."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._linear import check_options, check_shapes
from ._markers import marker_genes
from ._robust import robust

_MIN_GENES = 50


@dataclass(frozen=True)
class CovariateFactor:
    """Result of `covariate_factor`.

    Attributes
    ----------
    gene_factor
        (genes,): log factor by which the bulk sees each gene against the signature, mean zero over the genes used.
    explained
        Share of the variance of the cohort's median log residuals over genes that the covariates explain (R squared).
    """

    gene_factor: Tensor
    explained: float


def covariate_factor(
    bulk: Tensor,
    signature: Tensor,
    covariates: Tensor,
    *,
    markers: Tensor | None = None,
    used: Tensor | None = None,
    depth: Tensor | None = None,
    offset: float = 5e-5,
    n_iterations: int = 30,
    tolerance: float = 0.01,
) -> CovariateFactor:
    r"""Log gene factor that gene covariates explain, from the cohort's own residuals.

    A reference of nuclei holds introns: genes that span much of the genome have more reads there than in bulk of whole
    cells, and types differ in how long their marker genes are, which no factor per gene can tell from composition. The
    span of a gene is known, and the thousands of genes that do not separate types show what it does. In turns, the
    regression is solved with the signature times :math:`e^{f_g}`, without a factor per gene, and the median over
    samples of the log residuals with f added back is regressed by least squares on a
    quadratic with hinges at 0 and 1 of each standardised covariate, which gives f.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale: shares of each sample's total, all genes.
    signature
        (genes x types), linear scale: columns sum to one over all genes.
    covariates
        (genes x covariates) on a scale where effects are smooth, such as the log of the span from a gene's start to its
        end; NaN, where it is not known, counts as the median.
    markers
        Index of the genes that the regression is solved on, see :func:`hpvade.solvers.marker_genes`; those of
        `signature` when None.
    used
        bool (genes,): genes that the factor is fitted on, for instance those that the bulk has measured; when None, all
        that reach `offset` in some type.
    depth, offset
        As in :func:`hpvade.solvers.robust`.
    n_iterations, tolerance
        Most rounds of regression and least squares; they end when no gene's factor moves by more than `tolerance`.

    Raises
    ------
    ValueError
        If shapes do not match, a covariate is constant or unknown for all genes, fewer than 50 genes are used, or a
        number is out of range.

    References
    ----------
    Ordinary least squares on truncated power functions: de Boor, A Practical Guide to Splines (1978).

    Examples
    --------
    >>> import torch
    >>> from hpvade.solvers import covariate_factor
    >>> random = torch.Generator().manual_seed(0)
    >>> signature = torch.rand(400, 3, generator=random).square()
    >>> signature = signature / signature.sum(dim=0)
    >>> span = torch.randn(400, 1, generator=random)
    >>> bulk = torch.rand(5, 3, generator=random) @ (signature * torch.exp(-span)).T
    >>> round(covariate_factor(bulk / bulk.sum(dim=1, keepdim=True), signature, span).explained, 2)
    1.0
    """
    check_shapes(bulk, signature)
    check_options(offset=offset, n_iterations=n_iterations, tolerance=tolerance)
    if covariates.ndim != 2 or len(covariates) != len(signature):
        raise ValueError(
            f"covariates have shape {tuple(covariates.shape)}; expected (genes x covariates) with the {len(signature)} "
            "genes of the signature"
        )
    bulk, signature = bulk.float(), signature.float()
    used = signature.amax(dim=1) > offset if used is None else used
    if used.sum() < _MIN_GENES:
        raise ValueError(f"{int(used.sum())} genes reach the offset and are used; expected {_MIN_GENES} or more")
    markers = marker_genes(signature, used) if markers is None else markers
    basis = _functions(covariates.double())
    inverse = torch.linalg.pinv(basis[used])  # a covariate of two values leaves hinges that say the same
    log_bulk = torch.log(bulk[:, used].double() + offset)
    factor, explained = torch.zeros(len(signature), dtype=torch.float64, device=bulk.device), 0.0
    for _ in range(n_iterations):
        moved = signature * factor.exp().float()[:, None]
        rna = robust(bulk[:, markers], moved[markers], depth=depth, gene_factor=False).rna_proportions
        fitted = (rna @ moved[used].T).double()
        fitted = fitted * (bulk[:, used].sum(dim=1) / fitted.sum(dim=1).clamp(min=1e-30))[:, None]
        seen = (log_bulk - torch.log(fitted + offset)).median(dim=0).values + factor[used]
        before, factor = factor, basis @ (inverse @ seen)
        explained = float(1 - (seen - factor[used]).var() / seen.var().clamp(min=1e-30))
        factor = factor - factor[used].mean()
        if (factor - before)[used].abs().max() < tolerance:
            break
    return CovariateFactor(factor.float(), explained)


def _functions(covariates: Tensor) -> Tensor:
    """Constant, and quadratic with hinges of every standardised covariate, (genes x columns)."""
    columns = [torch.ones(len(covariates), dtype=covariates.dtype, device=covariates.device)]
    for j, x in enumerate(covariates.T):
        z = torch.where(x.isfinite(), x, x[x.isfinite()].median()) if x.isfinite().any() else x
        if not z.std() > 0:
            raise ValueError(f"covariate {j} is constant or unknown for all genes; expected values that differ")
        z = (z - z.mean()) / z.std()
        columns += [z, z**2, z.clamp(min=0), (z - 1).clamp(min=0)]
    return torch.stack(columns, dim=1)
