"""Classical and robust linear solvers over (bulk, signature), in torch, for all samples at once."""

from ._covariates import CovariateFactor, covariate_factor
from ._dwls import dwls
from ._hspe import hspe
from ._instaprism import instaprism
from ._linear import coordinate_descent, nnls
from ._markers import marker_genes
from ._music import music
from ._platform import PlatformFactor, platform_factor
from ._rlr import rlr
from ._robust import RobustFit, robust
from ._unknown import MIN_SAMPLES, UnknownFit, unknown_component
from ._variable import VariableFit, VariableProfiles, robust_variable, variable_profiles

__all__ = [
    "PlatformFactor",
    "CovariateFactor",
    "RobustFit",
    "UnknownFit",
    "VariableFit",
    "VariableProfiles",
    "coordinate_descent",
    "covariate_factor",
    "dwls",
    "hspe",
    "instaprism",
    "marker_genes",
    "music",
    "nnls",
    "platform_factor",
    "rlr",
    "robust",
    "robust_variable",
    "unknown_component",
    "variable_profiles",
]
