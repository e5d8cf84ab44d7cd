"""Robust regression of log expression on a signature, with a gene factor shared by the cohort."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._influence import Influence, weighted_products
from ._linear import check_options, check_shapes, coordinate_descent, on_processor

HUBER = 1.345  # 95 % efficiency for normal residuals
ROUNDS = 5  # of factor and samples in turn; more move real cohorts by a thousandth in r
MAD = 1.4826  # standard deviation of a normal variable per median absolute deviation


@dataclass(frozen=True)
class RobustFit:
    """Result of `robust`.

    Attributes
    ----------
    rna_proportions
        (samples x types): fractions of RNA, rows sum to one.
    gene_factor
        (genes,): log platform factor shared by the cohort; zeros when there is none.
    gene_weight
        (genes,): how far the cohort trusts each gene, 1 for the median gene; ones without a cohort.
    residual
        (samples,): robust standard deviation of the log residuals over genes.
    covariance
        (samples x types x types) of the log-scale model's amounts over their total, or None if not asked for.
    influence
        What each gene does to the fractions, or None if no covariance was asked for.
    """

    rna_proportions: Tensor
    gene_factor: Tensor
    gene_weight: Tensor
    residual: Tensor
    covariance: Tensor | None = None
    influence: Influence | None = None


def robust(
    bulk: Tensor,
    signature: Tensor,
    *,
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
) -> RobustFit:
    r"""Fractions of RNA by robust regression of log expression (maximum a posteriori).

    For sample n, gene g and non-negative amounts b of each type the mean is
    :math:`\mu_{ng} = e^{f_g} \sum_k b_{nk} s_{gk}`, the log residual
    :math:`e_{ng} = \log(y_{ng} + c_n) - \log(\mu_{ng} + c_n)`, and

    .. math:: \min_{b \ge 0}\; \sum_{ng} v_{ng}\, \rho(e_{ng} / \hat\sigma_n)
              + \tfrac{\kappa}{2} \sum_n V_n \lVert b_n / \bar b_n - \pi_n \rVert^2 ,

    with Huber's :math:`\rho` at 1.345 robust standard deviations, weights
    :math:`v_{ng} = w_g \phi / (\phi + 1 / (N_n(\mu_{ng} + c_n)))` that fade genes whose counts are few, and an optional
    anchor :math:`\pi` (fractions from elsewhere, such as a network). The anchor is a normal prior on each fraction with
    standard deviation :math:`(\kappa V_n)^{-1/2}`, where :math:`V_n = \sum_g v_{ng}` counts the sample's genes: it
    moves what the genes leave open beside their own scatter, and hardly a type that they determine. Gauss-Newton on the
    log residuals: each step is a weighted non-negative least squares problem, solved for all samples at once.

    The gene factor f says how the bulk's platform sees each gene against the reference's. Composition and factor
    are told apart only as far as compositions differ, so the types go first: the samples are solved without a factor,
    then factor and samples in turn, a few rounds. The factor is the samples' mean residual, which then has no part in
    the directions in which the types move the mean, shrunk by :math:`m / (m + \lambda\, \sigma^2 / \tau^2)`:
    :math:`\tau^2` is the variance of the mean residual over genes beyond chance, :math:`\sigma^2` that of a gene over
    samples, and m the number of samples that differ, one plus the participation ratio of their residuals. Bulk of the
    reference's own platform so has next to none, and replicates are not taken for evidence.

    Genes that scatter over the cohort where composition and factor leave nothing to explain (states of cells, not
    types) count less: :math:`w_g \propto 1 / s_g^2` with the moderated variance
    :math:`s_g^2 = (d s_0^2 + m\, \overline{e_{ng}^2}) / (d + m)`, where :math:`s_0^2` is the median gene's.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale; each row a share of the sample's total, or anything proportional to it.
    signature
        (genes x types), linear scale on the same genes; columns keep their share of the type's total. Columns are
        compared per unit of their own RNA, so that the result is fractions of RNA when columns sum to the type's
        share on these genes.
    depth
        (samples,): counts that a share of one stands for; 5e6 when None, about the reads of bulk RNA-seq in genes.
    anchor, anchor_weight
        Fractions of RNA (samples x types) to stay close to, and kappa: 0.1 with 400 genes is a prior with standard
        deviation 0.16 on each fraction.
    gene_factor
        Estimate the factor (needs two samples or more), none (False), or use a given one (genes,), such as
        :func:`platform_factor` finds; NaN where it is not known.
    factor_penalty
        Lambda: 1 is the empirical Bayes estimate, more holds the factor back.
    gene_weight
        Estimate :math:`w_g` (needs two samples or more), none (False), or use given ones (genes,); NaN counts as 1.
    weight_samples
        d, samples that the median gene's variance counts for.
    offset
        Smallest c, as a share of the total (5e-5 = 0.5 counts per ten thousand); half a count where depth is low.
    dispersion
        Phi: squared log deviation expected from other sources than counting.
    n_iterations
        Gauss-Newton steps.
    factor_samples
        Cohorts larger than this estimate gene factor and weights from as many samples, evenly spaced.
    block
        Samples solved together; bounds the memory.
    covariance
        Also return the covariance of the amounts: the sandwich :math:`H^{-1} (\sum_g u_g u_g^\top) H^{-1}` with the
        genes as independent draws, :math:`u_g` the gene's term of the gradient with the factor put back into its
        residual, so that another platform's factors are among the draws, as far as Huber's loss lets one gene pull.

    Raises
    ------
    ValueError
        If shapes do not match, or a number is out of range.

    References
    ----------
    Huber, Robust Statistics (1981) for the loss; weighting by relative error as in DWLS (Tsoucas et al., Nature
    Communications 2019). Efron and Morris, Journal of the American Statistical Association 68 (1973) for the
    shrinkage. White, Econometrica 48 (1980) for the covariance; Smyth, Statistical Applications in Genetics
    and Molecular Biology 3 (2004) for moderated variances.

    Examples
    --------
    >>> import torch
    >>> signature = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) / 50
    >>> truth = torch.tensor([[0.2, 0.3, 0.5]])
    >>> fit = robust(truth @ signature.T, signature, gene_factor=False)
    >>> fit.rna_proportions.round(decimals=3)
    tensor([[0.2000, 0.3000, 0.5000]])
    """
    check_shapes(bulk, signature)
    check_options(
        anchor_weight=anchor_weight,
        factor_penalty=factor_penalty,
        weight_samples=weight_samples,
        offset=offset,
        dispersion=dispersion,
        n_iterations=n_iterations,
        factor_samples=factor_samples,
        block=block,
    )
    n = len(bulk)
    bulk, signature = bulk.float(), signature.float()
    depth = torch.full((n,), 5e6, device=bulk.device) if depth is None else depth.float()
    problem = _Problem(signature, offset, dispersion, anchor_weight)
    start = torch.full((n, signature.shape[1]), 1 / signature.shape[1], device=bulk.device)
    start = start if anchor is None else anchor.float()
    start = start * (bulk.sum(1) / (start @ signature.T).sum(1).clamp(min=1e-30))[:, None]

    factor = given(gene_factor, 0.0, signature)
    problem.gene_weight = given(gene_weight, 1.0, signature)
    if n > 1 and (gene_factor is True or gene_weight is True):
        few = torch.linspace(0, n - 1, min(n, factor_samples), device=bulk.device).round().long()
        penalty = factor_penalty if gene_factor is True else None
        d = weight_samples if gene_weight is True else None
        factor = problem.fit_cohort(bulk[few], depth[few], start[few], factor, n_iterations, penalty, d)

    amounts, residual = problem.answers(bulk, depth, start, anchor, factor, n_iterations, block)
    total = amounts.sum(dim=1, keepdim=True).clamp(min=1e-30)
    fractions, rest = amounts / total, []
    if covariance:
        rows = zip(*(x.split(block) for x in (amounts, bulk, depth)), strict=True)
        score, inverse = (torch.cat(x) for x in zip(*(problem.influence(*x, factor) for x in rows), strict=True))
        influence = Influence(score, problem.profile(factor), inverse / total[:, :, None].double())
        rest = [influence.covariance(influence), influence]
    fractions = torch.where(fractions.sum(dim=1, keepdim=True) == 0, 1 / fractions.shape[1], fractions)
    return RobustFit(fractions, factor, problem.gene_weight, residual, *rest)


def given(x: bool | Tensor, unknown: float, signature: Tensor) -> Tensor:
    """What is given per gene, `unknown` where nothing is."""
    if isinstance(x, Tensor):
        return torch.nan_to_num(x.float(), nan=unknown)
    return torch.full((len(signature),), unknown, device=signature.device)


def row_medians(x: Tensor) -> Tensor:
    """Lower median of each row, (rows x 1)."""
    if not on_processor(x):
        return x.median(dim=1, keepdim=True).values
    middle = (x.shape[1] - 1) // 2  # NumPy's partition runs in vectors
    return torch.from_numpy(np.partition(x.numpy(), middle, axis=1)[:, middle : middle + 1].copy())


def centred_rows(residual: Tensor) -> Tensor:
    """Log residuals (samples x genes) without the sample's level, clipped at four robust standard deviations."""
    centred = residual - row_medians(residual)
    limit = 4 * MAD * row_medians(centred.abs().flatten()[None])[0, 0]
    return centred.clamp(-limit, limit)


def count_distinct(residual: Tensor) -> Tensor:
    """Number of samples that differ, 1 to n: duplicates count once."""
    centred = centred_rows(residual)
    centred = centred - centred.mean(dim=0)
    gram = (centred @ centred.T).double()
    return (1 + torch.trace(gram).square() / gram.square().sum().clamp(min=1e-30)).float()


def shrunk_factor(residual: Tensor, weight: Tensor, n_distinct: Tensor, penalty: float) -> Tensor:
    """Mean log residual (genes,) of the samples, as far as it is more than chance; see `robust`."""
    of_gene = weight.mean(dim=0).clamp(min=1e-30)
    mean = (weight * residual).mean(dim=0) / of_gene
    mean = mean - mean.mean()
    within = (weight * centred_rows(residual - mean).square()).sum() / weight.sum().clamp(min=1e-30)
    within = within * n_distinct / (n_distinct - 1).clamp(min=0.5)
    between = (of_gene * mean.clamp(-2, 2).square()).sum() / of_gene.sum().clamp(min=1e-30) - within / n_distinct
    return mean * n_distinct / (n_distinct + penalty * within / between.clamp(min=1e-6))


def moderated_weight(residual: Tensor, weight_samples: float, n_distinct: Tensor) -> Tensor:
    """Inverse moderated variance of the log residuals (samples x genes) over samples, 1 for the median gene."""
    variance = centred_rows(residual).square().mean(dim=0)
    typical = variance.median()
    moderated = (weight_samples * typical + n_distinct * variance) / (weight_samples + n_distinct)
    return typical.clamp(min=1e-30) / moderated.clamp(min=1e-30)


class _Problem:
    """What does not change while samples are solved."""

    def __init__(self, signature: Tensor, offset: float, dispersion: float, anchor_weight: float):
        self.signature, self.offset, self.dispersion, self.anchor_weight = signature, offset, dispersion, anchor_weight
        self.unit = signature.sum(dim=0).mean().clamp(min=1e-30)  # keeps squares of small shares inside float32
        self.gene_weight = torch.ones(len(signature), device=signature.device)

    def fit_cohort(
        self,
        bulk: Tensor,
        depth: Tensor,
        amounts: Tensor,
        factor: Tensor,
        n_iterations: int,
        penalty: float | None,
        weight_samples: float | None,
    ) -> Tensor:
        """The gene factor that the samples share; their gene weights are kept. What is None stays as it is.

        There is no anchor: it would pull on what is shared once per sample, and the factor would follow.
        """
        for step in range(ROUNDS):
            n_steps = n_iterations if step == 0 else max(n_iterations // 3, 1)
            amounts, residual, weight = self.solve(bulk, depth, amounts, None, factor, n_steps)
            n_distinct = count_distinct(residual)
            if penalty is not None:
                residual = residual + factor
                factor = shrunk_factor(residual, weight, n_distinct, penalty)
                residual = residual - factor
            if weight_samples is not None:
                self.gene_weight = moderated_weight(residual, weight_samples, n_distinct)
        return factor

    def solve(
        self, bulk: Tensor, depth: Tensor, start: Tensor, anchor: Tensor | None, factor: Tensor, n_iterations: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Amounts (samples x types), log residuals and weights (samples x genes), with the factor as it is."""
        if on_processor(bulk):
            amounts, _, residual, weight = self._compiled(
                bulk, depth, start, anchor, factor, n_iterations, settle=False
            )
            return amounts, residual, weight
        offset = (0.5 / depth[:, None]).clamp(min=self.offset)
        log_bulk = torch.log(bulk + offset)
        amounts, limit = start, None
        for step in range(n_iterations):
            mean, residual = self._residual(amounts, factor, log_bulk, offset)
            if step < 5:  # the scale settles early, and its median over genes costs as much as the rest
                limit = HUBER * MAD * row_medians(residual.abs())
            weight = self._weights(mean, residual, limit, depth)
            new = self._step(amounts, factor, mean, residual, weight, offset, anchor, limit)
            # half steps once close: full ones may swing between two sets of down-weighted genes
            amounts = new if step < 4 else (amounts + new) / 2
        mean, residual = self._residual(amounts, factor, log_bulk, offset)
        return amounts, residual, self._weights(mean, residual, limit, depth)

    def answers(
        self,
        bulk: Tensor,
        depth: Tensor,
        start: Tensor,
        anchor: Tensor | None,
        factor: Tensor,
        n_iterations: int,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        """Amounts (samples x types) with a factor that stays, and robust deviation of the log residuals (samples,)."""
        if on_processor(bulk):
            return self._compiled(bulk, depth, start, anchor, factor, n_iterations, settle=True)[:2]
        parts = []
        for i in range(0, len(bulk), block):
            rows = [x if x is None else x[i : i + block] for x in (bulk, depth, start, anchor)]
            amounts, residual, _ = self.solve(*rows, factor, n_iterations)
            parts.append((amounts, MAD * residual.abs().median(dim=1).values))
        amounts, spread = (torch.cat(column) for column in zip(*parts, strict=True))
        return amounts, spread

    def _compiled(self, bulk, depth, start, anchor, factor, n_iterations: int, *, settle: bool) -> tuple[Tensor, ...]:
        from . import _cpu  # here: numba takes a while to import

        signature = self.signature * factor.exp()[:, None]
        return _cpu.robust(
            *(bulk, depth, start, anchor, signature, self.gene_weight),
            anchor_weight=self.anchor_weight,
            offset=self.offset,
            dispersion=self.dispersion,
            huber=HUBER,
            mad=MAD,
            n_steps=n_iterations,
            settle=settle,
        )

    def _residual(self, amounts: Tensor, factor: Tensor, log_bulk: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        mean = amounts @ (self.signature * factor.exp()[:, None]).T + offset
        return mean, log_bulk - torch.log(mean)

    def _weights(self, mean: Tensor, residual: Tensor, limit: Tensor, depth: Tensor) -> Tensor:
        robust = (limit / residual.abs().clamp(min=1e-12)).clamp(max=1)
        return self.gene_weight * robust * self.dispersion / (self.dispersion + 1 / (mean * depth[:, None]))

    def _step(
        self,
        amounts: Tensor,
        factor: Tensor,
        mean: Tensor,
        residual: Tensor,
        weight: Tensor,
        offset: Tensor,
        anchor: Tensor | None,
        limit: Tensor,
    ) -> Tensor:
        """One Gauss-Newton step: weighted non-negative least squares on the working response."""
        scaled = self.signature * (factor.exp() / self.unit)[:, None]
        relative = weight / (mean / self.unit) ** 2
        response = (mean * (1 + residual.clamp(-2, 2)) - offset) / self.unit
        gram = weighted_products(relative, scaled, scaled).double()
        target = ((relative * response) @ scaled).double()
        diagonal = torch.diagonal(gram, dim1=1, dim2=2)
        ridge = 1e-6 * diagonal
        if anchor is not None and self.anchor_weight > 0:
            total = amounts.double().sum(dim=1, keepdim=True).clamp(min=1e-30)
            pull = self._pull(weight, limit) / total.square()
            ridge = ridge + pull
            target = target + pull * anchor.double() * total
        gram = gram + torch.diag_embed(ridge)
        return coordinate_descent(gram, target, amounts.double(), n_sweeps=10, tolerance=1e-7).float()

    def _pull(self, weight: Tensor, limit: Tensor) -> Tensor:
        """Precision of the anchor (samples x 1), per squared fraction."""
        return self.anchor_weight * (weight.sum(dim=1, keepdim=True) * (limit / HUBER).square()).double()

    def profile(self, factor: Tensor) -> Tensor:
        """Signature (genes x types) with the factor, in units of the problem."""
        return self.signature * (factor.exp() / self.unit)[:, None]

    def influence(self, amounts: Tensor, bulk: Tensor, depth: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """Score of every gene (samples x genes) and inverse curvature (samples x types x types) at the amounts."""
        offset = (0.5 / depth[:, None]).clamp(min=self.offset)
        mean, residual = self._residual(amounts, factor, torch.log(bulk + offset), offset)
        limit = HUBER * MAD * row_medians(residual.abs())
        weight = self._weights(mean, residual, limit, depth)
        scaled = self.profile(factor)
        mean = mean / self.unit
        # Huber's score is flat beyond the limit: such genes do not hold the estimate
        holds = weight * (residual.abs() <= limit) / mean.square()
        curvature = weighted_products(holds, scaled, scaled).double()
        diagonal = torch.diagonal(curvature, dim1=1, dim2=2)
        total = amounts.double().sum(dim=1, keepdim=True).clamp(min=1e-30)
        ridge = 1e-6 * diagonal.clamp(min=1e-30) + self._pull(weight, limit) / total.square()
        # the factor is put back as the first fit met it, whose loss bounds what a gene can do
        whole = residual + factor
        score = self._weights(mean * self.unit, whole, HUBER * MAD * row_medians(whole.abs()), depth) * whole / mean
        return score, torch.linalg.inv(curvature + torch.diag_embed(ridge))
