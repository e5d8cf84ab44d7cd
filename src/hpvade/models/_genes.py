"""Genes of cells beside those of a model."""

import numpy as np
from anndata import AnnData
from mudata import MuData

from .._text import check_adata


def refuse_other_genes(adata: AnnData | MuData, genes: np.ndarray | dict, model: str) -> None:
    """Raise ValueError unless the genes of `adata` are `genes` in the same order; `model` is how to write the model.

    For a MuData `genes` is a dict with those of every modality in use.
    """
    if not isinstance(genes, dict):
        check_adata(adata, "adata")
    elif not isinstance(adata, MuData):
        raise TypeError(f"found a {type(adata).__name__}; expected a MuData.")
    if isinstance(genes, dict):
        if absent := [name for name in genes if name not in adata.mod]:
            raise ValueError(f"mdata has no modalities {absent}; it has {list(adata.mod)}.")
        for name, names in genes.items():
            refuse_other_genes(adata.mod[name], names, model)
        return
    genes = np.asarray(genes)
    found = adata.var_names.astype(str)
    if np.array_equal(found, genes):
        return
    if missing := list(np.asarray(genes)[~np.isin(genes, found)]):
        raise ValueError(
            f"{len(missing)} of the {len(genes)} genes of the model are not in adata.var_names, for example "
            f"{', '.join(missing[:3])}. Expected the genes the model was set up with."
        )
    what = "in another order" if len(found) == len(genes) else f"with {len(found) - len(genes)} others"
    raise ValueError(
        f"adata.var_names holds the genes of the model {what}. They are not reordered silently: use "
        f"`model_var_names = {model}.get_var_names(); adata = adata[:, model_var_names].copy()`."
    )
