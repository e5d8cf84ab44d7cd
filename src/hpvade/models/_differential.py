"""Differential expression of scvi-tools, after a look at the groups that it compares."""

import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import listed

_RAW_SCALE = "_scvi_raw_norm_scaling"  # a column that scvi-tools leaves behind


class DifferentialExpression:
    """Differential expression of two groups of cells; stands before scvi-tools' class in a model's bases."""

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
        if groupby is None and idx1 is None:
            raise ValueError(
                "nothing to compare: pass groupby=, a column of adata.obs, or the cells as idx1= and idx2=."
            )
        if groupby is not None:
            _check_groups(data, groupby, group1, group2)
        for name, cells in (("idx1", idx1), ("idx2", idx2)):
            if cells is not None and not isinstance(cells, str) and not len(np.arange(data.n_obs)[cells]):
                raise ValueError(f"{name} selects no cells; expected one or more.")
        was_there = _RAW_SCALE in data.obs
        try:
            with np.errstate(divide="ignore", invalid="ignore"):  # of genes without counts in a group
                return super().differential_expression(data, groupby, group1, group2, idx1, idx2, *args, **kwargs)
        finally:
            if not was_there and _RAW_SCALE in data.obs:
                del data.obs[_RAW_SCALE]


def _check_groups(adata: AnnData, groupby: str, group1, group2) -> None:
    if groupby not in adata.obs:
        raise KeyError(f"groupby={groupby!r} is not a column of adata.obs; found {list(adata.obs)}.")
    found = set(adata.obs[groupby].dropna().unique())
    wanted = [] if group1 is None else [group1] if np.isscalar(group1) else list(group1)
    wanted += [] if group2 in (None, "rest") else [group2]
    if unknown := [name for name in wanted if name not in found]:
        raise ValueError(
            f"adata.obs[{groupby!r}] has no cells of {listed(map(str, unknown))}; there are those of "
            f"{listed(sorted(map(str, found)), 20)}. Choose from them."
        )
    if len(found) < 2:
        raise ValueError(f"adata.obs[{groupby!r}] has one group only; expected two or more to compare.")
