"""The results of `tl.check_labels` in three panels."""

from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .._figures._finish import finished
from .._figures._palette import BASE
from .._keys import Keys
from .._text import check_adata

_FLAGGED = BASE[3]


def label_check(
    adata: AnnData,
    key: str = Keys.LABEL_CHECK,
    *,
    n_markers: int = 8,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw what :func:`hpvade.tl.check_labels` found.

    Parameters
    ----------
    adata
        Reference after :func:`hpvade.tl.check_labels`.
    key
        Its `key_added`.
    n_markers
        Most pairs of types in the last panel.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure with three panels: the share of the cells of each label (rows) that look like another type (columns), in
    percent; the shares of flagged cells and of doublets per label; and how often cells express markers that they lack
    (filled, red where the background does not explain it), beside the background (grey bar) and the type that has
    them (ring). The last panel is left out without markers.

    Raises
    ------
    KeyError
        There is no check in `adata` under this key.
    ValueError
        `n_markers` is below one.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.pbmc_reference()
    >>> hp.tl.check_labels(adata, "cell_type")
    >>> fig = hp.pl.label_check(adata)
    """
    check_adata(adata, "adata")
    if key not in adata.uns:
        raise KeyError(
            f"The reference has no uns[{key!r}]. Run hpvade.tl.check_labels(adata, labels_key, key_added={key!r}) "
            "first."
        )
    if n_markers < 1:
        raise ValueError(f"n_markers={n_markers}; expected at least 1.")
    result = adata.uns[key]
    types, markers = result["types"], result["markers"]
    markers = markers[markers["contradicts"] | (markers["full"].notna() & (markers["z"] > 0))]
    markers = markers.sort_values(["contradicts", "excess"], ascending=False).drop_duplicates(["type", "genes"])[
        :n_markers
    ]
    n, rows = 2 + bool(len(markers)), max(len(types), len(markers))
    fig, axes = plt.subplots(
        1,
        n,
        figsize=(4.2 * n + 0.25 * len(types), 1.9 + 0.32 * rows),
        layout="constrained",
        width_ratios=[1.2, 0.8, 1][:n],
    )
    _matrix(axes[0], types.index, result["pairs"])
    _shares(axes[1], types)
    if len(markers):
        _markers(axes[2], markers)
    return finished(fig, show, save)


def _matrix(ax: Axes, names: pd.Index, pairs: pd.DataFrame) -> None:
    table = pairs.pivot(index="type", columns="second", values="share").reindex(index=names, columns=names)
    values = table.to_numpy(dtype=float)
    ax.imshow(np.nan_to_num(values), cmap="Oranges", vmin=0, vmax=max(0.2, np.nanmax(values, initial=0)), aspect="auto")
    for row, column in zip(*np.nonzero(np.nan_to_num(values) >= 0.005), strict=True):
        dark = values[row, column] > 0.15
        ax.text(
            column,
            row,
            f"{100 * values[row, column]:.0f}",
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
    ax.set_xticks(range(len(names)), names.astype(str), rotation=90)
    ax.set_yticks(range(len(names)), names.astype(str))
    ax.set(xlabel="looks like", ylabel="label", title="% of cells")
    ax.tick_params(length=0, labelsize="small")


def _shares(ax: Axes, types: pd.DataFrame) -> None:
    position = np.arange(len(types))
    ax.barh(position - 0.2, 100 * types["flagged"], 0.4, color=_FLAGGED, label="flagged")
    ax.barh(position + 0.2, 100 * types["doublets"], 0.4, color="0.7", label="doublets")
    ax.set_yticks(position, types.index.astype(str))
    ax.invert_yaxis()
    ax.set(xlabel="% of cells", xlim=(0, max(5, 1.1 * ax.get_xlim()[1])), title="per label")
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")


def _markers(ax: Axes, rates: pd.DataFrame) -> None:
    position = np.arange(len(rates))
    red = rates["contradicts"].to_numpy(dtype=bool)
    ax.barh(position, 100 * rates["background"], 0.6, color="0.85", label="background")
    ax.scatter(100 * rates["full"], position, s=36, facecolors="none", edgecolors=BASE[0], label="type that has them")
    ax.scatter(
        100 * rates["rate"], position, s=36, color=np.where(red, _FLAGGED, BASE[0]), label="this label", zorder=3
    )
    genes = [name if len(name) < 24 else name[:21] + "..." for name in rates["genes"]]
    ax.set_yticks(position, [f"{row.type}: {g}" for row, g in zip(rates.itertuples(), genes, strict=True)])
    ax.invert_yaxis()
    ax.set(xlabel="% of cells that express them", xlim=(0, 103), title="markers of other types")
    ax.legend(
        frameon=False,
        fontsize="small",
        loc="upper left",
        bbox_to_anchor=(0, -0.15),
        ncols=3,
        columnspacing=0.8,
        handletextpad=0.3,
    )
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize="small")
