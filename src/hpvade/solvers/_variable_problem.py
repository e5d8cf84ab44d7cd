"""Gauss-Newton steps and shared unknowns of the regression with types that differ from sample to sample."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ._linear import coordinate_descent
from ._robust import HUBER, MAD, ROUNDS, RobustFit, count_distinct, moderated_weight, row_medians, shrunk_factor

_MORE, _SETTLED = 45, 2e-4  # rounds beyond those of `robust`, until no fraction moves by more
_START, _MOST = 0.0, 2.0  # standard deviation of log expression to start from, and the largest that is believed
_NODES, _SHARES = np.polynomial.hermite_e.hermegauss(9)
_SHARES = _SHARES / _SHARES.sum()
_CLIPPED = 0.995  # mean of a squared normal variable that is clipped at nine


def log_moments(share: Tensor, variation: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of log(1 - w + w exp(tau z)) over standard normal z, for shares w of any shape."""
    first, second = torch.zeros_like(share), torch.zeros_like(share)
    for z, p in zip(_NODES.tolist(), _SHARES.tolist(), strict=True):
        value = torch.log1p(share * torch.expm1(z * variation))
        first += p * value
        second += p * value.square()
    return first, (second - first.square()).clamp(min=0)


def _excess(residual: Tensor, variance: Tensor) -> Tensor:
    """Squared residuals beyond their variance, clipped at three standard deviations."""
    return residual.square().minimum(9 * variance) / _CLIPPED - variance


@dataclass
class _State:
    """Samples x genes, at some amounts: fit, log residual, shares of the variable types, and variances.

    `base` are the weights of `robust` without Huber's, `extra` the variance by the variable types, `scale` (samples x
    1) the standard deviation beside it, `inflated` the ratio of all variance to that, `standard` the residual over its
    root, `weight` what the regression uses, `limit` (samples x 1) Huber's.
    """

    mean: Tensor
    residual: Tensor
    shares: list[Tensor]
    base: Tensor
    extra: Tensor
    scale: Tensor
    inflated: Tensor
    standard: Tensor
    weight: Tensor
    limit: Tensor


class VariableProblem:
    """Signature, factor, gene weights and variation, which samples share."""

    def __init__(
        self,
        signature: Tensor,
        variable: list[int],
        factor: Tensor,
        gene_weight: Tensor,
        variation: Tensor | None,
        offset: float,
        dispersion: float,
        anchor_weight: float,
    ):
        self.signature, self.variable = signature, variable
        self.factor, self.gene_weight = factor, gene_weight
        first = torch.full((len(variable),), _START, device=signature.device)
        self.variation = first if variation is None else variation[variable].to(first)
        self.offset, self.dispersion, self.anchor_weight = offset, dispersion, anchor_weight
        self.unit = signature.sum(dim=0).mean().clamp(min=1e-30)  # keeps squares of small shares inside float32

    @property
    def scaled(self) -> Tensor:
        return self.signature * self.factor.exp()[:, None]

    @property
    def profile(self) -> Tensor:
        """Signature (genes x types) with the factor, in units of the problem."""
        return self.scaled / self.unit

    def amounts(self, fit: RobustFit, bulk: Tensor) -> Tensor:
        """Amounts (samples x types) with which a fit has the total of the bulk."""
        total = (fit.rna_proportions @ self.scaled.T).sum(dim=1).clamp(min=1e-30)
        return fit.rna_proportions * (bulk.sum(dim=1) / total)[:, None]

    def fit_cohort(
        self,
        bulk: Tensor,
        depth: Tensor,
        amounts: Tensor,
        n_steps: int,
        penalty: float | None,
        weight_samples: float | None,
        free: bool,
    ) -> None:
        """Find what the samples share: variation if `free`, factor and gene weights unless None. No anchor."""
        for step in range(ROUNDS + _MORE):
            before = amounts / amounts.sum(dim=1, keepdim=True)
            amounts, state = self.solve(bulk, depth, amounts, None, n_steps if step == 0 else max(n_steps // 3, 1))
            if free and step >= ROUNDS - 1:  # before, the factor is among the residuals
                self._update_variation(state)
            # more rounds only as far as variation explains residuals: nothing changes where nothing varies
            share = 1.0 if step < ROUNDS else float((1 - 1 / state.inflated).mean())
            self._update_genes(state, penalty, weight_samples, share)
            if step >= ROUNDS and (amounts / amounts.sum(dim=1, keepdim=True) - before).abs().max() < _SETTLED:
                break

    def level(self, bulk: Tensor, depth: Tensor, amounts: Tensor, *, genes: bool = False) -> Tensor:
        """Amounts at the level of the samples' expressed genes; with `genes`, also factor and weights of all genes."""
        for _ in range(10 if genes else 5):
            state = self._state(bulk, depth, amounts, None)
            expressed = torch.where(state.mean > 2 * self.offset, state.residual, torch.nan)
            amounts = amounts * expressed.nanmedian(dim=1, keepdim=True).values.nan_to_num(0.0).exp()
            if genes and len(bulk) > 1:
                self._update_genes(state, 1.0, 20.0, 1.0)
        return amounts

    def answer(
        self, bulk: Tensor, depth: Tensor, start: Tensor, anchor: Tensor | None, n_steps: int, covariance: bool
    ) -> tuple[Tensor, ...]:
        """Fractions and robust deviation of the residuals; on request the genes' influence, too (see `Influence`)."""
        amounts, state = self.solve(bulk, depth, start, anchor, n_steps)
        rise = torch.ones_like(amounts[0])  # from the median gene to the mean
        rise[self.variable] = torch.exp(self.variation.square() / 2)
        total = (amounts * rise).sum(dim=1, keepdim=True).clamp(min=1e-30)
        fractions = amounts * rise / total
        fractions = torch.where(fractions.sum(dim=1, keepdim=True) == 0, 1 / fractions.shape[1], fractions)
        residual = MAD * row_medians(state.residual.abs())[:, 0]
        if not covariance:
            return fractions, residual
        score, inverse = self._influence(amounts, state)
        return fractions, residual, score, rise.double()[:, None] * inverse / total[:, :, None].double()

    def posterior(self, bulk: Tensor, depth: Tensor, amounts: Tensor, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """Ratio, log ratio and share of variance explained, for the i-th variable type."""
        state, tau = self._state(bulk, depth, self.level(bulk, depth, amounts), None), self.variation[i]
        own, observed = state.shares[i], state.residual + log_moments(state.shares[i], tau)[0]
        counting = 1 / (state.mean * depth[:, None])  # in full: the weights take it in proportion to the other noise
        noise = torch.maximum(state.scale.square() / state.base, state.scale.square() / self.gene_weight + counting)
        noise = noise + state.extra - log_moments(own, tau)[1]

        def curve(z: Tensor) -> tuple[Tensor, Tensor]:
            """What z adds to the log mean, and the derivative."""
            grown = own * torch.expm1(z * tau)
            return torch.log1p(grown), tau * (own + grown) / (1 + grown)

        mode = torch.zeros_like(own)
        for _ in range(12):  # Gauss-Newton towards the mode, where the nodes are put
            value, slope = curve(mode)
            step = ((observed - value) * slope / noise - mode) / (slope.square() / noise + 1)
            mode = (mode + step.clamp(-2, 2)).clamp(-6, 6)
        width = (curve(mode)[1].square() / noise + 1).rsqrt()
        nodes = torch.tensor(_NODES, dtype=own.dtype, device=own.device)[:, None, None]
        z = mode + width * nodes
        log_odds = nodes.square() / 2 - z.square() / 2 - (observed - curve(z)[0]).square() / (2 * noise)
        odds = torch.softmax(log_odds + torch.tensor(np.log(_SHARES)).to(nodes)[:, None, None], dim=0)
        mean = (odds * z).sum(dim=0)
        variance = (odds * (z - mean).square()).sum(dim=0)
        return (odds * torch.exp(tau * z)).sum(dim=0), tau * mean, (1 - variance).clamp(0, 1)

    def solve(
        self, bulk: Tensor, depth: Tensor, start: Tensor, anchor: Tensor | None, n_steps: int
    ) -> tuple[Tensor, _State]:
        """Amounts of the median gene (samples x types) and the state there."""
        amounts, state = start, self._state(bulk, depth, start, None)
        for step in range(n_steps):
            new = self._step(amounts, state, anchor)
            amounts = new if step < 4 else (amounts + new) / 2  # see `robust`
            state = self._state(bulk, depth, amounts, state, settled=step >= 4)
        return amounts, state

    def _state(
        self, bulk: Tensor, depth: Tensor, amounts: Tensor, last: _State | None, settled: bool = False
    ) -> _State:
        offset = (0.5 / depth[:, None]).clamp(min=self.offset)
        scaled = self.scaled
        mean = amounts @ scaled.T + offset
        shares = [amounts[:, [k]] * scaled[:, k] / mean for k in self.variable]
        moved, extra = (sum(x) for x in zip(*map(log_moments, shares, self.variation), strict=True))
        residual = torch.log(bulk + offset) - torch.log(mean) - moved
        base = self.gene_weight * self.dispersion / (self.dispersion + 1 / (mean * depth[:, None]))
        scale = (MAD * row_medians(residual.abs())).clamp(min=0.01) if last is None else last.scale
        for _ in range(0 if settled else 2):
            variance = scale.square() / base + extra
            weight = 1 / (base * variance.square())
            rise = (weight * _excess(residual, variance)).sum(dim=1) / (weight / base).sum(dim=1)
            scale = (scale.square() + rise[:, None]).clamp(min=1e-4).sqrt()
        inflated = 1 + base * extra / scale.square()
        standard = residual / inflated.sqrt()
        limit = last.limit if settled else HUBER * MAD * row_medians(standard.abs())
        weight = (limit / standard.abs().clamp(min=1e-12)).clamp(max=1) * base / inflated
        return _State(mean, residual, shares, base, extra, scale, inflated, standard, weight, limit)

    def _update_variation(self, state: _State) -> None:
        noise, variation = state.scale.square() / state.base, self.variation.clone()
        for _ in range(3):
            for i, share in enumerate(state.shares):
                variance = noise + sum(log_moments(*x)[1] for x in zip(state.shares, variation, strict=True))
                slope = log_moments(share, variation[i].clamp(min=0.05))[1] / variation[i].clamp(min=0.05).square()
                weight = slope / variance.square()
                rise = (weight * _excess(state.residual, variance)).sum() / (weight * slope).sum().clamp(min=1e-30)
                variation[i] = (variation[i].square() + rise).clamp(min=0).sqrt().clamp(max=_MOST)
        self.variation = variation

    def _update_genes(self, state: _State, penalty: float | None, weight_samples: float | None, share: float) -> None:
        """Move factor and weights by a share of the way."""
        n_distinct, residual = count_distinct(state.residual), state.residual
        if penalty is not None:
            factor = shrunk_factor(residual + self.factor, state.weight, n_distinct, penalty)
            factor = self.factor + share * (factor - self.factor)
            residual, self.factor = residual + self.factor - factor, factor
        if weight_samples is not None:  # what the variable types do is in `inflated` already
            standard = residual / (1 + state.extra / state.scale.square()).sqrt()
            weight = moderated_weight(standard, weight_samples, n_distinct)
            self.gene_weight = self.gene_weight + share * (weight - self.gene_weight)

    def _step(self, amounts: Tensor, state: _State, anchor: Tensor | None) -> Tensor:
        """One Gauss-Newton step, as that of `robust`."""
        n_types, scaled = amounts.shape[1], self.profile
        mean = state.mean / self.unit
        relative = state.weight / mean.square()
        # the offset is part of the mean, and no type's
        own = mean - (amounts @ scaled.T)
        response = mean * (1 + state.residual.clamp(-2, 2)) - own
        gram = (relative @ _pairs(scaled)).double().reshape(-1, n_types, n_types)
        target = ((relative * response) @ scaled).double()
        ridge = 1e-6 * torch.diagonal(gram, dim1=1, dim2=2)
        if anchor is not None and self.anchor_weight > 0:
            total = amounts.double().sum(dim=1, keepdim=True).clamp(min=1e-30)
            pull = self._pull(state) / total.square()
            ridge, target = ridge + pull, target + pull * anchor.double() * total
        gram = gram + torch.diag_embed(ridge)
        return coordinate_descent(gram, target, amounts.double(), n_sweeps=10, tolerance=1e-7).float()

    def _pull(self, state: _State) -> Tensor:
        """Precision of the anchor (samples x 1), per squared fraction."""
        return self.anchor_weight * (state.weight.sum(dim=1, keepdim=True) * (state.limit / HUBER).square()).double()

    def _influence(self, amounts: Tensor, state: _State) -> tuple[Tensor, Tensor]:
        """Score of every gene and inverse curvature at the amounts, as those of `robust`."""
        n_types, mean = amounts.shape[1], state.mean / self.unit
        curvature = (state.weight * (state.standard.abs() <= state.limit) / mean.square()) @ _pairs(self.profile)
        curvature = curvature.double().reshape(-1, n_types, n_types)
        total = amounts.double().sum(dim=1, keepdim=True).clamp(min=1e-30)
        ridge = 1e-6 * torch.diagonal(curvature, dim1=1, dim2=2).clamp(min=1e-30)
        ridge = ridge + self._pull(state) / total.square()
        whole = state.residual + self.factor
        standard = (whole / state.inflated.sqrt()).abs()
        bound = (HUBER * MAD * row_medians(standard) / standard.clamp(min=1e-12)).clamp(max=1)
        score = bound * state.base / state.inflated * whole / mean
        return score, torch.linalg.inv(curvature + torch.diag_embed(ridge))


def _pairs(signature: Tensor) -> Tensor:
    """Products of every pair of types (genes x pairs)."""
    return (signature[:, :, None] * signature[:, None, :]).reshape(len(signature), -1)
