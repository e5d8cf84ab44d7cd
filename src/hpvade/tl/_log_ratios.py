"""Fractions and their intervals as centred log-ratios with variances; a zero is as far down as its interval says."""

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

_SMALLEST = 1e-300  # a draw, so that its logarithm is a number


def centred_log_ratios(
    table: pd.DataFrame,
    lower: pd.DataFrame | None,
    upper: pd.DataFrame | None,
    *,
    level: float,
    n_draws: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Natural log fraction less its mean over the types: means and variances (samples x types), and which types.

    Each fraction is drawn from a normal around the estimate, as wide as its interval, cut at zero. So a zero whose
    interval ends at 0.002 is half a normal below it, and one whose interval ends at 0.05 counts for less: no constant
    is put in its place. Without intervals nothing says how far down a zero is; it is set to half of the type's smallest
    fraction, and variances are zero. Types that no sample has, with certainty, are left out.
    """
    values = table.to_numpy(dtype=float)
    if lower is None:
        sd = np.zeros_like(values)
    else:
        reach = np.maximum(upper.to_numpy(dtype=float) - values, values - lower.to_numpy(dtype=float))
        sd = np.maximum(reach, 0.0) / ndtri((1 + level) / 2)
    seen = ((values > 0) | (sd > 0)).any(axis=0)
    values, sd = values[:, seen], sd[:, seen]
    certain = (values == 0) & (sd == 0)
    if certain.any():
        smallest = np.where(values > 0, values, np.inf).min(axis=0)
        smallest = np.where(np.isfinite(smallest), smallest, np.where(sd > 0, sd, np.inf).min(axis=0))
        values = np.where(certain, smallest / 2, values)
    rng = np.random.default_rng(seed)
    # the other half of the draws mirrors the first: the mean settles with half as many
    half = rng.random((-(-n_draws // 2), *values.shape)) if sd.any() else np.full((1, *values.shape), 0.5)
    uniform = np.concatenate([half, 1 - half])
    spread = np.where(sd > 0, sd, 1.0)
    below = ndtr(-values / spread)
    drawn = np.where(sd > 0, values + sd * ndtri(below + uniform * (1 - below)), values)
    log = np.log(np.maximum(drawn, _SMALLEST))
    ratio = log - log.mean(axis=2, keepdims=True)
    return ratio.mean(axis=0), ratio.var(axis=0), table.columns[seen]
