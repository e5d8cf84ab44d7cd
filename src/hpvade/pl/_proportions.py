"""Proportions of samples: stacked bars, a heat map of many, or boxes and points by group."""

from collections.abc import Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from .._figures._finish import finished
from .._figures._palette import N_COLOURS, Palette, categories, colours, stored_palette
from .._keys import Keys
from .._text import check_adata, listed
from ..evaluation._align import predicted, table
from ._heat_map import heat_map
from ._strips import strips

# above this many samples neither names nor gaps between bars can be seen
_MAX_NAMED = 60
_KINDS = ("bars", "heatmap", "box", "strip")


def proportions(
    data: AnnData | pd.DataFrame,
    key: str = Keys.PROPORTIONS,
    *,
    groupby: str | pd.Series | None = None,
    kind: str | None = None,
    order: str | Sequence[str] | None = None,
    palette: Palette | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Axes | None:
    """Draw the composition of samples: one stacked bar each, a heat map of many, or boxes by group.

    Parameters
    ----------
    data
        Bulk samples with proportions in ``.obsm[key]``, or the table itself, samples x types.
    key
        The proportions to draw.
    groupby
        Column of ``data.obs``, or a series over the samples, with the group of each.
    kind
        ``"bars"``, the default up to 60 samples; ``"heatmap"``, types x samples, in which similar samples stand side
        by side (within their groups, where there are any), the default beyond; ``"box"``, the default with `groupby`:
        boxes of median and quartiles with a point per sample, for every type and group; ``"strip"``: points and
        medians.
    order
        For bars and heat map: the name of a type, to sort the samples by it, largest first; or the samples to draw, in
        this order. A heat map in a given order is not clustered.
    palette
        Colours by name or in order: of the groups, or of the types of bars. By default those in
        ``data.uns[f"{groupby}_colors"]`` or ``data.uns[f"{key}_colors"]``, where scanpy keeps them; else the seven of
        Okabe and Ito, which colour-blind readers tell apart, then darker and lighter ones, then the same hatched.
    ax
        Where to draw; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The axes. More than 60 samples are drawn without names, and bars without gaps. Samples that were
    skipped (NaN) have no bar, and their names say so; the other kinds leave them out.

    Raises
    ------
    KeyError
        When `order` names no type or samples that do not exist, `groupby` is no column, or `palette` misses a name.
    ValueError
        When `kind` is unknown or needs `groupby`, or groups are missing (NaN).

    Examples
    --------
    >>> import pandas as pd
    >>> ax = proportions(pd.DataFrame({"T": [0.6, 0.7], "B": [0.4, 0.3]}, index=["s1", "s2"]), order="T")
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['s2', 's1']
    """
    check_adata(data, "data", frame=True)
    values = table(data, key) if isinstance(data, AnnData) else data
    groups = None if groupby is None else _groups(data, values.index, groupby)
    if kind is None:
        kind = "box" if groups is not None else "bars" if len(values) <= _MAX_NAMED else "heatmap"
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} is unknown; expected one of {listed(_KINDS)}.")
    if kind in ("box", "strip") and groups is None:
        raise ValueError(f"kind={kind!r} sets groups side by side: pass groupby, a column of obs.")
    shades = None
    if groups is not None:
        names = list(groups.cat.categories)
        if isinstance(groupby, str):
            palette = stored_palette(data, groupby, categories(data.obs[groupby]), palette)
        shades = dict(zip(names, colours(names, palette), strict=True))
    if kind == "bars":
        values = _ordered(values, order)
        own = palette if groups is None else None
        ax = _bars(values, stored_palette(data, key, list(values.columns), own), ax)
    else:
        values = predicted(_ordered(values, order)).astype(float)
        groups = None if groups is None else groups.loc[values.index]
        if kind == "heatmap":
            ax = heat_map(values, groups, shades, ax, cluster=order is None)
        else:
            ax = strips(values, groups, shades, ax, boxes=kind == "box")
    return finished(ax, show, save)


def _groups(data, samples: pd.Index, groupby: str | pd.Series) -> pd.Series:
    """The group of every sample, categories in order and without empty ones."""
    if isinstance(groupby, str):
        if not isinstance(data, AnnData):
            raise ValueError(f"groupby={groupby!r} is a column of obs; for a table pass the series itself.")
        if groupby not in data.obs:
            raise KeyError(f"groupby={groupby!r} is no column of obs; it has {listed(data.obs, 20)}.")
        groups = data.obs[groupby].set_axis(samples)
    else:
        groups = pd.Series(groupby).reindex(samples)
    if missing := int(groups.isna().sum()):
        raise ValueError(f"groupby is missing (NaN) for {missing} samples: {listed(samples[groups.isna()])}.")
    if isinstance(groups.dtype, pd.CategoricalDtype):
        levels = groups.cat.remove_unused_categories().cat.categories
    else:
        levels = sorted(groups.unique())
    return groups.astype(object).map(str).astype(pd.CategoricalDtype([str(level) for level in levels]))


def _bars(values: pd.DataFrame, palette: Palette | None, ax: Axes | None) -> Axes:
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
