"""Bars of the genes that move most along each axis of a bottleneck."""

from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .._figures._finish import finished
from .._figures._palette import BASE


def loadings(
    table: pd.DataFrame,
    *,
    n_genes: int = 10,
    axes: list | np.ndarray | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw, for every axis, the genes with the largest loadings of both signs.

    Parameters
    ----------
    table
        Genes x axes, from `IVAE.get_loadings`.
    n_genes
        Genes per axis: those with the largest absolute loadings, sorted by loading.
    axes
        Where to draw, one per column of `table`; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure.

    Raises
    ------
    ValueError
        When the table is empty or holds values that are not finite, or there are fewer `axes` than columns.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"bottleneck_0": [0.5, -2.0, 1.0]}, index=["MS4A1", "CD3D", "LYZ"])
    >>> [label.get_text() for label in loadings(table, n_genes=2).axes[0].get_yticklabels()]
    ['CD3D', 'LYZ']
    """
    if not table.size or not np.isfinite(table.to_numpy(dtype=float)).all() or n_genes < 1:
        raise ValueError(f"a table of {table.shape[0]} genes x {table.shape[1]} axes; expected finite loadings.")
    if axes is None:
        height = 1.0 + 0.2 * min(n_genes, len(table))
        _, axes = plt.subplots(1, table.shape[1], figsize=(3.2 * table.shape[1], height), layout="constrained")
    axes = np.ravel(axes)
    if len(axes) < table.shape[1]:
        raise ValueError(f"there are {len(axes)} axes for {table.shape[1]} columns; pass one per column.")
    for ax, (name, column) in zip(axes, table.items(), strict=False):
        top = column[column.abs().sort_values(ascending=False, kind="stable").index[:n_genes]].sort_values()
        ax.barh(np.arange(len(top)), top, color=np.where(top > 0, BASE[3], BASE[0]), height=0.75)
        ax.set_yticks(np.arange(len(top)), top.index.astype(str), fontsize=8)
        ax.axvline(0, color="0.3", linewidth=0.8)
        ax.set_title(str(name).replace("_", " "), fontsize="medium")
        ax.set_xlabel("change of log proportion per unit", fontsize="small")
        ax.tick_params(axis="x", labelsize="small")
        ax.spines[["top", "right", "left"]].set_visible(False)
    return finished(axes[0].figure, show, save)
