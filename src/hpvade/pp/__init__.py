"""Preparation: thin functions that take AnnData and return AnnData."""

from ..models.cycleae._contexts import build_context_specs
from ._add_sorted_profiles import add_sorted_profiles
from ._map_genes import map_genes
from ._read_h5_batches import read_h5_batches
from ._simulate_bulk import simulate_bulk
from ._summarize import summarize
from ._transfer_labels import transfer_labels

__all__ = [
    "add_sorted_profiles",
    "build_context_specs",
    "map_genes",
    "read_h5_batches",
    "simulate_bulk",
    "summarize",
    "transfer_labels",
]
