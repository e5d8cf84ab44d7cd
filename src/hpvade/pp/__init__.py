"""Preparation: thin functions that take AnnData and return AnnData."""

from ._simulate_bulk import simulate_bulk

__all__ = ["simulate_bulk"]
