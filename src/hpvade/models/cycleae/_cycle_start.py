"""Where the training of CycleAE's networks starts: components of the cells in the base, effects in the heads."""

from collections.abc import Mapping

import torch
from torch import Tensor

_FACTORS = 8  # of correlated genes, that the non-negative base starts with
_NOISE = 0.01


@torch.no_grad()
def start_from(model, x: Tensor, source: Mapping[str, Tensor], effects: Mapping[str, Tensor]) -> None:
    """Set the weights of a `CAE` from cells `x` (n, G), their codes (n,) and effects (C, G), both by field.

    The head of a field hands on what cells have along the directions of its effects, plus the effect of the target
    minus that of the source. The base holds the leading singular vectors of what is orthogonal to all of these, so
    that it is the same in every context and both cycles agree. Non-negative weights cannot subtract: there, the base
    holds non-negative factors of the cells and single variable genes, and the heads add what lies above the smallest
    effect over the categories.
    """
    d, n_genes = model.base.shape
    model.base.normal_(0, 1e-3 / n_genes**0.5)
    if model.nonnegative:
        model.base.abs_()
        basis = nonnegative_factors(x, _added(x, source, effects), d)  # the base gives what the heads leave
    else:
        span = row_space(torch.cat(list(effects.values())))
        basis = singular_vectors(x - (x @ span.T) @ span, d // 2 if model.activation == "relu" else d)
        if model.activation == "relu":  # a component and its mirror image: together linear
            basis = torch.cat([basis, -basis])
    model.base[: len(basis)] = basis
    taken = x[:0]
    for field, effect in effects.items():
        own, rest = _split(effect, taken)
        taken = torch.cat([taken, own])
        _start_head(model, field, effect, own, rest, 1 / x.sum(dim=1).mean())


def _added(x: Tensor, source: Mapping[str, Tensor], effects: Mapping[str, Tensor]) -> Tensor:
    """What non-negative heads add to cells in their own context (n, G)."""
    added = torch.zeros_like(x)
    for field, effect in effects.items():
        above = torch.cat([effect - effect.min(dim=0).values, torch.zeros_like(effect[:1])])  # -1 adds nothing
        added += above[source[field]]
    return added * x.sum(dim=1, keepdim=True) / x.sum(dim=1).mean()


def _split(directions: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows that span what of `directions` (k, G) lies outside and inside the span of `taken`."""
    shared = (directions @ taken.T) @ taken
    return row_space(directions - shared), row_space(shared)


def _start_head(model, field: str, effect: Tensor, own: Tensor, rest: Tensor, unit: Tensor) -> None:
    """Latent 0 is about one in every cell and 1 hands it on; the next ones hold effects.

    Directions of the effect that no earlier head has (`own`) hand on what the cell has along them; the `rest` of the
    effect is only added and subtracted.
    """
    head = model.head(field)
    d, handed = head.encoder.shape[0], 0
    for weight, size in ((head.encoder, unit), (head.categories, d**-0.5), (head.decoder, effect.std())):
        weight.normal_(0, 1).mul_(_NOISE * size)
        if model.nonnegative:
            weight.abs_()
    if d < 3:
        return
    if model.nonnegative:
        mix, parts = torch.eye(len(effect)).to(effect), effect - effect.min(dim=0).values
    else:
        parts = row_space(effect) if model.activation == "relu" else torch.cat([own, rest])
        mix = effect @ parts.T
        handed = 0 if model.activation == "relu" else len(own)
    r = min(len(parts), d - 2)
    handed = min(handed, r)
    head.encoder[0] = unit
    head.categories[:, 1, 0] = 1
    head.categories[:, 2 : 2 + r, 1] = mix[:, :r]
    head.decoder[:, 2 : 2 + r] = parts[:r].T / head.log_scale.exp()
    if handed:
        head.categories[:, 2 : 2 + r, 0] = -mix[:, :r]
        head.categories[:, 2 : 2 + r, 2 : 2 + r] = torch.eye(r).to(mix)
        head.encoder[2 : 2 + handed] = own[:handed]


def singular_vectors(x: Tensor, k: int) -> Tensor:
    """The leading right singular vectors of `x`, at most `k` (rows)."""
    _, s, v = torch.svd_lowrank(x, q=min(k + 8, *x.shape), niter=8)
    return v[:, :k].T[s[:k] > 1e-4 * s[0]]


def row_space(x: Tensor) -> Tensor:
    """Orthonormal rows that span the rows of `x`."""
    if not len(x):
        return x
    _, s, v = torch.linalg.svd(x, full_matrices=False)
    return v[s > max(1e-4 * float(s[0]), 1e-6)]


def nonnegative_factors(x: Tensor, added: Tensor, d: int, n_steps: int = 100) -> Tensor:
    """Weights W (d, G), zero or above, such that x ~ x W^T W + `added` (n, G).

    Projective non-negative factorisation (Yuan and Oja 2005) of what is left by a part that is added anyway.

    Started at a few factors of correlated genes, from the halves of singular vectors, and otherwise at single genes,
    those that the factors leave most of: the noise of counts is that of single genes.
    """
    basis = singular_vectors(x, min(_FACTORS, d))
    halves = torch.stack([basis.clamp(min=0), (-basis).clamp(min=0)], dim=1).flatten(0, 1)
    factors = halves[halves.norm(dim=1) > 1e-3][: len(basis)]
    factors = _multiply(x, added, factors / factors.norm(dim=1, keepdim=True) + 1e-4, 40)
    n_single = min(d - len(factors), x.shape[1])
    single = (x - (x @ factors.T) @ factors).square().mean(dim=0).argsort(descending=True, stable=True)[:n_single]
    factors[:, single] = 0
    unit = torch.zeros(n_single, x.shape[1]).to(x)
    unit[torch.arange(n_single), single] = 1
    return _multiply(x, added, torch.cat([factors, unit]) + 1e-3, n_steps)


def _multiply(x: Tensor, added: Tensor, weight: Tensor, n_steps: int) -> Tensor:
    """Steps of the multiplicative updates that lower the squared error of x ~ x W^T W + added."""
    for _ in range(n_steps):
        h = x @ weight.T
        scatter, taken = h.T @ x, h.T @ added + (added @ weight.T).T @ x
        product = (weight @ scatter.T).T @ weight + (weight @ weight.T) @ scatter
        weight = weight * (2 * scatter / (product + taken + 1e-9)).sqrt()
    return weight
