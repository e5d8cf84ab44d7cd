"""Profiles of the types in every sample: what the cohort says of the genes, and the posterior given a sample's bulk."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...solvers._variable_problem import log_moments

FLOOR = 1e-6  # share of the total below which residuals are counting noise
_CLIP = 3.0  # largest log residual
_QUIET = 0.2  # quantile of the scatter over genes that counts as noise
_OWN = 0.5  # of such genes, variable types leave this share of the cohort's evidence or more


def against_fit(bulk: Tensor, signature: Tensor, rna: Tensor) -> tuple[Tensor, Tensor]:
    """Fit (samples x genes), and the factor (samples x 1) between it and the bulk."""
    fitted = rna @ signature.T
    return fitted, bulk.sum(dim=1, keepdim=True) / fitted.sum(dim=1, keepdim=True).clamp(min=1e-30)


def _counting(fitted: Tensor, depth: Tensor) -> Tensor:
    """Relative variance of counts (samples x genes)."""
    return 1 / (depth[:, None] * (fitted + FLOOR))


def _of_variable_types(signature: Tensor, rna: Tensor, variation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (samples x genes) that types which vary give to the log of a gene over its fit."""
    usual = rna * torch.exp(-variation.square() / 2) @ signature.T  # with every gene at its median
    mean = torch.log((usual + FLOOR) / (rna @ signature.T + FLOOR))
    variance = torch.zeros_like(mean)
    for k in variation.nonzero()[:, 0].tolist():
        share = rna[:, [k]] * torch.exp(-variation[k].square() / 2) * signature[:, k] / (usual + FLOOR)
        moved, extra = log_moments(share, variation[k])
        mean, variance = mean + moved, variance + extra
    return mean, variance


def _sum(x: Tensor, weight: Tensor | None) -> Tensor:
    """Weighted sum over samples (genes,)."""
    return (x if weight is None else weight * x).sum(dim=0).double()


@dataclass
class Cohort:
    """How the cohort's genes depart from the fit; genes are the present ones.

    Attributes
    ----------
    factor
        (genes,): that the cohort shares.
    between
        (genes,): relative variance between samples of every type's profile.
    quiet
        Relative variance that is neither the types' nor of counting.
    own
        (types,): relative variance between samples of all genes of types that vary; None where none does.
    """

    factor: Tensor
    between: Tensor
    quiet: Tensor
    own: Tensor | None = None

    @classmethod
    def of(
        cls,
        blocks: Iterable[tuple[slice, Tensor]],
        signature: Tensor,
        rna: Tensor,
        depth: Tensor,
        variation: Tensor | None = None,
        noise: float = 0.0,
    ) -> "Cohort":
        """Moments of the log residuals of the bulk (samples x genes), given block by block with its rows.

        `variation` (types,): standard deviation of the log expression of types that vary, beside `noise`, that of other
        log residuals. What they do to a residual is taken off, and a sample counts for a gene by the share of the
        variance that is not theirs.
        """
        n, mean, squares, weights = 0, 0.0, 0.0, 0.0
        counting = expression = concentration = 0.0  # sums over samples
        for rows, bulk in blocks:
            fitted, scale = against_fit(bulk, signature, rna[rows])
            residual = torch.log(bulk / scale + FLOOR) - torch.log(fitted + FLOOR)
            beside, weight, size = _counting(fitted, depth[rows]), None, float(len(bulk))
            if variation is not None:
                moved, extra = _of_variable_types(signature, rna[rows], variation)
                residual, beside, weight = residual - moved, beside + extra, 1 / (1 + extra / noise**2).double()
                size = weight.sum(dim=0)
            residual = residual.clamp(-_CLIP, _CLIP).double()
            own = _sum(residual, weight) / size
            # sums of squares around the mean add up as in Chan, Golub and LeVeque (1983)
            squares = squares + _sum((residual - own).square(), weight)
            squares = squares + (own - mean).square() * weights * size / (weights + size)
            mean, weights, n = mean + (own - mean) * size / (weights + size), weights + size, n + len(bulk)
            counting = counting + _sum(beside, weight)
            expression = expression + fitted.sum(dim=0).double()
            # the bulk's scatter is that of its types, weighted by the squares of their parts
            for part in rna[rows].T[:, :, None] * signature.T[:, None, :]:  # one type at a time
                concentration = concentration + _sum((part / fitted.clamp(min=1e-30)).square(), weight)
        expressed, prior = expression / n > FLOOR, 1.0  # samples that no factor counts for
        if variation is not None:  # few are left of a gene that variable types make: as many as its noise asks for
            own = (weights * mean.square())[expressed].sum() - noise**2 * expressed.sum()
            prior = (noise**2 * weights[expressed].sum() / own.clamp(min=1e-12)).clamp(max=1)
        shift = mean * weights / (weights + prior) if n > 1 else torch.zeros_like(mean)
        scatter = (squares / weights + (mean - shift).square()) * n / max(n - 1, 1) - counting / weights
        steady = expressed if variation is None else expressed & (weights >= _OWN * n)
        quiet = torch.quantile(scatter[steady] if steady.any() else scatter, _QUIET).clamp(min=1e-4)
        between = ((scatter - quiet) / (concentration / weights).clamp(min=1e-6)).clamp(0, 1)
        between = between if n > 1 else torch.zeros_like(between)
        found = (x.to(signature.dtype) for x in (shift.exp(), between, quiet))
        return cls(*found, None if variation is None else torch.expm1(variation.square()))


def posterior(
    signature: Tensor, bulk: Tensor, rna: Tensor, depth: Tensor, cohort: Cohort, genes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Profiles, variances and shares of variance explained (samples x types x genes), and the bulk's factor.

    `bulk` (samples x present genes), `signature` (present genes x types), columns sum to one over all genes; `genes`
    are the ones wanted, by their places among those present.
    """
    fitted, scale = against_fit(bulk, signature, rna)
    fitted, s = fitted[:, genes], signature[genes]
    between, factor = cohort.between[genes], cohort.factor[genes]
    observed = bulk[:, genes] / scale / factor
    noise = cohort.quiet + _counting(fitted, depth)
    relative = between if cohort.own is None else between + cohort.own[:, None]
    prior = relative * s.T.square()  # (types x genes)
    pull = rna[:, :, None] * prior
    total = (rna[:, :, None] * pull).sum(dim=1) + noise * (fitted + FLOOR).square()
    gain = pull / total[:, None].clamp(min=1e-30)
    expression = (s.T + gain * (observed - fitted)[:, None]).clamp(min=0)
    variance = (prior - gain * pull).clamp(min=0)
    return expression, variance, gain * rna[:, :, None], (factor * scale)[:, None]
