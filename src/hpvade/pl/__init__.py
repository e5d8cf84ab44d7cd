"""Draw proportions, agreement with the truth, signatures and the training history. Tables in, never a model."""

from .._figures._attribution import attribution_scatter, modality_attribution
from .._figures._training import training_history
from ._agreement import agreement
from ._contexts import context_effects, head_influence
from ._diagnostics import diagnostics
from ._embedding import embedding
from ._groups import groups
from ._intervals import intervals
from ._label_check import label_check
from ._latent_space import latent_space
from ._loadings import loadings
from ._proportions import proportions
from ._signatures import signatures

signature = signatures
training = training_history

__all__ = [
    "agreement",
    "attribution_scatter",
    "context_effects",
    "diagnostics",
    "embedding",
    "groups",
    "head_influence",
    "intervals",
    "label_check",
    "latent_space",
    "loadings",
    "modality_attribution",
    "proportions",
    "signature",
    "signatures",
    "training",
    "training_history",
]
