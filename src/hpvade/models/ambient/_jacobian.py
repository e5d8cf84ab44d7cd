"""Summaries of the Jacobian of a network, cell by cell, without keeping it."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.func import jacfwd, jvp, vmap


def jacobian_summary(
    function: Callable[[Tensor, Tensor], Tensor],
    z: Tensor,
    context: Tensor,
    weights: Tensor,
    blocks: Sequence[slice],
    method: Literal["h2b", "jacfwd"] = "h2b",
) -> tuple[Tensor, Tensor]:
    """Mean absolute derivatives, and norms of blocks, of the Jacobian of weighted outputs at every row of `z`.

    Parameters
    ----------
    function
        Maps (cells, D) and (cells, C) to (cells, F), each row on its own.
    z
        Where to differentiate, (cells, D).
    context
        Second argument of `function`, held fixed, (cells, C).
    weights
        Factors of the outputs, held fixed, (cells, F) or (cells, 1).
    blocks
        Groups of columns of `z`.
    method
        ``"h2b"``: one column of the Jacobian at a time by forward-mode differentiation, so that memory does not grow
        with D; ``"jacfwd"``: all columns at once. Both are exact.

    Returns
    -------
    attribution
        (cells, D): mean over outputs of the absolute derivative.
    frobenius
        (cells, blocks): Frobenius norm of the columns of each block.

    Raises
    ------
    ValueError
        `method` is unknown.

    Examples
    --------
    >>> weight, one = torch.tensor([[3.0, 0.0], [4.0, 1.0]]), torch.ones(1, 1)  # outputs x inputs
    >>> blocks = [slice(0, 1), slice(1, 2)]
    >>> attribution, norm = jacobian_summary(lambda z, c: z @ weight.T, torch.zeros(1, 2), one, one, blocks)
    >>> attribution.tolist(), norm.tolist()
    ([[3.5, 0.5]], [[5.0, 1.0]])
    """
    if method == "jacfwd":
        jacobian = vmap(jacfwd(lambda row, c: function(row[None], c[None])[0]))(z, context)  # cells x F x D
        columns = (weights * column for column in jacobian.unbind(dim=-1))
    elif method == "h2b":
        directions = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        columns = (weights * jvp(lambda v: function(v, context), (z,), (d.expand_as(z),))[1] for d in directions)
    else:
        raise ValueError(f"method={method!r} is unknown; expected 'h2b' or 'jacfwd'.")
    parts = [(column.abs().mean(dim=1), column.square().sum(dim=1)) for column in columns]
    absolute, squares = (torch.stack(values, dim=1) for values in zip(*parts, strict=True))
    return absolute, torch.stack([squares[:, block].sum(dim=1).sqrt() for block in blocks], dim=1)
