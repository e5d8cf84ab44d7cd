"""Counts without their ambient part."""

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.cluster import KMeans

from ..._keys import Keys
from ..._text import warn
from ...io._rows import iter_rows
from ._native_share import NativeShare, native_share
from ._profile import refine_profile
from ._setup import categories
from ._shared_module import AMBIENT

_CELLS_PER_CLUSTER, _FEW_CLUSTERS, _MOST_CLUSTERS = 200, 8, 25
_BLOCK = 512  # cells
_MOST_GENES = 0.9  # share of the genes that a given profile should have


def clean_reference(
    model,
    adata,
    name: str,
    *,
    labels_key: str | None,
    ambient_profile: pd.DataFrame | pd.Series | None,
    integer: bool,
    seed: int,
    batch_size: int | None,
) -> AnnData:
    """See :meth:`RegularizedFace.get_clean_reference`."""
    X, cells = model._matrix(name, adata), model._cells(name, adata)
    groups = None if labels_key is None else _labels(labels_key, cells.obs, adata.obs)
    found, inverse = np.unique(model._codes(AMBIENT, adata), axis=0, return_inverse=True)
    batch = inverse.ravel()
    columns = [[str(c) for c in names] for names in categories(model.registry, AMBIENT).values()]
    names = [", ".join(column[code] for column, code in zip(columns, codes, strict=True)) for codes in found]
    given = None if ambient_profile is None else _given(ambient_profile, names, cells.var_names)
    learned, latent = _profiles(model, adata, name, batch, len(found), batch_size)
    groups = _clusters(latent, seed) if groups is None else groups
    if groups.max() == 0:
        warn("all cells are of one group, so that ambient RNA cannot be told from theirs: too little is removed.")
    shape = groups.max() + 1, len(found)
    place, sums = groups * shape[1] + batch, np.zeros((shape[0] * shape[1], X.shape[1]))
    for rows, counts in iter_rows(X, chunk_rows=_BLOCK):
        sums += (_one_hot(place[rows], len(sums)).T @ counts).toarray()
    sums = sums.reshape(*shape, -1)
    n_cells = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
    profile = refine_profile(sums, learned, n_cells) if given is None else given
    split = native_share(sums, profile, (X, place))
    matrix, removed = _native_counts(X, place, batch, split, np.random.default_rng(seed) if integer else None)
    obs = cells.obs[[column for column in cells.obs if not str(column).startswith("_scvi")]].copy()
    obs[Keys.AMBIENT_REMOVED] = removed
    shares = pd.DataFrame({"share": split.level, "lower": split.lower, "upper": split.upper}, index=names)
    uns = {"units": "counts without the ambient part", Keys.AMBIENT_SHARE: shares}
    clean = AnnData(matrix, obs=obs, var=cells.var.copy(), uns=uns, varm={Keys.AMBIENT_PROFILE: profile.T.copy()})
    empty = matrix.sum(axis=1).A1 == 0
    if empty.any():
        warn(f"{empty.sum()} of {len(empty)} cells have no count left without the ambient part; they are left out.")
        clean = clean[~empty].copy()
    return clean


def _given(table: pd.DataFrame | pd.Series, batches: list[str], genes: pd.Index) -> np.ndarray:
    """A measured profile (batches x genes), rows sum to one."""
    if not isinstance(table, pd.Series | pd.DataFrame):
        raise TypeError(
            f"ambient_profile is a {type(table).__name__}, which names no genes; expected a table of genes x batches, "
            "as hpvade.pp.ambient_profile makes it, or a Series of one profile for all batches."
        )
    if isinstance(table, pd.Series):
        table = pd.DataFrame(dict.fromkeys(batches, table))
    table = table.rename(columns=str)
    if list(table.columns) == ["all"]:
        table = pd.DataFrame(dict.fromkeys(batches, table["all"]))
    if absent := [batch for batch in batches if batch not in table]:
        raise KeyError(f"ambient_profile has no column {absent[0]!r}; expected a column for each of {batches}.")
    if not table.index.is_unique:
        raise ValueError("ambient_profile names genes twice; expected every gene once.")
    table = table[batches]
    if text := [name for name, kind in table.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]:
        raise ValueError(f"ambient_profile[{text[0]!r}] holds {table[text[0]].dtype}; expected numbers.")
    known = table.index.intersection(genes)
    if 0 < len(known) < _MOST_GENES * len(genes):
        warn(
            f"ambient_profile has {len(known)} of the {len(genes)} genes of the model; none of the others is taken for "
            "ambient. Measure the profile on all genes, under the same names."
        )
    values = table.reindex(genes).fillna(0.0).to_numpy(dtype=float).T
    if not np.isfinite(values).all() or (values < 0).any() or not (values.sum(axis=1) > 0).all():
        raise ValueError(
            f"ambient_profile must hold finite values of at least 0 for the genes of the model, such as {genes[0]!r}; "
            f"it has {len(genes.intersection(table.index))} of {len(genes)} genes. Use the same names on both sides."
        )
    return values / values.sum(axis=1, keepdims=True)


def _labels(key: str, *tables: pd.DataFrame) -> np.ndarray:
    """Codes of the labels, from the first table that has them."""
    column = next((table[key] for table in tables if key in table), None)
    if column is None:
        raise KeyError(f"labels_key={key!r} is not in obs; expected one of {list(map(str, tables[0]))}.")
    codes = pd.factorize(column, sort=True)[0]
    if missing := int((codes < 0).sum()):
        raise ValueError(
            f"obs[{key!r}] has no value for {missing} cells; label them, or leave labels_key out to use clusters."
        )
    return codes


@torch.inference_mode()
def _profiles(model, adata, name: str, batch: np.ndarray, n_batches: int, batch_size: int | None):
    """Learned ambient profile of each combination of ambient categories, rows sum to one, and latent means."""
    profile, latent, start = np.zeros((n_batches, model.module.layout.n_vars[name])), [], 0
    for inferred, generated in model._posterior_means(adata, None, batch_size):
        latent.append(inferred["z"].cpu().numpy())
        s, y = (model.module.unpack(generated[key])[name] for key in ("background", "scaling"))
        ambient = (s * y).cpu().numpy()
        profile += _one_hot(batch[start : start + len(ambient)], n_batches).T @ ambient
        start += len(ambient)
    return profile / profile.sum(axis=1, keepdims=True), np.concatenate(latent)


def _clusters(latent: np.ndarray, seed: int) -> np.ndarray:
    """Clusters of cells in latent space: enough that types are hardly mixed, few enough to have counts."""
    fewest = min(max(len(latent) // 20, 2), _FEW_CLUSTERS, len(latent))
    n_clusters = int(np.clip(len(latent) // _CELLS_PER_CLUSTER, fewest, _MOST_CLUSTERS))
    return KMeans(n_clusters, n_init=3, random_state=seed).fit_predict(latent)


def _one_hot(codes: np.ndarray, n: int) -> sparse.csr_matrix:
    return sparse.csr_matrix((np.ones(len(codes)), codes, np.arange(len(codes) + 1)), shape=(len(codes), n))


def _native_counts(X, place: np.ndarray, batch: np.ndarray, split: NativeShare, rng):
    """Native part of all counts (whole with a generator), and the share removed from each cell.

    No count loses more than its cell can plausibly have of ambient RNA: cells that stray into a foreign group keep what
    is their own.
    """
    share, blocks, removed = split.share.reshape(-1, X.shape[1]), [], []
    for rows, counts in iter_rows(X, chunk_rows=_BLOCK):
        before = counts.sum(axis=1).A1
        cell = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        expected = split.ambient[batch[rows][cell], counts.indices] * before[cell]
        ambient = counts.data * (1 - share[place[rows][cell], counts.indices])
        counts.data = counts.data - np.minimum(ambient, expected + 3 * np.sqrt(expected) + 1)
        removed.append(1 - counts.sum(axis=1).A1 / np.maximum(before, 1))
        if rng is not None:
            whole = np.floor(counts.data)
            counts.data = whole + (rng.random(len(whole)) < counts.data - whole)
        counts.eliminate_zeros()
        blocks.append(counts.astype(np.float32))
    return sparse.vstack(blocks, format="csr"), np.concatenate(removed)
