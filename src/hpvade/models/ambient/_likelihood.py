"""The likelihood that shares of ambient RNA are estimated with."""

import numpy as np
from scipy.special import gammaln


def negative_binomial(x: np.ndarray, mean: np.ndarray, size) -> np.ndarray:
    """Log-probability of counts, without the term that depends on them only."""
    return gammaln(x + size) - gammaln(size) + size * np.log(size / (size + mean)) + x * np.log(mean / (size + mean))
