"""Small real data shipped in the package, and a generator with planted truth."""

from ._ambient import plant_ambient
from ._contexts import planted_contexts
from ._planted import planted_cohort
from ._real import blood_anchor, pbmc_bulk, pbmc_reference

__all__ = ["blood_anchor", "pbmc_bulk", "pbmc_reference", "plant_ambient", "planted_cohort", "planted_contexts"]
