"""Small real data shipped in the package, and a generator with planted truth."""

from ._ambient import plant_ambient
from ._blood import blood_model, blood_reference
from ._contexts import planted_contexts
from ._planted import planted_cohort
from ._real import blood_anchor, pbmc_bulk, pbmc_reference

__all__ = [
    "blood_anchor",
    "blood_model",
    "blood_reference",
    "pbmc_bulk",
    "pbmc_reference",
    "plant_ambient",
    "planted_cohort",
    "planted_contexts",
]
