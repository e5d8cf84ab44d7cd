"""Metrics of predicted proportions in plain NumPy.

Every function takes `prediction` and `truth`, arrays of samples x types in the same order. With ``axis=0`` it returns
one value per type, with ``axis=1`` one per sample, with ``axis=None`` one over all entries. NaN means undefined.
"""

import numpy as np

# values closer together than float32's resolution, relative to the largest, are a constant
_CONSTANT = 1e-7
# atanh(1) is infinite: a correlation counts as at most 1 - 1e-9 in Fisher's mean
_MAX_R = 1 - 1e-9


def _is_constant(values: np.ndarray, axis: int | None) -> np.ndarray:
    return np.ptp(values, axis=axis) <= _CONSTANT * np.abs(values).max(axis=axis)


def pearson(prediction: np.ndarray, truth: np.ndarray, axis: int | None = 0) -> np.ndarray | float:
    """Pearson correlation; NaN where the prediction or the truth is constant."""
    x = prediction - prediction.mean(axis=axis, keepdims=True)
    y = truth - truth.mean(axis=axis, keepdims=True)
    undefined = _is_constant(prediction, axis) | _is_constant(truth, axis)
    scale = np.sqrt((x**2).sum(axis=axis) * (y**2).sum(axis=axis))
    return np.where(undefined, np.nan, (x * y).sum(axis=axis) / np.where(undefined, 1.0, scale))[()]


def _mean_or_nan(values: np.ndarray) -> float:
    """Mean in which NaN counts as 0; NaN when every value is."""
    return float(np.nan if np.isnan(values).all() else np.nan_to_num(values).mean())


def per_type_r(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean over types of the correlation across samples, ``tanh(mean(atanh(r)))`` (Fisher 1921).

    A type whose correlation is undefined counts as 0, so that a constant prediction is not rewarded by being left out.
    NaN when it is undefined for every type.
    """
    r = np.clip(pearson(prediction, truth, axis=0), -_MAX_R, _MAX_R)
    return float(np.tanh(_mean_or_nan(np.arctanh(r))))


def sample_r(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean over samples of the correlation across types; undefined ones count as 0, NaN when all are."""
    return _mean_or_nan(pearson(prediction, truth, axis=1))


def pooled_r(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Correlation over all entries. It is high for a constant when types differ in size: report it last."""
    return float(pearson(prediction, truth, axis=None))


def ccc(prediction: np.ndarray, truth: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """Concordance correlation ``2 cov / (var + var + (mean difference)^2)`` with biased variances (Lin 1989).

    NaN where both sides are constant and equal.
    """
    x = prediction - prediction.mean(axis=axis, keepdims=True)
    y = truth - truth.mean(axis=axis, keepdims=True)
    shift = prediction.mean(axis=axis) - truth.mean(axis=axis)
    spread = (x**2).mean(axis=axis) + (y**2).mean(axis=axis) + shift**2
    return np.where(spread > 0, 2 * (x * y).mean(axis=axis) / np.where(spread > 0, spread, 1.0), np.nan)[()]


def mae(prediction: np.ndarray, truth: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """Mean absolute error."""
    return np.abs(prediction - truth).mean(axis=axis)


def rmse(prediction: np.ndarray, truth: np.ndarray, axis: int | None = None) -> np.ndarray | float:
    """Root mean squared error."""
    return np.sqrt(((prediction - truth) ** 2).mean(axis=axis))


def constant(truth: np.ndarray) -> np.ndarray:
    """The cohort mean of the truth for every sample: a yardstick that uses the truth, not a rival."""
    return np.broadcast_to(truth.mean(axis=0), truth.shape)


def rmse_skill(prediction: np.ndarray, truth: np.ndarray) -> float:
    """``1 - rmse / rmse(constant)``: 1 is perfect, 0 as good as the cohort mean; NaN when the truth is constant."""
    if _is_constant(truth, axis=0).all():
        return float("nan")
    return float(1 - rmse(prediction, truth) / rmse(constant(truth), truth))


def bias(prediction: np.ndarray, truth: np.ndarray, axis: int | None = 0) -> np.ndarray | float:
    """Mean of prediction minus truth."""
    return (prediction - truth).mean(axis=axis)
