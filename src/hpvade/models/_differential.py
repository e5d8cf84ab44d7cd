"""Differential expression of scvi-tools, after a look at the groups that it compares."""

import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import listed

LEFT_BEHIND = ["_scvi_raw_norm_scaling", "_scvi_temp_de"]  # columns of scvi-tools, the latter after an error


class DifferentialExpression:
    """Differential expression of two groups of cells; stands before scvi-tools' class in a model's bases."""

    _where = "adata.obs"  # in messages

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1=None,
        group2: str | None = None,
        idx1=None,
        idx2=None,
        *args,
        **kwargs,
    ) -> pd.DataFrame:
        """Differential expression of two groups of cells, see scvi-tools; leaves no column behind.

        Raises
        ------
        KeyError
            `groupby` is no column of `adata.obs`.
        ValueError
            Neither `groupby` nor `idx1` is given; a group is unknown or has no cells.
        """
        data = self._validate_anndata(adata)
        group1, group2 = _check_groups(data.obs, groupby, group1, group2, idx1, idx2, self._where)
        left = [name for name in LEFT_BEHIND if name not in data.obs]
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # of genes without counts in a group
                return super().differential_expression(data, groupby, group1, group2, idx1, idx2, *args, **kwargs)
        finally:
            for name in left:
                if name in data.obs:
                    del data.obs[name]


def _check_groups(obs: pd.DataFrame, groupby, group1, group2, idx1, idx2, where: str):
    """Refuse a comparison of cells that are not there, in words that say where; both groups as scvi-tools takes them.

    That is, without categories that no cell has, and None for the rest.
    """
    if groupby is None and idx1 is None:
        raise ValueError(f"nothing to compare: pass groupby=, a column of {where}, or the cells as idx1= and idx2=.")
    if groupby is not None:
        group1, group2 = _check_names(obs, groupby, group1, group2, where)
    for name, cells in (("idx1", idx1), ("idx2", idx2)):
        if cells is not None and not selected(obs, cells).any():
            raise ValueError(f"{name} selects no cells of {where}; expected one or more.")
    if idx1 is not None and idx2 is None and selected(obs, idx1).all():
        raise ValueError(f"idx1 selects all cells of {where}; pass fewer, or idx2=, to compare them with.")
    return group1, group2


def selected(obs: pd.DataFrame, cells) -> np.ndarray:
    """Which cells positions, a mask, or a query of the columns name, as a mask (cells,)."""
    if isinstance(cells, str):
        return obs.index.isin(obs.query(cells).index)
    cells = np.ravel(cells)
    mask = np.zeros(len(obs), dtype=bool)
    mask[cells if cells.size else []] = True
    return mask


def _check_names(obs: pd.DataFrame, groupby, group1, group2, where: str):
    if groupby not in obs:
        raise KeyError(f"groupby={groupby!r} is not a column of {where}; found {list(obs)}.")
    found = set(obs[groupby].dropna().unique())
    group2 = None if group2 == "rest" and "rest" not in found else group2
    wanted = [] if group1 is None else [group1] if np.isscalar(group1) else list(group1)
    wanted += [] if group2 is None else [group2]
    if unknown := [name for name in wanted if name not in found]:
        raise ValueError(
            f"column {groupby!r} of {where} has no cells of {listed(map(str, unknown))}; there are those of "
            f"{listed(sorted(map(str, found)), 20)}. Choose from them."
        )
    if len(found) < 2:
        raise ValueError(f"column {groupby!r} of {where} has one group only; expected two or more to compare.")
    if group1 is None:
        group1 = [name for name in obs[groupby].astype("category").cat.categories if name in found]
    return group1, group2
