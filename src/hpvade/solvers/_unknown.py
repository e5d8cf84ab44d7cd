"""What the signature does not contain: one more profile, found from how the cohort's residuals vary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ._linear import check_options, check_shapes
from ._markers import marker_genes
from ._robust import robust

_FLOOR = 5e-5
_SIGNIFICANT = 3.0  # standard errors from which on a gene has a part in the unknown
MIN_SAMPLES = 6
_MIN_GENES = 20  # expressed genes that are no markers, to find the unknown by
_FULL = 0.05  # share from which on the answer is that with the unknown


@dataclass(frozen=True)
class UnknownFit:
    """Result of `unknown_component`.

    Attributes
    ----------
    rna_proportions
        (samples x types): fractions of RNA of the known types; rows sum to one minus `unknown`.
    unknown
        (samples,): fraction of RNA that no type explains.
    profile
        (genes,): expression of the unknown in the signature's scale; sums to one.
    """

    rna_proportions: Tensor
    unknown: Tensor
    profile: Tensor


def unknown_component(
    bulk: Tensor,
    signature: Tensor,
    allowed: Tensor | None = None,
    *,
    depth: Tensor | None = None,
    known: Tensor | None = None,
    n_iterations: int = 8,
    n_seed_genes: int = 100,
    factor_weight: float = 0.2,
    profile_penalty: float = 0.05,
    anchor_weight: float = 1.0,
    n_samples: int = 256,
) -> UnknownFit:
    r"""Robust regression with one type more, whose profile is learned from the cohort.

    For gene g the bulk is :math:`y_{ng} = \kappa_g \sum_k b_{nk} s_{gk} + \theta_g u_n`. A platform factor
    :math:`\kappa_g` that is free for every gene explains whatever all samples share, so that only what *varies* between
    samples beyond the known types counts as unknown: an unknown that makes up the same part of every sample cannot be
    told from a platform. In turn, :math:`\kappa` and :math:`\theta \ge 0` are least squares in relative errors, and
    :func:`robust` solves for the amounts with the profile :math:`\theta / \kappa` as one more column, drawn to none of
    it by a weak anchor. Genes that do not vary with the share by three standard errors beside the known types have no
    part in it, which makes small shares of an uncertain unknown too small rather than too large. The start is the first
    singular vector of the genes whose residuals vary most, markers of known types aside; of its two directions the one
    that leaves these genes the smaller error, or no unknown where neither leaves less than none.

    With a share of 0 the known types are as without an unknown; up to a share of 5 % they go over to the answer with
    it in proportion, so that a sample never jumps.

    Parameters
    ----------
    bulk
        (samples x genes), shares of the sample's total.
    signature
        (genes x types), columns that sum to one over all genes.
    allowed
        Genes that may be markers, bool (genes,); all when None.
    depth
        As in :func:`robust`.
    known
        (samples x types): fractions of RNA when nothing is unknown; those of :func:`robust` when None.
    n_iterations
        Rounds.
    n_seed_genes
        Genes of the start.
    factor_weight
        Pull of :math:`\kappa` towards one, in units of one sample.
    profile_penalty
        Pull of :math:`\theta` towards zero, as a share of its curvature.
    anchor_weight
        Pull of the unknown towards none, see :func:`robust`; 1 with 400 genes is a prior with standard deviation 0.05,
        which is that of Beta(1, 20).
    n_samples
        Larger cohorts learn the profile from as many samples, evenly spaced.

    Raises
    ------
    ValueError
        Fewer than six samples, fewer than 20 expressed genes that are no markers, shapes that do not match, or a number
        out of range.

    References
    ----------
    Residuals as an unknown type: Racle et al., eLife 6 (2017); one more learned column as in semi-supervised
    non-negative matrix factorisation (Lee and Seung, Nature 401, 1999).

    Examples
    --------
    >>> import torch
    >>> g = torch.Generator().manual_seed(0)
    >>> profiles = torch.rand(400, 4, generator=g) ** 6
    >>> profiles = profiles / profiles.sum(0)
    >>> parts = torch.rand(20, 4, generator=g)
    >>> parts = parts / parts.sum(1, keepdim=True)
    >>> fit = unknown_component(parts @ profiles.T, profiles[:, :3])
    >>> bool(torch.corrcoef(torch.stack([fit.unknown, parts[:, 3]]))[0, 1] > 0.9)
    True
    """
    check_shapes(bulk, signature)
    check_options(n_iterations=n_iterations, n_seed_genes=n_seed_genes, n_samples=n_samples)
    check_options(factor_weight=factor_weight, profile_penalty=profile_penalty, anchor_weight=anchor_weight)
    n, n_genes = bulk.shape
    if n < MIN_SAMPLES:
        raise ValueError(
            f"an unknown component is learned from how samples differ; found {n}, expected at least {MIN_SAMPLES}."
        )
    bulk, signature = bulk.float(), signature.float()
    allowed = torch.ones(n_genes, dtype=torch.bool, device=bulk.device) if allowed is None else allowed
    depth = torch.full((n,), 5e6, device=bulk.device) if depth is None else depth.float()
    few = torch.linspace(0, n - 1, min(n, n_samples), device=bulk.device).round().long()
    some = bulk[few]
    genes = marker_genes(signature, allowed)

    if known is None:
        known = robust(bulk[:, genes], signature[genes], depth=depth).rna_proportions
    known = known.float()
    start = known[few]
    free = allowed.clone()
    free[genes] = False  # a marker that varies says how wrong the signature is, not what is missing
    share, seed_genes = _start(some, start @ signature.T, free, n_seed_genes)
    weights = factor_weight, profile_penalty
    # What the samples differ by may be more of the unknown in some, less of it in the others, or noise: then no unknown
    # fits best. The genes that say what they differ by decide: donors and batches, which move many genes a little,
    # outweigh a type over all genes.
    nothing = torch.nn.functional.pad(start, (0, 1)), torch.zeros_like(some[0]), torch.zeros_like(some[0])
    found = [nothing] + [
        _learn(some, signature, start, one, allowed, depth[few], n_iterations, weights, anchor_weight)
        for one in (share, share.amax() - share)
    ]
    rna, theta, profile = min(found, key=lambda one: _error(some, signature, *one[:2], weights, seed_genes))
    if not theta.any():  # nothing varies that the known types leave
        rna = torch.nn.functional.pad(known, (0, 1))
    elif len(few) < n:
        rna = _solve(bulk, signature, profile, allowed, depth, known, anchor_weight)
    share = rna[:, -1:]
    among = rna[:, :-1] / (1 - share).clamp(min=1e-12)
    among = known + (share / _FULL).clamp(max=1) * (among - known)
    return UnknownFit(among * (1 - share), share[:, 0], profile)


def _learn(
    bulk: Tensor,
    signature: Tensor,
    start: Tensor,
    share: Tensor,
    allowed: Tensor,
    depth: Tensor,
    n_iterations: int,
    weights: tuple[float, float],
    anchor_weight: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fractions of RNA with the unknown's last, its theta and profile."""
    amounts, theta = start * (1 - share[:, None]), torch.zeros(bulk.shape[1], device=bulk.device)
    rna = torch.nn.functional.pad(start, (0, 1))
    for _ in range(n_iterations):
        kappa, theta = _profile(bulk, amounts @ signature.T, share, theta, *weights)
        profile = theta / kappa
        profile = profile / profile.sum().clamp(min=1e-30)
        if not theta.any():
            break
        rna = _solve(bulk, signature, profile, allowed, depth, amounts, anchor_weight)
        amounts, share = rna[:, :-1], rna[:, -1]
    return rna, theta, profile


def _error(
    bulk: Tensor, signature: Tensor, rna: Tensor, theta: Tensor, weights: tuple[float, float], genes: Tensor
) -> float:
    """Squared relative error that a solution leaves in `genes`, with the factor and profile that go best with it."""
    bulk, fitted, share = bulk[:, genes], rna[:, :-1] @ signature[genes].T, rna[:, -1]
    kappa, theta = _profile(bulk, fitted, share, theta[genes], *weights)
    weight = 1 / (0.5 * (fitted + bulk) + _FLOOR).square()
    return float((weight * (bulk - kappa * fitted - theta * share[:, None]).square()).sum())


def _start(bulk: Tensor, fitted: Tensor, allowed: Tensor, n_genes: int) -> tuple[Tensor, Tensor]:
    """First guess of the unknown share: what the genes whose residuals vary most have in common; and these genes."""
    expressed = allowed & (bulk.amax(dim=0) > _FLOOR)
    if (found := int(expressed.sum())) < _MIN_GENES:
        raise ValueError(
            f"an unknown component is found by genes that are expressed and no markers of the types; found {found}, "
            f"expected at least {_MIN_GENES}. Use more genes, or no unknown."
        )
    residual = torch.log(bulk + _FLOOR) - torch.log(fitted + _FLOOR)
    residual = residual - residual[:, expressed].median(dim=1, keepdim=True).values
    varied = residual.std(dim=0).masked_fill(~expressed, 0).argsort(descending=True, stable=True)[:n_genes]
    residual = residual[:, varied]
    excess = (residual.exp() - torch.quantile(residual, 0.25, dim=0).exp()).clamp(min=0)
    excess = excess / excess.norm(dim=0).clamp(min=1e-12)
    vector = torch.linalg.svd(excess, full_matrices=False)[0][:, 0]
    vector = vector * torch.sign(vector.sum())
    vector = (vector - vector.min()).clamp(min=0)
    return 0.3 * vector / vector.max().clamp(min=1e-12), varied


def _profile(
    bulk: Tensor, fitted: Tensor, share: Tensor, theta: Tensor, factor_weight: float, penalty: float
) -> tuple[Tensor, Tensor]:
    """Platform factor and profile of the unknown (genes,), by alternating least squares in relative errors."""
    weight = 1 / (0.5 * (fitted + bulk) + _FLOOR).square()
    share = share[:, None]
    curvature = (weight * share.square()).sum(dim=0) * (1 + penalty)
    for _ in range(3):
        kappa = ((weight * fitted * (bulk - theta * share)).sum(dim=0) + factor_weight) / (
            (weight * fitted.square()).sum(dim=0) + factor_weight
        )
        kappa = kappa.clamp(0.05, 20)
        theta = (weight * share * (bulk - kappa * fitted)).sum(dim=0) / curvature.clamp(min=1e-12)
        theta = theta.clamp(min=0)
    # t statistic of theta beside kappa: does the gene vary with the share where the known types do not?
    error = (weight * (bulk - kappa * fitted - theta * share).square()).sum(dim=0) / max(len(bulk) - 2, 1)
    overlap = (weight * share * fitted).sum(dim=0).square() / (weight * fitted.square()).sum(dim=0).clamp(min=1e-12)
    own = ((weight * share.square()).sum(dim=0) - overlap).clamp(min=0)
    return kappa, torch.where(theta * own.sqrt() > _SIGNIFICANT * error.sqrt(), theta, 0.0)


def _solve(
    bulk: Tensor,
    signature: Tensor,
    profile: Tensor,
    allowed: Tensor,
    depth: Tensor,
    amounts: Tensor,
    anchor_weight: float,
) -> Tensor:
    """Fractions of RNA (samples x types and the unknown), drawn to `amounts` and no unknown."""
    columns = torch.cat([signature, profile[:, None]], dim=1)
    genes = marker_genes(columns, allowed)
    anchor = torch.cat([amounts, torch.zeros_like(amounts[:, :1])], dim=1)
    anchor = anchor / anchor.sum(dim=1, keepdim=True).clamp(min=1e-12)
    fit = robust(bulk[:, genes], columns[genes], depth=depth, anchor=anchor, anchor_weight=anchor_weight)
    return fit.rna_proportions
