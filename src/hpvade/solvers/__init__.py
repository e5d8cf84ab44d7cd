"""Classical and robust linear solvers over (bulk, signature), in torch, for all samples at once."""

from ._linear import coordinate_descent, nnls
from ._robust import RobustFit, robust

__all__ = ["RobustFit", "coordinate_descent", "nnls", "robust"]
