"""Small real data shipped in the package, and a generator with planted truth."""

from ._planted import planted_cohort
from ._real import pbmc_bulk, pbmc_reference

__all__ = ["pbmc_bulk", "pbmc_reference", "planted_cohort"]
