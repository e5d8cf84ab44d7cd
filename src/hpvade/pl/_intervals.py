"""Intervals of proportions, one panel per type."""

from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

from .._figures._finish import finished
from .._figures._palette import Palette, colours, stored_palette
from .._keys import Keys
from .._text import check_adata, listed
from ..evaluation._align import predicted
from ..evaluation._align import table as table_of

_MAX_NAMED = 40
_BOUNDS = ["lower", "median", "upper"]


def intervals(
    data: AnnData | pd.DataFrame,
    truth: pd.DataFrame | str | None = None,
    *,
    key: str = Keys.PROPORTIONS,
    order: str | None = None,
    ncols: int = 4,
    palette: Palette | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw the interval of every sample, one panel per type, beside measured proportions where there are any.

    Parameters
    ----------
    data
        Bulk samples with proportions in ``.obsm[key]`` and their bounds in ``.obsm[key + "_lower"]`` and
        ``.obsm[key + "_upper"]``; or the table of :meth:`hpvade.HPVADE.get_proportion_intervals`, samples x
        (type, bound), with its `mapping` for a truth in coarser classes.
    truth
        Measured proportions, samples x types, or their key in ``data.obsm``; types and samples that it lacks are drawn
        without.
    key
        The proportions in ``data.obsm``.
    order
        Samples stand in the same order in every panel: that of `data`, or by a type of this name, smallest first.
    ncols
        Panels per row.
    palette
        Colours by type, or in the order of the types; by default those in ``data.uns[f"{key}_colors"]``, if any.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure. The title says how many of the measured values lie inside. More than 40 samples are drawn without names.

    Raises
    ------
    KeyError
        ``data.obsm`` lacks the proportions, the bounds or the truth, or `order` names no type.
    ValueError
        `data` is no table of intervals, or of NaN alone, or `truth` shares no type or no sample with it.

    Warns
    -----
    UserWarning
        Samples were skipped by the model (rows of NaN); they are left out.

    Examples
    --------
    >>> import pandas as pd
    >>> columns = pd.MultiIndex.from_product([["T"], ["lower", "median", "upper"]])
    >>> fig = intervals(pd.DataFrame([[0.1, 0.2, 0.3]], ["s1"], columns), pd.DataFrame({"T": [0.25]}, ["s1"]))
    >>> fig.axes[0].get_title()
    'T: 1 of 1'
    """
    check_adata(data, "data", frame=True)
    table = _of_bulk(data, key) if isinstance(data, AnnData) else data
    if table.columns.nlevels != 2 or not set(_BOUNDS) <= set(table.columns.get_level_values(1)):
        raise ValueError(
            "data is no table of intervals: expected columns (type, bound) with lower, median and upper, as from "
            "HPVADE.get_proportion_intervals."
        )
    table = predicted(table)
    types = list(dict.fromkeys(table.columns.get_level_values(0)))
    if order is not None:
        if order not in types:
            raise KeyError(f"order={order!r} is no type; the types are {listed(types, 30)}.")
        table = table.sort_values((order, "median"), kind="stable")
    truth = table_of(data, truth) if isinstance(truth, str) else truth
    if truth is not None:
        if not set(types) & set(truth.columns) or not table.index.isin(truth.index).any():
            raise ValueError(
                f"truth shares no type or no sample with the intervals, whose types are {listed(types)}: rename its "
                "columns and rows, or pass mapping= to get_proportion_intervals."
            )
        truth = truth.reindex(index=table.index, columns=types)
    n_columns = min(ncols, len(types))
    n_rows = -(-len(types) // n_columns)
    named = len(table) <= _MAX_NAMED
    width = max(2.4, 0.16 * len(table)) if named else 4.0
    # one order, so that the names of the lowest panels are those of all
    size = (width * n_columns, 1.9 * n_rows + (0.9 if named else 0.3))
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    shades = colours(types, stored_palette(data, key, types, palette))
    for i, (ax, name, colour) in enumerate(zip(axes.flat, types, shades, strict=False)):
        inside = _panel(ax, table[name], None if truth is None else truth[name].to_numpy(dtype=float), colour)
        ax.set_title(f"{name}: {inside}" if inside else str(name), fontsize="medium")
        lowest = i + n_columns >= len(types)
        names = table.index.astype(str) if lowest else [""] * len(table)
        ax.set_xticks(np.arange(len(table)) if named else [], names if named else [], rotation=90)
        ax.tick_params(labelsize="x-small")
    for ax in axes.flat[len(types) :]:
        ax.remove()
    fig.supylabel("proportion of cells", fontsize="medium")
    if not named:
        fig.supxlabel(f"{len(table)} samples, in one order", fontsize="small")
    return finished(fig, show, save)


def _of_bulk(bulk: AnnData, key: str) -> pd.DataFrame:
    """Estimates with their bounds, as `get_proportion_intervals` lays them out; types without bounds are left out."""
    missing = [name for name in (Keys.bound(key, "lower"), Keys.bound(key, "upper")) if name not in bulk.obsm]
    if missing and key in bulk.obsm:
        raise KeyError(
            f"bulk.obsm has no {listed(missing)}: store the bounds of get_proportion_intervals there, or pass "
            "its table."
        )
    middle = table_of(bulk, key)
    lower, upper = (table_of(bulk, Keys.bound(key, bound)) for bound in ("lower", "upper"))
    types = [name for name in middle.columns if name in lower.columns]
    columns = pd.MultiIndex.from_product([types, _BOUNDS], names=["type", "bound"])
    values = np.stack([lower[types], middle[types], upper[types]], axis=2)
    return pd.DataFrame(values.reshape(len(middle), -1), middle.index, columns)


def _panel(ax, table: pd.DataFrame, measured: np.ndarray | None, colour) -> str:
    """The intervals of one type, and the measured values; how many of these lie inside, in words."""
    few = len(table) <= _MAX_NAMED
    low, middle, high = (table[bound].to_numpy(dtype=float) for bound in _BOUNDS)
    position = np.arange(len(table))
    ax.vlines(position, low, high, color=colour, linewidth=2.5 if few else 1, alpha=0.6)
    ax.scatter(position, middle, color=colour, s=14 if few else 4, zorder=2)
    known = np.isfinite(measured) if measured is not None else np.zeros(len(table), dtype=bool)
    if known.any():
        ax.scatter(position, measured, color="black", marker="_", s=60 if few else 12, zorder=3)
    ax.set_ylim(bottom=0)
    ax.spines[["top", "right"]].set_visible(False)
    inside = ((measured >= low) & (measured <= high)).sum() if known.any() else 0
    return f"{inside} of {known.sum()}" if known.any() else ""
