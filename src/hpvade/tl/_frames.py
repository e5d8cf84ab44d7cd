"""Proportions as tables and objects that other packages take."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._text import listed, whole_number
from ..evaluation._align import predicted, table

_BOUNDS = ("lower", "upper")


def proportions_frame(
    bulk: AnnData, key: str = Keys.PROPORTIONS, *, long: bool = True, obs: Sequence[str] | str | None = None
) -> pd.DataFrame:
    """Proportions with their intervals and columns of obs as one table, for seaborn, R or a spreadsheet.

    Parameters
    ----------
    bulk
        Samples with proportions in ``obsm[key]`` and, where there are, bounds in ``obsm[key + "_lower"]`` and
        ``obsm[key + "_upper"]``.
    key
        The proportions.
    long
        One row per sample and type; else one row per sample and one column per type.
    obs
        Columns of ``bulk.obs`` to repeat in every row; all by default, but for a column ``sample`` that repeats the
        names of the samples; none with ``[]``.

    Returns
    -------
    Long: the columns ``sample``, ``type``, ``proportion``, with bounds ``lower`` and ``upper``, then those of obs;
    sample by sample, types in their order. Wide: samples in the index, types, ``f"{type}_lower"`` and
    ``f"{type}_upper"`` where there are bounds, then obs. Samples that were skipped are rows of NaN.

    Raises
    ------
    KeyError
        The proportions or a column of obs do not exist.
    ValueError
        A column of obs has the name of one of the table.

    Examples
    --------
    >>> import anndata, hpvade as hp, pandas as pd
    >>> bulk = anndata.AnnData(obs=pd.DataFrame({"group": ["ctrl", "ill"]}, index=["s1", "s2"]))
    >>> bulk.obsm["hpvade_proportions"] = pd.DataFrame({"T": [0.6, 0.7], "B": [0.4, 0.3]}, index=["s1", "s2"])
    >>> hp.tl.proportions_frame(bulk).astype(str).iloc[0].tolist()
    ['s1', 'T', '0.6', 'ctrl']
    """
    values = table(bulk, key)
    bounds = {name: table(bulk, Keys.bound(key, name)) for name in _BOUNDS if Keys.bound(key, name) in bulk.obsm}
    bounds = {name: bound.reindex(columns=values.columns) for name, bound in bounds.items()}
    names = _all_but_names(bulk) if obs is None else [obs] if isinstance(obs, str) else list(obs)
    if missing := [name for name in names if name not in bulk.obs]:
        raise KeyError(f"bulk.obs has no column {listed(missing)}; it has {listed(bulk.obs, 20)}.")
    kept = bulk.obs[names].set_axis(values.index)
    if long:
        columns = {
            "sample": np.repeat(values.index.to_numpy(), values.shape[1]),
            "type": pd.Categorical(np.tile(values.columns.astype(str), len(values)), values.columns.astype(str)),
            "proportion": values.to_numpy(dtype=float).ravel(),
        }
        columns |= {name: bound.to_numpy(dtype=float).ravel() for name, bound in bounds.items()}
        made = pd.DataFrame(columns)
        kept = kept.loc[kept.index.repeat(values.shape[1])].reset_index(drop=True)
    else:
        made = pd.concat([values, *(bound.add_suffix(f"_{name}") for name, bound in bounds.items())], axis=1)
    if clash := [name for name in names if name in made]:
        raise ValueError(f"columns of bulk.obs have names of the table: {listed(clash)}. Rename them, or choose obs=.")
    return pd.concat([made, kept], axis=1)


def _all_but_names(bulk: AnnData) -> list[str]:
    """Columns of obs but one that the table has already: "sample", with the names of the samples."""
    same = "sample" in bulk.obs and np.array_equal(bulk.obs["sample"].astype(str), bulk.obs_names.astype(str))
    return [name for name in bulk.obs if not (same and name == "sample")]


def proportions_adata(bulk: AnnData, key: str = Keys.PROPORTIONS, *, n_cells: int | None = None) -> AnnData:
    """Samples x types as an AnnData, as pertpy's scCODA and other tools for composition take it.

    Parameters
    ----------
    bulk
        Samples with proportions in ``obsm[key]``, bounds as in :func:`~hpvade.tl.proportions_frame`.
    key
        The proportions.
    n_cells
        Count cells: whole numbers that add up to `n_cells` in every sample. scCODA and edgeR read certainty from it,
        and an estimate is far less certain than as many counted cells: choose about f (1 - f) / s^2 for a typical
        fraction f and its standard error s (a 90 % interval is 3.3 s wide). Fractions by default.

    Returns
    -------
    A new object: fractions or counts in ``X`` (samples x types, float32), with counts the fractions in
    ``layers["proportions"]``; bounds in ``layers["lower"]`` and ``["upper"]``; ``obs`` of the samples, types in
    ``var_names``. Samples that were skipped are left out.

    Raises
    ------
    KeyError
        The proportions do not exist.
    ValueError
        `n_cells` is below one, or the proportions are negative or not finite.

    Warns
    -----
    UserWarning
        Samples were skipped.

    Examples
    --------
    >>> import anndata, hpvade as hp, pandas as pd
    >>> bulk = anndata.AnnData(obs=pd.DataFrame({"group": ["ctrl", "ill"]}, index=["s1", "s2"]))
    >>> bulk.obsm["hpvade_proportions"] = pd.DataFrame({"T": [0.66, 0.7], "B": [0.34, 0.3]}, index=["s1", "s2"])
    >>> hp.tl.proportions_adata(bulk, n_cells=10).X.tolist()
    [[7.0, 3.0], [7.0, 3.0]]
    """
    if n_cells is not None:
        whole_number("n_cells", n_cells)
    if not bulk.obs_names.is_unique:
        raise ValueError("names of samples repeat in bulk; call bulk.obs_names_make_unique() first.")
    values = predicted(table(bulk, key)).astype(float)
    fractions = values.to_numpy()
    if not np.isfinite(fractions).all() or (fractions < 0).any():
        raise ValueError(f"bulk.obsm[{key!r}] has values that are negative or not finite; expected fractions.")
    obs = bulk.obs.set_axis(bulk.obs_names.astype(str)).loc[values.index].copy()
    made = AnnData(fractions.astype(np.float32), obs=obs, var=pd.DataFrame(index=values.columns.astype(str)))
    if n_cells is not None:
        made.layers["proportions"] = made.X
        made.X = _counts(fractions, int(n_cells)).astype(np.float32)
    for bound in _BOUNDS:
        if Keys.bound(key, bound) in bulk.obsm:
            limits = table(bulk, Keys.bound(key, bound)).reindex(index=values.index, columns=values.columns)
            made.layers[bound] = limits.to_numpy(dtype=np.float32)
    made.uns["proportions_key"] = key
    return made


def _counts(fractions: np.ndarray, n_cells: int) -> np.ndarray:
    """Whole numbers closest to `n_cells` times the fractions with the right sum: the largest remainders go up."""
    total = fractions.sum(axis=1, keepdims=True)
    exact = n_cells * fractions / np.where(total > 0, total, 1)
    counts = np.floor(exact + 1e-9)
    lacking = np.where(total[:, 0] > 0, n_cells, 0) - counts.sum(axis=1)
    rank = np.argsort(np.argsort(-(exact - counts), axis=1, kind="stable"), axis=1)
    return counts + (rank < lacking[:, None])
