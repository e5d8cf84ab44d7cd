"""Stacked bars of proportions."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from .._figures._palette import N_COLOURS, colours
from .._keys import Keys
from .._text import listed
from ..evaluation._align import table

# above this many samples neither names nor gaps between bars can be seen
_MAX_NAMED = 60


def proportions(
    data: AnnData | pd.DataFrame,
    key: str = Keys.PROPORTIONS,
    *,
    order: str | Sequence[str] | None = None,
    palette: Mapping[str, str] | Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one stacked bar per sample.

    Parameters
    ----------
    data
        Bulk samples with proportions in ``.obsm[key]``, or the table itself, samples x types.
    key
        The proportions to draw.
    order
        The name of a type, to sort the samples by it, largest first; or the samples to draw, in this order.
    palette
        Colours by type, or in the order of the types. By default the seven of Okabe and Ito, which
        colour-blind readers tell apart, then darker and lighter ones, then the same hatched.
    ax
        Where to draw; a new figure by default.

    Returns
    -------
    The axes. More than 60 samples are drawn without gaps and names. Samples that were skipped (NaN) have no bar, and
    their names say so.

    Raises
    ------
    KeyError
        When `order` names no type or samples that do not exist, or `palette` misses a type.

    Examples
    --------
    >>> import pandas as pd
    >>> ax = proportions(pd.DataFrame({"T": [0.6, 0.7], "B": [0.4, 0.3]}, index=["s1", "s2"]), order="T")
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['s2', 's1']
    """
    values = _ordered(table(data, key) if isinstance(data, AnnData) else data, order)
    skipped = values.isna().all(axis=1).to_numpy()
    values = values.fillna(0.0)
    n_samples, n_types = values.shape
    named = n_samples <= _MAX_NAMED
    if ax is None:
        width = 2.6 + np.clip(0.28 * n_samples, 2.0, 10.0)
        _, ax = plt.subplots(figsize=(width, max(3.6, 0.2 * n_types + 0.6)), layout="constrained")
    edges = np.arange(n_samples + 1) - 0.5
    bottom = np.zeros(n_samples)
    for i, (name, colour) in enumerate(zip(values.columns, colours(values.columns, palette), strict=True)):
        height = values[name].to_numpy(dtype=float)
        hatch = "////" if palette is None and i >= N_COLOURS else None
        look = {"facecolor": colour, "hatch": hatch, "edgecolor": "white", "label": str(name)}
        if named:
            ax.bar(np.arange(n_samples), height, 0.85, bottom, linewidth=0.4, **look)
        else:  # one area per type: drawn in a fraction of the time, and small in a vector file
            low, high = (np.append(y, y[-1]) for y in (bottom, bottom + height))
            ax.fill_between(edges, low, high, step="post", linewidth=0, **look)
        bottom += height
    ax.set(xlim=(-0.6, n_samples - 0.4), ylim=(0, max(1.0, bottom.max(initial=0.0))), ylabel="proportion of cells")
    if named:
        names = [f"{name} (skipped)" if gone else str(name) for name, gone in zip(values.index, skipped, strict=True)]
        ax.set_xticks(np.arange(n_samples), names, rotation=90, fontsize="small")
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{n_samples} samples")
    ax.tick_params(axis="x", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    # from top to bottom, as the bars are stacked
    ax.legend(
        handles[::-1],
        labels[::-1],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
        frameon=False,
        ncols=1 + (n_types - 1) // 25,
        fontsize="small",
    )
    return ax


def _ordered(frame: pd.DataFrame, order: str | Sequence[str] | None) -> pd.DataFrame:
    if order is None:
        return frame
    if isinstance(order, str):
        if order not in frame:
            raise KeyError(f"order={order!r} is no type; the types are {listed(frame.columns, 30)}.")
        return frame.sort_values(order, ascending=False, kind="stable")
    missing = [name for name in order if name not in frame.index]
    if missing:
        raise KeyError(f"order names samples that do not exist: {listed(missing)}.")
    return frame.loc[list(order)]
