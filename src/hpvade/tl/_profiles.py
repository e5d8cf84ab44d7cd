"""The reference of a solver: checked cells or a signature, and which of its genes are fitted."""

import sys
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import listed
from ..io._rows import in_memory, pick_matrix
from ..reference._checks import check_order, check_reference, check_signature
from ..reference._signature import donor_variance, gene_scores, reference_signature, sum_chunks

_LABELS_KEY = "cell_type"


@dataclass(frozen=True, eq=False)
class Profiles:
    """Mean counts per cell (genes x types), and the variance between donors of their shares where it is needed."""

    genes: pd.Index
    types: list[str]
    mean_counts: np.ndarray
    n_donors: int
    variance: np.ndarray | None = None


def read_signature(signature: pd.DataFrame, method: str, of_cells: dict) -> Profiles:
    if given := [name for name, value in of_cells.items() if value is not None]:
        raise ValueError(f"The reference is a signature, to which {listed(given)} does not apply; leave it out.")
    if method == "music":
        raise ValueError("method='music' needs the variance between donors; a signature has none. Pass cells.")
    check_signature(signature)
    values = signature.to_numpy(dtype=float)
    return Profiles(pd.Index(signature.index.astype(str)), [str(c) for c in signature.columns], values, 0)


def read_cells(adata: AnnData, method: str, keys: dict, bulk: AnnData | pd.DataFrame) -> Profiles:
    """Donor-averaged profiles of checked cells, which are to explain `bulk`."""
    if keys["labels_key"] is None and isinstance(adata, AnnData):
        given = {name: value for name, value in keys.items() if value is not None}
        keys = {"labels_key": _LABELS_KEY, "sample_key": None, "layer": None} | _registered(adata) | given
    if isinstance(adata, AnnData) and isinstance(bulk, AnnData):
        check_order(bulk, adata, keys["labels_key"], "solve(bulk, reference)")
    check_reference(adata, **keys)
    obs = in_memory(adata.obs)
    labels = obs[keys["labels_key"]].astype("category").cat.remove_unused_categories().cat
    donors = np.zeros(adata.n_obs, dtype=int)
    if keys["sample_key"] is not None:
        donors = obs[keys["sample_key"]].astype("category").cat.codes.to_numpy().astype(int)
    types = [str(name) for name in labels.categories]
    chunks = sum_chunks(
        pick_matrix(adata, keys["layer"], "adata")[0],
        labels.codes.to_numpy().astype(int),
        donors,
        len(types),
        np.random.default_rng(0),
        chunk_size=adata.n_obs,  # whole groups: the sums per donor do not depend on the generator
    )
    variance = donor_variance(chunks) if method == "music" else None
    mean_counts = reference_signature(chunks).mean_counts
    return Profiles(adata.var_names, types, mean_counts, len(np.unique(donors)), variance)


def _registered(adata: AnnData) -> dict:
    """Columns and layer of `HPVADE.setup_anndata`, if this object was set up in this process."""
    if "scvi" not in sys.modules:
        return {}
    from ..models.hpvade._model import HPVADE

    try:
        manager = HPVADE._get_most_recent_anndata_manager(adata)
    except ValueError:  # a copy of one that was
        manager = None
    if manager is None:
        return {}
    setup = manager.registry["setup_args"]
    donors = setup["batch_key"] if setup["sample_key"] is None else setup["sample_key"]
    return {"labels_key": setup["labels_key"], "sample_key": donors, "layer": setup["layer"]}


def choose_genes(profiles: Profiles, present: np.ndarray, genes) -> np.ndarray:
    """Positions of the genes to fit."""
    if isinstance(genes, str) and genes != "markers":
        raise ValueError(f"genes={genes!r}; expected 'markers', a number, a list of names, or None for all.")
    asked = f"genes={genes}"
    if isinstance(genes, str):
        chosen = _markers(profiles, present)
    elif genes is None:
        chosen = np.flatnonzero(present & (profiles.mean_counts.sum(axis=1) > 0))
    elif isinstance(genes, int | np.integer):
        score = np.where(present, gene_scores(profiles.mean_counts, profiles.genes.to_numpy()), 0.0)
        chosen = np.argsort(-score, kind="stable")[: min(max(genes, 0), int((score > 0).sum()))]
    else:
        names = pd.Index(genes).unique()
        asked = f"The list of {len(names)} genes"
        if len(unknown := names[~names.isin(profiles.genes)]):
            raise ValueError(
                f"{len(unknown)} of {len(names)} genes asked for are not in the reference: {listed(unknown, 3)}."
            )
        at = profiles.genes.get_indexer(names)
        chosen = at[present[at]]
    if len(chosen) < len(profiles.types):
        raise ValueError(
            f"{asked} leaves {len(chosen)} genes that the bulk has, fewer than the {len(profiles.types)} types; "
            "expected one per type or more."
        )
    return np.sort(chosen)


def _markers(profiles: Profiles, present: np.ndarray) -> np.ndarray:
    """Positions of the genes that tell each pair of types apart."""
    import torch

    from ..solvers import marker_genes

    allowed = present & (gene_scores(profiles.mean_counts, profiles.genes.to_numpy()) > 0)
    share = torch.from_numpy(profiles.mean_counts / profiles.mean_counts.sum(axis=0))
    return marker_genes(share, torch.from_numpy(allowed)).numpy()
