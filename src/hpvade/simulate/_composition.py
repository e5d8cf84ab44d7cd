"""Priors over cell-type composition."""

from collections.abc import Mapping

import numpy as np

TRAINING_PRIOR = {"dirichlet": 0.35, "reference": 0.30, "sparse": 0.20, "rare": 0.15}
"""Shares of the four priors in training mixtures: every composition is possible, likely ones are frequent."""


def sample_proportions(
    n_samples: int,
    n_types: int,
    rng: np.random.Generator,
    *,
    alpha: float = 1.0,
    reference: np.ndarray | None = None,
    prior: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Draw compositions from a mixture of four priors.

    - ``"dirichlet"``: Dirichlet with concentration `alpha` for every type;
    - ``"sparse"``: the same over a random subset of one to all but one types, the others are exactly zero;
    - ``"reference"``: Dirichlet around `reference` with total concentration log-uniform in 5 to 100;
    - ``"rare"``: Dirichlet, with one type set to a share log-uniform in 1e-4 to 1e-1.

    Parameters
    ----------
    n_samples, n_types
        Shape of the result.
    rng
        Source of randomness.
    alpha
        Concentration per type; large values give even compositions, small ones dominant types.
    reference
        Composition (types,) that the ``"reference"`` prior is centred on; even when None.
    prior
        Share of samples per prior, e.g. `TRAINING_PRIOR`; only ``"dirichlet"`` when None. Shares are scaled to one.

    Returns
    -------
    float64 (samples x types), rows sum to one.

    Raises
    ------
    ValueError
        If `alpha` is not positive, or `prior` names an unknown prior or has no positive share.

    Examples
    --------
    >>> import numpy as np
    >>> sample_proportions(2, 3, np.random.default_rng(0)).sum(axis=1)
    array([1., 1.])
    """
    prior = {"dirichlet": 1.0} if prior is None else dict(prior)
    draw = {"dirichlet": _dirichlet, "sparse": _sparse, "reference": _around, "rare": _rare}
    if unknown := prior.keys() - draw.keys():
        raise ValueError(f"unknown composition prior {sorted(unknown)}; expected some of {sorted(draw)}")
    if not alpha > 0:
        raise ValueError(f"alpha is {alpha}; expected a positive concentration")
    shares = np.array(list(prior.values()), dtype=float)
    if (shares < 0).any() or not shares.sum() > 0:
        raise ValueError(f"shares of the composition priors are {prior}; expected non-negative ones, not all zero")
    centre = np.full(n_types, 1 / n_types) if reference is None else np.asarray(reference, dtype=float)
    kinds = rng.choice(len(shares), size=n_samples, p=shares / shares.sum())
    proportions = np.empty((n_samples, n_types))
    for kind, name in enumerate(prior):
        rows = np.flatnonzero(kinds == kind)
        proportions[rows] = draw[name](len(rows), alpha, centre, rng)
    return proportions


def _dirichlet(n: int, alpha: float, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _normalised_gamma(np.full((n, len(centre)), alpha), rng)


def _sparse(n: int, alpha: float, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n_types = len(centre)
    kept = rng.integers(1, max(n_types, 2), size=(n, 1))
    order = rng.random((n, n_types)).argsort(axis=1).argsort(axis=1)
    return _normalised_gamma(np.where(order < kept, alpha, 0.0), rng)


def _around(n: int, alpha: float, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    concentration = np.exp(rng.uniform(np.log(5), np.log(100), size=(n, 1)))
    return _normalised_gamma(concentration * np.maximum(centre, 1e-3), rng)


def _rare(n: int, alpha: float, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    proportions = _dirichlet(n, alpha, centre, rng)
    rows, rare = np.arange(n), rng.integers(len(centre), size=n)
    share = np.exp(rng.uniform(np.log(1e-4), np.log(1e-1), size=n))
    rest = 1 - proportions[rows, rare]
    proportions *= ((1 - share) / np.maximum(rest, 1e-12))[:, None]
    proportions[rows, rare] = share
    return proportions / proportions.sum(axis=1, keepdims=True)


def _normalised_gamma(shape: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    draws = rng.standard_gamma(shape) if shape.size else np.empty(shape.shape)
    total = draws.sum(axis=1, keepdims=True)
    # very small concentrations underflow to all zeros: the limit is one type alone
    lost = np.flatnonzero(total[:, 0] == 0)
    if lost.size:
        weights = shape[lost] / shape[lost].sum(axis=1, keepdims=True)
        draws[lost] = [rng.multinomial(1, row) for row in weights]
        total = draws.sum(axis=1, keepdims=True)
    return draws / total
