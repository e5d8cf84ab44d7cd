"""Evaluate predicted proportions against the truth."""

from ._align import compare
from ._evaluate import evaluate, evaluate_per_type

__all__ = ["compare", "evaluate", "evaluate_per_type"]
