"""Expectation maximisation of the multinomial mixture of types."""

import torch
from torch import Tensor

from ._iterate import by_blocks, close, fixed_point
from ._linear import check_shapes


def instaprism(
    bulk: Tensor,
    signature: Tensor,
    *,
    tolerance: float = 1e-7,
    n_iterations: int | None = None,
    block: int = 256,
) -> Tensor:
    r"""Fractions by the fixed point of BayesPrism's Gibbs sampler, in the manner of InstaPrism.

    Every read comes from one type, and a read of type k from gene g with probability :math:`\phi_{gk}`, the columns of
    the signature scaled to sum to one. Expectation maximisation of that multinomial mixture from even fractions,

    .. math:: \theta_{nk} \leftarrow \sum_g \frac{y_{ng}}{\sum_{g'} y_{ng'}}
              \frac{\theta_{nk}\, \phi_{gk}}{\sum_j \theta_{nj}\, \phi_{gj}} ,

    gives fractions of reads; over the sums of the columns they are fractions in the columns' unit.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale; a factor per sample changes nothing.
    signature
        (genes x types), linear scale.
    tolerance, n_iterations
        A sample is done when its fractions change by less than `tolerance` in sum, or after `n_iterations`, the larger
        of 100 and twice the number of types when None.
    block
        Samples solved together; bounds the memory.

    Returns
    -------
    Fractions (samples x types) in float64, rows sum to one: of cells when the columns are mean counts per cell, of
    RNA when they are shares of a type's RNA.

    Raises
    ------
    ValueError
        If the numbers of genes differ, or a value is negative.

    References
    ----------
    Hu and Chikina, Bioinformatics 40: btae440 (2024), for the fixed point; Chu et al., Nature Cancer 3: 505 (2022), for
    BayesPrism. Own code from the formula; signatures are not updated from the bulk.

    Examples
    --------
    >>> import torch
    >>> signature = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) ** 4
    >>> instaprism(torch.tensor([[0.2, 0.3, 0.5]]) @ signature.T, signature).round(decimals=2)
    tensor([[0.2000, 0.3000, 0.5000]], dtype=torch.float64)
    """
    check_shapes(bulk, signature)
    if (bulk < 0).any() or (signature < 0).any():
        raise ValueError("bulk or signature holds negative values; expected numbers of reads, or shares of them")
    signature = signature.double()
    total = signature.sum(dim=0)
    profile = signature / total.clamp(min=1e-300)
    n_types = signature.shape[1]
    n_iterations = max(100, 2 * n_types) if n_iterations is None else n_iterations

    def solve(y: Tensor) -> Tensor:
        y = close(y)

        def step(theta: Tensor, rows: Tensor) -> Tensor:
            # a gene that no type expresses explains nothing: its reads are left out
            return close(theta * ((y[rows] / (theta @ profile.T).clamp(min=1e-300)) @ profile))

        even = torch.full((len(y), n_types), 1 / n_types, dtype=torch.float64, device=y.device)
        theta = fixed_point(step, even, tolerance=tolerance, n_iterations=n_iterations)
        return close(torch.where(total > 0, theta / total.clamp(min=1e-300), 0.0))

    return by_blocks(solve, bulk, block)
