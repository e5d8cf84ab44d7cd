"""Robust linear regression on a linear scale: M-estimation by iteratively reweighted least squares."""

from typing import Literal

import torch
from torch import Tensor

from ._iterate import by_blocks, close, fixed_point
from ._linear import check_shapes, normal_equations

MAD = 1.4826  # standard deviation of a normal variable per median absolute deviation
TUNING = {"huber": 1.345, "bisquare": 4.685}  # 95 % efficiency for normal residuals


def rlr(
    bulk: Tensor,
    signature: Tensor,
    *,
    loss: Literal["huber", "bisquare"] = "huber",
    tuning: float | None = None,
    tolerance: float = 1e-6,
    n_iterations: int = 100,
    block: int = 256,
) -> Tensor:
    r"""Fractions by robust linear regression (RLR).

    .. math:: \hat b_n = \arg\min_b \sum_g \rho\big((y_{ng} - \textstyle\sum_k s_{gk} b_k) / \hat\sigma_n\big), \qquad
              p_{nk} = \max(\hat b_{nk}, 0) \big/ \textstyle\sum_j \max(\hat b_{nj}, 0)

    with :math:`\hat\sigma_n` 1.4826 times the median absolute residual, by iteratively reweighted least squares.
    Huber's loss limits the pull of a gene, Tukey's bisquare takes genes with large residuals out; its minimum is local,
    the one next to Huber's solution. Coefficients are free while fitting; negative ones are clipped at the end.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale; a factor per sample changes nothing.
    signature
        (genes x types), linear scale: mean counts per cell give fractions of cells, shares of a type's RNA fractions
        of RNA; a factor per column only divides that type's coefficient.
    loss
        Huber's or Tukey's.
    tuning
        Residuals in robust standard deviations where Huber's loss turns linear, or where the bisquare turns flat;
        1.345 and 4.685 when None, both of 95 % efficiency for normal errors.
    tolerance, n_iterations
        A sample is done when its coefficients, scaled to an absolute sum of one, change by less than `tolerance` in
        sum, or after `n_iterations`.
    block
        Samples solved together; bounds the memory.

    Returns
    -------
    Fractions (samples x types) in float64, rows sum to one.

    Raises
    ------
    ValueError
        If the numbers of genes differ, or an option is unknown or out of range.

    References
    ----------
    Huber, Robust Statistics (1981); used for blood as ABIS in Monaco et al., Cell Reports 26: 1627 (2019).

    Examples
    --------
    >>> import torch
    >>> signature = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    >>> bulk = torch.tensor([[0.2, 0.3, 0.5]]) @ signature.T
    >>> bulk[0, 7] = 100  # an outlier
    >>> rlr(bulk, signature).round(decimals=3)
    tensor([[0.2000, 0.3000, 0.5000]], dtype=torch.float64)
    """
    check_shapes(bulk, signature)
    if loss not in TUNING:
        raise ValueError(f"loss={loss!r} is unknown; expected one of {', '.join(map(repr, TUNING))}")
    if tuning is not None and not tuning > 0:
        raise ValueError(f"tuning={tuning}; expected a positive number of standard deviations")
    signature = signature.double()
    scale = signature.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    unit = signature / scale

    def solve(y: Tensor) -> Tensor:
        y = y / y.abs().amax(dim=1, keepdim=True).clamp(min=1e-300)

        def step_of(kind: str, limit: float):
            def step(coefficients: Tensor, rows: Tensor) -> Tensor:
                residual = (y[rows] - coefficients @ unit.T).abs()
                sigma = MAD * residual.median(dim=1, keepdim=True).values
                return _least_squares(y[rows], unit, _weight(residual / (limit * sigma.clamp(min=1e-12)), kind))

            return step

        found = _least_squares(y, unit, torch.ones_like(y))
        for kind in ("huber", "bisquare")[: 1 if loss == "huber" else 2]:
            limit = tuning if tuning is not None and kind == loss else TUNING[kind]
            found = fixed_point(step_of(kind, limit), found, tolerance=tolerance, n_iterations=n_iterations)
        return close(found / scale)

    return by_blocks(solve, bulk, block)


def _weight(relative: Tensor, loss: str) -> Tensor:
    """Weight of a squared error, from the residual over the tuning constant."""
    return 1 / relative.clamp(min=1) if loss == "huber" else (1 - relative.clamp(max=1) ** 2) ** 2


def _least_squares(y: Tensor, signature: Tensor, weight: Tensor) -> Tensor:
    gram, target = normal_equations(y, signature, weight)
    return (torch.linalg.pinv(gram, hermitian=True) @ target[:, :, None])[:, :, 0]
