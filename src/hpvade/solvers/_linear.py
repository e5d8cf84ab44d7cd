"""Non-negative least squares for a whole cohort at once."""

from numbers import Integral

import torch
from torch import Tensor

_WHOLE = {"n_iterations", "factor_samples", "n_samples", "n_seed_genes", "block"}


def coordinate_descent(
    gram: Tensor, target: Tensor, start: Tensor | None = None, *, n_sweeps: int = 1000, tolerance: float = 1e-10
) -> Tensor:
    r"""Minimise :math:`\tfrac12 b^\top A b - t^\top b` over :math:`b \ge 0`, for every sample, by cyclic coordinates.

    Parameters
    ----------
    gram
        :math:`A`, positive semi-definite, (types x types) shared by all samples or (samples x types x types).
    target
        :math:`t` (samples x types).
    start
        First guess (samples x types); zeros when None.
    n_sweeps
        Most passes over the types.
    tolerance
        Stop when no coefficient moved by more than this share of the largest one: each sample by itself on a processor,
        all together elsewhere, where it is looked at every tenth pass, since looking makes the device wait.

    Returns
    -------
    :math:`b` (samples x types).
    """
    solution = torch.zeros_like(target) if start is None else start.clone()
    if on_processor(target):
        from . import _cpu  # here: numba takes a while to import

        return _cpu.coordinate_descent(gram, target, solution, n_sweeps, tolerance)
    return _all_together(gram.expand(len(target), -1, -1), target, solution, n_sweeps, tolerance)


def _all_together(gram: Tensor, target: Tensor, solution: Tensor, n_sweeps: int, tolerance: float) -> Tensor:
    """Coordinate descent in steps of the whole cohort; changes `solution`."""
    diagonal = torch.diagonal(gram, dim1=1, dim2=2)
    step = torch.where(diagonal > 0, 1 / diagonal.clamp(min=torch.finfo(gram.dtype).tiny), 0.0)
    for sweep in range(1, n_sweeps + 1):
        moved = torch.zeros((), dtype=gram.dtype, device=gram.device)
        for k in range(target.shape[1]):
            gradient = target[:, k] - (gram[:, k] * solution).sum(dim=1)
            new = (solution[:, k] + gradient * step[:, k]).clamp(min=0)
            moved = torch.maximum(moved, (new - solution[:, k]).abs().max())
            solution[:, k] = new
        if sweep % 10 == 0 and sweep < n_sweeps and moved <= tolerance * solution.abs().max():
            break
    return solution


def nnls(bulk: Tensor, signature: Tensor, weight: Tensor | None = None) -> Tensor:
    r"""Non-negative least squares :math:`\min_{b \ge 0} \sum_g w_{ng} (y_{ng} - \sum_k s_{gk} b_{nk})^2`, all samples.

    Without weights, the baseline that every table prints. With mean counts per cell as `signature`, `b` is
    proportional to numbers of cells; with columns that sum to one, to RNA.

    Parameters
    ----------
    bulk
        (samples x genes), linear scale, floating point; its precision is that of the sums over genes.
    signature
        (genes x types), linear scale.
    weight
        Non-negative weights of the squared errors, (samples x genes) or (genes,); equal when None. With weights the
        sums over genes are in float64.

    Returns
    -------
    Coefficients (samples x types) in float64, not normalised.

    Raises
    ------
    ValueError
        If the numbers of genes differ.

    References
    ----------
    The solution is that of Lawson and Hanson, Solving Least Squares Problems (1974), reached by cyclic coordinates.

    Examples
    --------
    >>> import torch
    >>> signature = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> nnls(torch.tensor([[2.0, 3.0, 4.0]]), signature).round(decimals=4)
    tensor([[1., 3.]], dtype=torch.float64)
    """
    check_shapes(bulk, signature)
    signature = signature.double()
    # equal column norms: the solution is the same and coordinate descent converges faster
    scale = signature.norm(dim=0).clamp(min=torch.finfo(torch.float64).tiny)
    unit = signature / scale
    if weight is None:
        return _minimum(unit.T @ unit, (bulk @ unit.to(bulk.dtype)).double()) / scale
    gram, target = normal_equations(bulk.double(), unit, weight.double().expand(bulk.shape))
    own = torch.diagonal(gram, dim1=1, dim2=2).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return _minimum(gram / own[:, :, None] / own[:, None, :], target / own) / own / scale


def normal_equations(bulk: Tensor, signature: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices (samples x types x types) and targets (samples x types) of weighted least squares."""
    n_types = signature.shape[1]
    pairs = (signature[:, :, None] * signature[:, None, :]).flatten(1)
    return (weight @ pairs).reshape(-1, n_types, n_types), (weight * bulk) @ signature


def _minimum(gram: Tensor, target: Tensor) -> Tensor:
    """Exact minimum of the quadratic form over non-negative coefficients; shapes as in `coordinate_descent`."""
    if on_processor(target):
        from . import _cpu

        solution, done = _cpu.minimum(gram, target)
        rows = (~done).nonzero()[:, 0]
    else:
        solution = coordinate_descent(gram, target, n_sweeps=100)
        rows = torch.arange(len(target), device=target.device)
    for _ in range(100):  # similar types: coordinates alone would take many thousand sweeps
        own, aim, previous = gram if gram.ndim == 2 else gram[rows], target[rows], solution[rows]
        now = coordinate_descent(own, aim, previous, n_sweeps=1)
        moves = (now - previous).abs().amax(dim=1) > 1e-10 * now.amax(dim=1)
        solution[rows] = now
        if not moves.any():
            break
        rows = rows[moves]
        own = gram if gram.ndim == 2 else gram[rows]
        solution[rows] = _face_minimum(own, aim[moves], now[moves])
    return solution


def _face_minimum(gram: Tensor, target: Tensor, solution: Tensor) -> Tensor:
    """Go to the minimum over the types in use; one that would turn negative is dropped, and the others go on."""
    for _ in range(gram.shape[-1]):
        used = solution > 0
        face = gram * (used[:, :, None] & used[:, None, :])
        step = (torch.linalg.pinv(face, hermitian=True) @ (target * used)[:, :, None])[:, :, 0] - solution
        reach = torch.where(used & (step < 0), solution / -step, torch.inf)
        share = reach.amin(dim=1, keepdim=True).clamp(max=1)
        solution = torch.where(used & (reach > share), (solution + share * step).clamp(min=0), 0.0)
        if (share == 1).all():
            break
    return solution


def on_processor(x: Tensor) -> bool:
    """Whether the compiled kernels can take this tensor."""
    return x.device.type == "cpu"


def check_options(**options) -> None:
    """Raise ValueError that names a number out of range: counts are 1 or more, dispersion is positive, others >= 0."""
    for name, value in options.items():
        if name in _WHOLE and not (isinstance(value, Integral) and value >= 1):
            raise ValueError(f"{name}={value!r}; expected a whole number of at least 1")
        if name == "dispersion" and not value > 0:
            raise ValueError(f"{name}={value!r}; expected a positive number: with 0 no gene would have a weight")
        if not value >= 0:
            raise ValueError(f"{name}={value!r}; expected a number of at least 0")


def check_shapes(bulk: Tensor, signature: Tensor) -> None:
    """Raise ValueError unless (samples x genes) meets (genes x types)."""
    if bulk.ndim != 2 or signature.ndim != 2 or bulk.shape[1] != signature.shape[0]:
        raise ValueError(
            f"bulk has shape {tuple(bulk.shape)} and signature {tuple(signature.shape)}; expected (samples x genes) "
            "and (genes x types) with the same genes"
        )
