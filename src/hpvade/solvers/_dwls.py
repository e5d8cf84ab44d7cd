"""Dampened weighted least squares."""

import torch
from torch import Tensor

from ._iterate import by_blocks, close, fixed_point
from ._linear import check_shapes, nnls, normal_equations


def dwls(
    bulk: Tensor,
    signature: Tensor,
    *,
    n_subsamples: int = 100,
    tolerance: float = 0.01,
    n_iterations: int = 1000,
    block: int = 16,
) -> Tensor:
    r"""Fractions by dampened weighted least squares, in the manner of DWLS.

    Squared errors are weighed by the inverse square of what the last fit expects, so that an error counts relative to
    the gene's level, and weights are bounded so that genes with hardly any expression do not decide:

    .. math:: w_{ng} = \min\Big(\frac{1}{\mu_{ng}^2},\; 2^{j_n} \min_{g'} \frac{1}{\mu_{ng'}^2}\Big), \qquad
              \mu_{ng} = \sum_k p_{nk} s_{gk} .

    Starting from non-negative least squares, each step moves a fifth of the way to the next weighted fit. The
    exponent is that for which unconstrained weighted fits to random halves of the genes vary least; the halves are the
    same for every sample and in every call.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale; a factor per sample changes nothing.
    signature
        (genes x types), linear scale; a factor per column only divides that type's amount.
    n_subsamples
        Random halves of the genes, at least two, drawn by position: genes in another order may choose another bound.
    tolerance, n_iterations
        A sample is done when its fractions change by less than `tolerance` in sum, or after `n_iterations`.
    block
        Samples solved together; bounds the memory.

    Returns
    -------
    Fractions (samples x types) in float64, rows sum to one: of cells when the columns are mean counts per cell, of
    RNA when they are shares of a type's RNA.

    Raises
    ------
    ValueError
        If the numbers of genes differ, there are fewer than twice as many genes as types, or an option is out of range.

    References
    ----------
    Tsoucas et al., Nature Communications 10: 2975 (2019); own code from the formula.

    Examples
    --------
    >>> import torch
    >>> signature = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    >>> dwls(torch.tensor([[0.2, 0.3, 0.5]]) @ signature.T, signature).round(decimals=3)
    tensor([[0.2000, 0.3000, 0.5000]], dtype=torch.float64)
    """
    check_shapes(bulk, signature)
    n_genes, n_types = signature.shape
    if n_genes < 2 * n_types:
        raise ValueError(f"{n_genes} genes for {n_types} types; expected two genes per type or more, to fit halves")
    if n_subsamples < 2:
        raise ValueError(f"n_subsamples={n_subsamples}; expected at least two, to see how fits vary")
    signature = signature.double()
    total = signature.sum(dim=0)
    profile = signature / total.clamp(min=1e-300)
    halves = _random_halves(n_subsamples, n_genes).to(signature)

    def solve(y: Tensor) -> Tensor:
        y = close(y)
        start = close(nnls(y, profile))
        exponent = _exponent(y, profile, start, halves)

        def step(old: Tensor, rows: Tensor) -> Tensor:
            weight = _relative_weight(old @ profile.T).clamp(max=exponent.exp2()[rows, None])
            return (close(nnls(y[rows], profile, weight)) + 4 * old) / 5

        found = fixed_point(step, start, tolerance=tolerance, n_iterations=n_iterations)
        return close(torch.where(total > 0, found / total.clamp(min=1e-300), 0.0))

    return by_blocks(solve, bulk, block)


def _random_halves(n: int, n_genes: int) -> Tensor:
    """0/1 (n x genes), half of each row ones: fixed, so that the same data have the same answer."""
    order = torch.rand(n, n_genes, generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    return (order < n_genes // 2).double()


def _relative_weight(mean: Tensor) -> Tensor:
    """1 / mean², over its minimum of each sample; infinite where nothing is expected."""
    return (mean.amax(dim=1, keepdim=True) / mean) ** 2


def _exponent(y: Tensor, profile: Tensor, fractions: Tensor, halves: Tensor) -> Tensor:
    """Exponent j of the bound 2^j (samples,) with the smallest variance of the fits to halves of the genes."""
    weight = _relative_weight(fractions @ profile.T)
    finite = torch.where(weight.isfinite(), weight, 1.0)
    n_exponents = finite.amax(dim=1).log2().ceil().clamp(min=1)
    best, variance = torch.zeros(len(y)).to(y), torch.full((len(y),), torch.inf).to(y)
    for j in range(int(n_exponents.max())):
        bounded = weight.clamp(max=2.0**j)
        of_j = torch.stack([_fits(y[n], profile, bounded[n] * halves) for n in range(len(y))]).var(dim=1).mean(dim=1)
        better = (of_j < variance) & (j < n_exponents)  # not a number: no better
        best, variance = torch.where(better, float(j), best), torch.where(better, of_j, variance)
    return best


def _fits(y: Tensor, profile: Tensor, weight: Tensor) -> Tensor:
    """Unconstrained weighted fits (weights x types) of one sample, each scaled to sum to one."""
    gram, target = normal_equations(y.expand(weight.shape), profile, weight)
    # equal diagonals, and a trace of ridge for halves in which two types are the same
    size = torch.diagonal(gram, dim1=1, dim2=2).sqrt().clamp(min=1e-300)
    gram = gram / size[:, :, None] / size[:, None, :] + 1e-10 * torch.eye(profile.shape[1]).to(gram)
    fit = torch.linalg.solve(gram, (target / size)[:, :, None])[:, :, 0] / size
    return fit / fit.sum(dim=1, keepdim=True)
