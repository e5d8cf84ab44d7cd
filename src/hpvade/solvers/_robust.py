"""Robust regression of log expression on a signature, with a gene factor shared by the cohort."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._linear import check_shapes, coordinate_descent

HUBER = 1.345  # 95 % efficiency for normal residuals
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
    """

    rna_proportions: Tensor
    gene_factor: Tensor
    gene_weight: Tensor
    residual: Tensor
    covariance: Tensor | None = None


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

    .. math:: \min_{b \ge 0, f}\; \sum_{ng} v_{ng}\, \rho(e_{ng} / \hat\sigma_n) + \lambda \sum_g f_g^2
              + \kappa \sum_{nk} A_{n,kk} (b_{nk} - \bar b_n \pi_{nk})^2 ,

    with Huber's :math:`\rho` at 1.345 robust standard deviations, weights
    :math:`v_{ng} = w_g \phi / (\phi + 1 / (N_n(\mu_{ng} + c_n)))` that fade genes whose counts are few, the cohort's
    gene factor f (how the bulk's platform sees each gene against the reference's), and an optional anchor
    :math:`\pi` (fractions from elsewhere, such as a network). Genes that scatter over the cohort where composition
    and factor leave nothing to explain (states of cells, not types) count less: :math:`w_g \propto 1 / s_g^2` with the
    moderated variance :math:`s_g^2 = (d s_0^2 + \sum_n e_{ng}^2) / (d + N)`, where :math:`s_0^2` is the median gene's.
    Gauss-Newton on the log residuals: each step is a weighted non-negative least squares problem, solved for all
    samples at once.

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
        Fractions of RNA (samples x types) to stay close to, and kappa, the pull in units of the data's own curvature.
    gene_factor
        Estimate the factor (needs two samples or more), none (False), or use a given one (genes,).
    factor_penalty
        Lambda, in units of one sample's gene weight: the factor is the mean residual times n / (n + lambda).
    gene_weight
        Estimate :math:`w_g` (needs two samples or more), none (False), or use given ones (genes,).
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
        residual, so that another platform's factors are among the draws.

    Raises
    ------
    ValueError
        If shapes do not match.

    References
    ----------
    Huber, Robust Statistics (1981) for the loss; weighting by relative error as in DWLS (Tsoucas et al., Nature
    Communications 2019). White, Econometrica 48 (1980) for the covariance; Smyth, Statistical Applications in Genetics
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
    n, n_genes = bulk.shape
    bulk, signature = bulk.float(), signature.float()
    depth = torch.full((n,), 5e6, device=bulk.device) if depth is None else depth.float()
    problem = _Problem(signature, offset, dispersion, anchor_weight)
    start = torch.full((n, signature.shape[1]), 1 / signature.shape[1], device=bulk.device)
    start = start if anchor is None else anchor.float()
    start = start * (bulk.sum(1) / (start @ signature.T).sum(1).clamp(min=1e-30))[:, None]

    factor = gene_factor.float() if isinstance(gene_factor, Tensor) else torch.zeros(n_genes, device=bulk.device)
    given_weight = isinstance(gene_weight, Tensor)
    problem.gene_weight = gene_weight.float() if given_weight else torch.ones(n_genes, device=bulk.device)
    find_factor, find_weight = gene_factor is True and n > 1, gene_weight is True and n > 1
    if find_factor or find_weight:
        few = torch.linspace(0, n - 1, min(n, factor_samples), device=bulk.device).round().long()
        rows = [x if x is None else x[few] for x in (bulk, depth, start, anchor)]
        penalty = factor_penalty if find_factor else None
        amounts, factor, residual = problem.solve(*rows, factor, n_iterations, penalty)
        if find_weight:
            problem.gene_weight = _gene_weight(residual, weight_samples)
            rows[2] = amounts
            _, factor, residual = problem.solve(*rows, factor, n_iterations // 2, penalty)
            problem.gene_weight = _gene_weight(residual, weight_samples)

    parts = []
    for i in range(0, n, block):
        rows = [x if x is None else x[i : i + block] for x in (bulk, depth, start, anchor)]
        amount, _, e = problem.solve(*rows, factor, n_iterations, None)
        total = amount.sum(dim=1, keepdim=True).clamp(min=1e-30)
        part = [amount / total, MAD * e.abs().median(dim=1).values]
        if covariance:
            part.append(problem.covariance(amount, factor, *rows[:2]) / total[:, :, None].double() ** 2)
        parts.append(part)
    fractions, residual, *rest = (torch.cat(column) for column in zip(*parts, strict=True))
    fractions = torch.where(fractions.sum(dim=1, keepdim=True) > 0, fractions, 1 / fractions.shape[1])
    return RobustFit(fractions, factor, problem.gene_weight, residual, *rest)


def _gene_weight(residual: Tensor, weight_samples: float) -> Tensor:
    """Inverse moderated variance of the log residuals (samples x genes) over samples, 1 for the median gene."""
    centred = residual - residual.median(dim=1, keepdim=True).values
    limit = 4 * MAD * centred.abs().median()
    squares = centred.clamp(-limit, limit).square()
    typical = squares.mean(dim=0).median()
    moderated = (weight_samples * typical + squares.sum(dim=0)) / (weight_samples + len(residual))
    return typical.clamp(min=1e-30) / moderated.clamp(min=1e-30)


class _Problem:
    """What does not change while samples are solved."""

    def __init__(self, signature: Tensor, offset: float, dispersion: float, anchor_weight: float):
        self.signature, self.offset, self.dispersion, self.anchor_weight = signature, offset, dispersion, anchor_weight
        self.unit = signature.sum(dim=0).mean().clamp(min=1e-30)  # keeps squares of small shares inside float32
        self.gene_weight = torch.ones(len(signature), device=signature.device)

    def solve(
        self,
        bulk: Tensor,
        depth: Tensor,
        start: Tensor,
        anchor: Tensor | None,
        factor: Tensor,
        n_iterations: int,
        factor_penalty: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Amounts (samples x types), gene factor, log residuals (samples x genes)."""
        offset = (0.5 / depth[:, None]).clamp(min=self.offset)
        log_bulk = torch.log(bulk + offset)
        amounts, limit = start, None
        for step in range(n_iterations):
            mean, residual = self._residual(amounts, factor, log_bulk, offset)
            if step < 5:  # the scale settles early, and its median over genes costs as much as the rest
                limit = HUBER * MAD * residual.abs().median(dim=1, keepdim=True).values
            weight = self._weights(mean, residual, limit, depth)
            new = self._step(amounts, factor, mean, residual, weight, offset, anchor)
            # half steps once close: full ones may swing between two sets of down-weighted genes
            amounts = new if step < 4 else (amounts + new) / 2
            if factor_penalty is not None and step > 1:
                mean, residual = self._residual(amounts, factor, log_bulk, offset)
                shared = (weight * (residual + factor)).sum(0) / (weight.sum(0) + factor_penalty)
                factor = (factor + shared - shared.mean()) / 2
        return amounts, factor, self._residual(amounts, factor, log_bulk, offset)[1]

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
    ) -> Tensor:
        """One Gauss-Newton step: weighted non-negative least squares on the working response."""
        n_types = amounts.shape[1]
        scaled = self.signature * (factor.exp() / self.unit)[:, None]
        relative = weight / (mean / self.unit) ** 2
        response = (mean * (1 + residual.clamp(-2, 2)) - offset) / self.unit
        pairs = (scaled[:, :, None] * scaled[:, None, :]).reshape(len(scaled), -1)
        gram = (relative @ pairs).double().reshape(-1, n_types, n_types)
        target = ((relative * response) @ scaled).double()
        diagonal = torch.diagonal(gram, dim1=1, dim2=2)
        ridge = 1e-6 * diagonal
        if anchor is not None and self.anchor_weight > 0:
            pull = self.anchor_weight * diagonal
            ridge = ridge + pull
            target = target + pull * anchor.double() * amounts.double().sum(dim=1, keepdim=True)
        gram = gram + torch.diag_embed(ridge)
        return coordinate_descent(gram, target, amounts.double(), n_sweeps=10, tolerance=1e-7).float()

    def covariance(self, amounts: Tensor, factor: Tensor, bulk: Tensor, depth: Tensor) -> Tensor:
        """Sandwich covariance of the amounts (samples x types x types), genes as independent draws."""
        n_types = amounts.shape[1]
        offset = (0.5 / depth[:, None]).clamp(min=self.offset)
        mean, residual = self._residual(amounts, factor, torch.log(bulk + offset), offset)
        limit = HUBER * MAD * residual.abs().median(dim=1, keepdim=True).values
        weight = self._weights(mean, residual, limit, depth)
        scaled = self.signature * (factor.exp() / self.unit)[:, None]
        pairs = (scaled[:, :, None] * scaled[:, None, :]).reshape(len(scaled), -1)
        mean = mean / self.unit
        # Huber's score is flat beyond the limit: such genes do not hold the estimate
        curvature = (weight * (residual.abs() <= limit) / mean.square()) @ pairs
        spread = (weight * (residual + factor).clamp(-2, 2) / mean).square() @ pairs
        curvature, spread = (x.double().reshape(-1, n_types, n_types) for x in (curvature, spread))
        diagonal = torch.diagonal(curvature, dim1=1, dim2=2)
        ridge = (1e-6 + self.anchor_weight) * diagonal.clamp(min=1e-30)
        inverse = torch.linalg.inv(curvature + torch.diag_embed(ridge))
        return inverse @ spread @ inverse
