"""Estimate proportions with classical solvers, diagnose results, and evaluate predictions against the truth."""

from ..evaluation._align import compare
from ..evaluation._evaluate import evaluate, evaluate_per_type
from ._check_labels import check_labels
from ._compare_groups import compare_groups
from ._cycleae import cycleae
from ._diagnose import diagnose
from ._embed import embed
from ._frames import proportions_adata, proportions_frame
from ._generation import evaluate_generation
from ._layout import layout
from ._neighbourhood import (
    marker_genes,
    neighbourhood_correlation,
    random_baseline,
    stratified_summary,
    summarize_neighbourhoods,
)
from ._perturbation import evaluate_perturbation
from ._solve import solve

__all__ = [
    "check_labels",
    "compare",
    "compare_groups",
    "cycleae",
    "diagnose",
    "embed",
    "evaluate",
    "evaluate_generation",
    "evaluate_per_type",
    "evaluate_perturbation",
    "layout",
    "marker_genes",
    "neighbourhood_correlation",
    "proportions_adata",
    "proportions_frame",
    "random_baseline",
    "solve",
    "stratified_summary",
    "summarize_neighbourhoods",
]
