"""Simulated bulk from labelled cells, in NumPy and SciPy: training sees what `hpvade.pp.simulate_bulk` returns."""

from ._chunks import ChunkSums, assign_chunks, cells_as_chunks, merge_small_groups
from ._composition import TRAINING_PRIOR, sample_proportions
from ._mixing import Mixtures, PlatformNoise, draw_mixtures

__all__ = [
    "TRAINING_PRIOR",
    "ChunkSums",
    "Mixtures",
    "PlatformNoise",
    "assign_chunks",
    "cells_as_chunks",
    "merge_small_groups",
    "draw_mixtures",
    "sample_proportions",
]
