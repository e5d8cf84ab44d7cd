"""The share of bulk samples that no type of the reference explains: `deconvolve(unknown=True)`.

`found` is an `Estimate` of a cohort.
"""

import pandas as pd
import torch
from anndata import AnnData

from ...solvers import MIN_SAMPLES, UnknownFit, unknown_component

UNKNOWN = "unknown"  # name of the column


def check_unknown(model, bulk: AnnData, refine: bool) -> None:
    """Raise ValueError where an unknown share cannot be found."""
    if model.preset == "spec" or not refine:
        raise ValueError(
            "unknown=True is found by the regression; expected preset='default' and refine=True. The network alone "
            "knows the reference's types only."
        )
    if UNKNOWN in model.cell_types:
        raise ValueError(f"a cell type of the reference is called {UNKNOWN!r}; rename it to ask for unknown=True.")
    if bulk.n_obs < MIN_SAMPLES:
        raise ValueError(
            f"unknown=True learns what is missing from how samples differ; found {bulk.n_obs}, expected at least "
            f"{MIN_SAMPLES}. Use unknown=False."
        )


@torch.no_grad()
def find_unknown(module, found) -> UnknownFit:
    """Split off what no type explains."""
    signature = module.signature()
    signature = (signature / signature.sum(dim=0))[found.present]
    allowed = (module.gene_score > 0)[found.present]
    known = found.fit.rna_proportions
    return unknown_component(found.shares[:, found.present], signature, allowed, depth=found.depth, known=known)


def similarity(model, found, extra: UnknownFit) -> pd.DataFrame:
    """Cosine between the unknown's profile and each type's over the genes that tell types apart."""
    genes = (model.module.gene_score > 0) & found.present
    known = model.module.signature()[genes]
    unknown = extra.profile[(model.module.gene_score > 0)[found.present]]
    cosine = torch.nn.functional.cosine_similarity(known, unknown[:, None], dim=0)
    return pd.DataFrame({"cosine": cosine.double().cpu().numpy()}, index=model.cell_types)
