"""Robust regression where the profiles of some types differ from sample to sample, as those of malignant cells do."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._influence import Influence
from ._linear import check_options, check_shapes
from ._robust import RobustFit, given, robust
from ._variable_problem import VariableProblem


@dataclass(frozen=True)
class VariableFit(RobustFit):
    """Result of `robust_variable`.

    Attributes
    ----------
    variation
        (types,): standard deviation over samples of the log expression of a type's genes; 0 for types that do not vary.
    variable
        Columns of the types that may vary, ascending.
    """

    variation: Tensor | None = None
    variable: tuple[int, ...] = ()


@dataclass(frozen=True)
class VariableProfiles:
    """Result of `variable_profiles`.

    Attributes
    ----------
    ratio
        (samples x genes): expression of the type over the reference's, posterior mean.
    log_ratio
        (samples x genes): posterior mean of its log.
    resolved
        (samples x genes): share of the prior variance of the log that the sample explains, 0 to 1.
    """

    ratio: Tensor
    log_ratio: Tensor
    resolved: Tensor


def robust_variable(
    bulk: Tensor,
    signature: Tensor,
    variable: Sequence[int],
    *,
    variation: Tensor | None = None,
    depth: Tensor | None = None,
    anchor: Tensor | None = None,
    anchor_weight: float = 0.0,
    gene_factor: bool | Tensor = True,
    factor_penalty: float = 1.0,
    gene_weight: bool | Tensor = True,
    weight_samples: float = 20.0,
    offset: float = 5e-5,
    dispersion: float = 0.3,
    n_iterations: int = 12,
    factor_samples: int = 256,
    block: int = 256,
    covariance: bool = False,
) -> VariableFit:
    r"""Fractions of RNA as :func:`robust` has them, where some types have a profile of their own in every sample.

    The genes of a variable type v are at :math:`s_{gv} e^{\delta_{ng}}` in sample n, with :math:`\delta_{ng} \sim
    N(0, \tau_v^2)` independent over genes and samples. Where the type has the share :math:`w_{ng}` of a gene's mean,
    the log residual then has the mean and variance of :math:`\log(1 - w + w e^{\tau z})` over standard normal z beside
    those of the regression (by Gauss-Hermite quadrature). The regression subtracts the one and divides the weights by
    the other, :math:`\sigma_n^2 + v_{ng} \mathrm{Var}`: the other types are read from genes where they dominate, and a
    gene that the variable type dominates counts little, for any of them.

    The variation comes from the cohort (one sample is enough): Fisher scoring of :math:`\sigma_n^2` and
    :math:`\tau_v^2` on clipped squared residuals, which tells the two apart by how squares rise with w. Where nothing
    varies :math:`\tau = 0` and the fit is that of :func:`robust`. Regression of logs sees the median gene, the type's
    RNA is the mean over genes, so that its amount is multiplied by :math:`e^{\tau^2/2}`. Gene factor and weights have
    the rounds of :func:`robust`, and more of them as far as variation explains the residuals.

    Parameters
    ----------
    bulk, signature
        As for :func:`robust`.
    variable
        Columns of the signature that vary; not all of them.
    variation
        (types,): what an earlier fit found; estimated when None.
    depth, anchor, anchor_weight, gene_factor, factor_penalty, gene_weight, weight_samples, offset, dispersion
        As for :func:`robust`.
    n_iterations, factor_samples, block, covariance
        As for :func:`robust`. `factor_samples` also bounds the samples that the variation comes from.

    Raises
    ------
    ValueError
        Shapes do not match; no type, all types, or a column that is not there is to vary; a number is out of range.

    References
    ----------
    Estimating equations with a working variance: Liang and Zeger, Biometrika 73 (1986). Patients differ by as much as
    types in malignant cells: Tirosh et al., Science 352 (2016).

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> signature = torch.rand(400, 3, generator=g) ** 6
    >>> signature = signature / signature.sum(0)
    >>> own = signature[:, 2] * (0.6 * torch.randn(20, 400, generator=g)).exp()  # the third type differs by sample
    >>> parts = torch.tensor([0.2, 0.3, 0.5])
    >>> bulk = parts[:2] @ signature[:, :2].T + parts[2] * own / own.sum(1, keepdim=True)
    >>> fit = robust_variable(bulk, signature, [2])
    >>> bool((fit.rna_proportions - parts).abs().mean() < 0.02), round(float(fit.variation[2]), 1)
    (True, 0.6)
    """
    check_shapes(bulk, signature)
    check_options(factor_penalty=factor_penalty, weight_samples=weight_samples, factor_samples=factor_samples)
    check_options(n_iterations=n_iterations, block=block, dispersion=dispersion, offset=offset)
    n, n_types = len(bulk), signature.shape[1]
    columns = sorted({int(k) for k in variable})
    if not columns or len(columns) == n_types or columns[0] < 0 or columns[-1] >= n_types:
        raise ValueError(f"variable={list(variable)}; expected some of the columns 0 to {n_types - 1}, but not all.")
    bulk, signature = bulk.float(), signature.float()
    depth = torch.full((n,), 5e6, device=bulk.device) if depth is None else depth.float()
    shared = {"depth": depth, "anchor": anchor, "anchor_weight": anchor_weight, "offset": offset, "block": block}
    shared |= {"dispersion": dispersion, "n_iterations": n_iterations}
    known = given(gene_factor, 0.0, signature), given(gene_weight, 1.0, signature)
    problem = VariableProblem(signature, columns, *known, variation, offset, dispersion, anchor_weight)
    penalty = factor_penalty if gene_factor is True and n > 1 else None
    d = weight_samples if gene_weight is True and n > 1 else None
    if variation is None or penalty is not None or d is not None:
        few = torch.linspace(0, n - 1, min(n, factor_samples), device=bulk.device).round().long()
        amounts = torch.full((len(few), n_types), 1 / n_types, device=bulk.device)
        amounts = amounts if anchor is None else anchor[few].float()
        amounts = amounts * (bulk[few].sum(dim=1) / (amounts @ signature.T).sum(dim=1).clamp(min=1e-30))[:, None]
        problem.fit_cohort(bulk[few], depth[few], amounts, n_iterations, penalty, d, variation is None)
    start = robust(bulk, signature, gene_factor=problem.factor, gene_weight=problem.gene_weight, **shared)
    amounts, parts = problem.amounts(start, bulk), []
    for rows in torch.arange(n, device=bulk.device).split(block):
        own = None if anchor is None else anchor[rows].float()
        parts.append(problem.answer(bulk[rows], depth[rows], amounts[rows], own, n_iterations, covariance))
    fractions, residual, *rest = (torch.cat(x) for x in zip(*parts, strict=True))
    influence = Influence(rest[0], problem.profile, rest[1]) if covariance else None
    spread = influence.covariance(influence) if covariance else None
    found = torch.zeros(n_types, device=bulk.device)
    found[columns] = problem.variation
    same = fractions, problem.factor, problem.gene_weight, residual
    return VariableFit(*same, spread, influence, found, tuple(columns))


def variable_profiles(
    bulk: Tensor,
    signature: Tensor,
    fit: VariableFit,
    column: int,
    *,
    depth: Tensor | None = None,
    offset: float = 5e-5,
    dispersion: float = 0.3,
    n_samples: int = 256,
    block: int = 64,
) -> VariableProfiles:
    r"""Expression of a variable type in every sample, from a fit of :func:`robust_variable` and on any genes.

    The amounts of the fit are held, the genes' factors are estimated from the cohort as in the regression. The
    posterior of :math:`e^\delta` under the normal prior of the fit is by quadrature, other variable types being noise:
    a gene of which the type makes little, or that has few reads, keeps the reference's value.

    Parameters
    ----------
    bulk
        (samples x genes), shares of the sample's total.
    signature
        (genes x types), columns that sum to one over all genes.
    fit
        Of the same samples, on some of the genes.
    column
        Column of the signature, one that varies in `fit`.
    depth, offset, dispersion
        As for :func:`robust`.
    n_samples
        Larger cohorts estimate the factors from as many samples, evenly spaced.
    block
        Samples at a time.

    Raises
    ------
    ValueError
        Shapes do not match, `column` was none of the variable ones of the fit, or a number is out of range.

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> signature = torch.rand(400, 3, generator=g) ** 6
    >>> signature = signature / signature.sum(0)
    >>> log_ratio = 0.6 * torch.randn(20, 400, generator=g)
    >>> own = signature[:, 2] * log_ratio.exp()
    >>> bulk = 0.2 * signature[:, 0] + 0.3 * signature[:, 1] + 0.5 * own / own.sum(1, keepdim=True)
    >>> found = variable_profiles(bulk, signature, robust_variable(bulk, signature, [2]), 2)
    >>> known = found.resolved > 0.8
    >>> bool(torch.corrcoef(torch.stack([found.log_ratio[known], log_ratio[known]]))[0, 1] > 0.9)
    True
    """
    check_shapes(bulk, signature)
    check_options(offset=offset, dispersion=dispersion, n_samples=n_samples, block=block)
    n = len(bulk)
    if column not in fit.variable:
        raise ValueError(f"column={column}; expected one that may vary in the fit: {list(fit.variable)}.")
    bulk, signature = bulk.float(), signature.float()
    if fit.variation[column] == 0:  # nothing varies
        return VariableProfiles(torch.ones_like(bulk), torch.zeros_like(bulk), torch.zeros_like(bulk))
    depth = torch.full((n,), 5e6, device=bulk.device) if depth is None else depth.float()
    nothing = torch.zeros(len(signature), device=bulk.device)
    columns = list(fit.variable)
    problem = VariableProblem(signature, columns, nothing, nothing + 1, fit.variation, offset, dispersion, 0.0)
    amounts = fit.rna_proportions / torch.exp(fit.variation.square() / 2)
    few = torch.linspace(0, n - 1, min(n, n_samples), device=bulk.device).round().long()
    problem.level(bulk[few], depth[few], amounts[few], genes=True)
    parts = [
        problem.posterior(bulk[rows], depth[rows], amounts[rows], fit.variable.index(column))
        for rows in torch.arange(n, device=bulk.device).split(block)
    ]
    return VariableProfiles(*(torch.cat(x) for x in zip(*parts, strict=True)))
