"""One type's values against the groups: effects, intervals and p, by statsmodels."""

import warnings
from dataclasses import dataclass

import numpy as np

from ._group_design import Design


@dataclass
class Effects:
    """Differences of the groups to the reference group (groups,): estimate, bounds, p; and p of all together."""

    estimate: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    p_value: np.ndarray
    p_omnibus: float


def effects(y: np.ndarray, variance: np.ndarray, plan: Design, method: str, level: float) -> Effects:
    """Effects on `y` (samples,), whose values are known up to `variance` (samples,).

    - ``"weighted"``: random-effects regression, weights 1 / (tau^2 + variance), tau^2 by Paule and Mandel, standard
      errors from the residuals (HC2 of MacKinnon and White), so that weights that are wrong do not make p so;
    - ``"draws"``: Rubin's rules for infinitely many draws of `y` around its values, in closed form, as the model is
      linear;
    - ``"ols"``: least squares; ``"mixed"``: a random intercept per subject.
    """
    if np.ptp(y) < 1e-12 * max(1.0, np.abs(y).max()):  # nothing varies, nothing differs
        none = np.zeros(len(plan.others))
        return Effects(none, none, none, none + 1, 1.0)
    X, n = plan.matrix, len(plan.others)
    rows = np.eye(X.shape[1])[1 : n + 1]
    estimate, covariance, df = _FITS[method](y, variance, plan)
    estimate, covariance = rows @ estimate, rows @ covariance @ rows.T
    from scipy import stats

    error = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    reach = stats.t.ppf((1 + level) / 2, df) * error
    p_value = 2 * stats.t.sf(np.abs(estimate) / error, df)
    statistic = estimate @ np.linalg.pinv(covariance) @ estimate / n
    return Effects(estimate, estimate - reach, estimate + reach, p_value, float(stats.f.sf(statistic, n, df)))


def _weighted(y, variance, plan):
    import statsmodels.api as sm

    fit = sm.WLS(y, plan.matrix, weights=1 / (between_samples(y, variance, plan.matrix) + variance)).fit()
    leverage = (fit.model.wexog * fit.model.pinv_wexog.T).sum(axis=1)
    free = 1 - leverage  # none where a sample has a column of its own, such as a subject without a partner
    squares = np.where(free > 1e-9, fit.wresid**2 / np.maximum(free, 1e-9), 0.0)
    return fit.params, (fit.model.pinv_wexog * squares) @ fit.model.pinv_wexog.T, fit.df_resid


def _ols(y, variance, plan):
    import statsmodels.api as sm

    fit = sm.OLS(y, plan.matrix).fit()
    return fit.params, fit.cov_params(), fit.df_resid


def _draws(y, variance, plan):
    """The mean of the fits' covariances plus the covariance of their estimates, over draws of `y`."""
    import statsmodels.api as sm

    fit = sm.OLS(y, plan.matrix).fit()
    leverage = fit.get_influence().hat_matrix_diag
    within = fit.normalized_cov_params * (fit.ssr + ((1 - leverage) * variance).sum()) / fit.df_resid
    pinv = np.linalg.pinv(plan.matrix)
    return fit.params, within + (pinv * variance) @ pinv.T, fit.df_resid


def _mixed(y, variance, plan):
    import statsmodels.api as sm
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    scale = y.std()  # its optimizer stops at absolute steps
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a variance of zero between subjects is an answer
        warnings.simplefilter("ignore", UserWarning)
        fit = sm.MixedLM(y / scale, plan.matrix, groups=plan.subjects).fit(reml=True)
    k = plan.matrix.shape[1]
    df = max(len(np.unique(plan.subjects)) - np.linalg.matrix_rank(plan.matrix), 1)
    return scale * np.asarray(fit.fe_params), scale**2 * np.asarray(fit.cov_params())[:k, :k], df


def between_samples(y: np.ndarray, variance: np.ndarray, X: np.ndarray) -> float:
    """The variance between samples beyond that of their estimates, with which weighted residuals are as expected.

    Zero where the residuals are smaller than the estimates' own variances allow.
    """
    from scipy.optimize import brentq

    df = len(y) - np.linalg.matrix_rank(X)

    def excess(tau2: float) -> float:
        root = np.sqrt(1 / (tau2 + variance))
        residual = root * y - (root[:, None] * X) @ np.linalg.lstsq(root[:, None] * X, root * y, rcond=None)[0]
        return residual @ residual - df

    smallest = 1e-9 * y.var()  # weights stay finite where an estimate is exact
    largest = 10 * y.var() * len(y)
    if excess(smallest) <= 0:
        return smallest
    return brentq(excess, smallest, largest)


_FITS = {"weighted": _weighted, "draws": _draws, "ols": _ols, "mixed": _mixed}
METHODS = tuple(_FITS)
