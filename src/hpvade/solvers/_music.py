"""Weighted non-negative least squares that trusts genes on which donors agree."""

from torch import Tensor

from ._iterate import by_blocks, close, fixed_point
from ._linear import check_shapes, nnls


def music(
    bulk: Tensor,
    signature: Tensor,
    variance: Tensor,
    *,
    nu: float = 1e-4,
    tolerance: float = 0.01,
    n_iterations: int = 1000,
    block: int = 256,
) -> Tensor:
    r"""Fractions by weighted non-negative least squares with the variance between donors, in the manner of MuSiC.

    With the bulk in percent of the sample's total, residuals e of the last fit and coefficients b,

    .. math:: w_{ng} = 1 \Big/ \Big(\nu + e_{ng}^2 + \sum_k b_{nk}^2 \sigma_{gk}^2\Big)

    weighs the next fit, until the fractions change by less than `tolerance` in sum. Genes that the last fit missed, or
    on which donors differ, count less.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale; a factor per sample changes nothing.
    signature
        (genes x types), linear scale, mean over donors.
    variance
        (genes x types): variance between donors of the entries of `signature`, in its squared units.
    nu
        Error variance that every gene has, in squared percent.
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
        If shapes do not match, `variance` is negative or not finite (one donor has none), or `nu` is not positive.

    References
    ----------
    Wang et al., Nature Communications 10: 380 (2019); own code from the formula, without the tree of types.

    Examples
    --------
    >>> import torch
    >>> signature = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    >>> bulk = torch.tensor([[0.2, 0.3, 0.5]]) @ signature.T
    >>> music(bulk, signature, 0.01 * signature**2).round(decimals=3)
    tensor([[0.2000, 0.3000, 0.5000]], dtype=torch.float64)
    """
    check_shapes(bulk, signature)
    if variance.shape != signature.shape:
        raise ValueError(
            f"variance has shape {tuple(variance.shape)}; expected that of the signature, {tuple(signature.shape)}"
        )
    if not (variance.isfinite() & (variance >= 0)).all():
        raise ValueError("variance holds negative, NaN or infinite values; it needs two donors or more")
    if not nu > 0:
        raise ValueError(f"nu={nu}; expected a positive variance")
    signature, variance = signature.double(), variance.double()

    def solve(y: Tensor) -> Tensor:
        y = 100 * close(y)

        def step(amounts: Tensor, rows: Tensor) -> Tensor:
            residual = y[rows] - amounts @ signature.T
            weight = 1 / (nu + residual**2 + amounts**2 @ variance.T)
            return nnls(y[rows], signature, weight)

        return close(fixed_point(step, nnls(y, signature), tolerance=tolerance, n_iterations=n_iterations))

    return by_blocks(solve, bulk, block)
