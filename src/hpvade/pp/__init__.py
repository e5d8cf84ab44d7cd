"""Preparation: thin functions that take AnnData and return AnnData."""

from ..io._map_genes import map_genes
from ..models.cycleae._contexts import build_context_specs
from ._add_sorted_profiles import add_sorted_profiles
from ._ambient_profile import ambient_profile
from ._read_h5_batches import read_h5_batches
from ._shift_context import shift_context
from ._simulate_bulk import simulate_bulk
from ._summarize import summarize
from ._transfer_labels import transfer_labels

__all__ = [
    "add_sorted_profiles",
    "ambient_profile",
    "build_context_specs",
    "map_genes",
    "read_h5_batches",
    "shift_context",
    "simulate_bulk",
    "summarize",
    "transfer_labels",
]
