"""Intervals of proportions, one panel per type."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .._figures._palette import colours
from .._text import listed
from ..evaluation._align import predicted

_MAX_NAMED = 40
_BOUNDS = ["lower", "median", "upper"]


def intervals(table: pd.DataFrame, truth: pd.DataFrame | None = None, *, ncols: int = 4) -> Figure:
    """Draw the interval of every sample, one panel per type, beside measured proportions where there are any.

    Parameters
    ----------
    table
        Samples x (type, bound), from :meth:`hpvade.HPVADE.get_proportion_intervals`; with its `mapping` for a truth in
        coarser classes.
    truth
        Measured proportions, samples x types; types and samples that it lacks are drawn without.
    ncols
        Panels per row.

    Returns
    -------
    The figure. Samples are ordered by their median in every panel; the title says how many of the measured values lie
    inside. More than 40 samples are drawn without names.

    Raises
    ------
    ValueError
        `table` is no table of intervals, or of NaN alone, or `truth` shares no type or no sample with it.

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
    if table.columns.nlevels != 2 or not set(_BOUNDS) <= set(table.columns.get_level_values(1)):
        raise ValueError(
            "table is no table of intervals: expected columns (type, bound) with lower, median and upper, as from "
            "HPVADE.get_proportion_intervals."
        )
    table = predicted(table)
    types = list(dict.fromkeys(table.columns.get_level_values(0)))
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
    width = max(2.4, 0.16 * min(len(table), _MAX_NAMED))
    size = (width * n_columns, (2.6 if named else 2.1) * n_rows)
    fig, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    for ax, name, colour in zip(axes.flat, types, colours(types), strict=False):
        low, middle, high = (table[name, bound].to_numpy(dtype=float) for bound in _BOUNDS)
        order = np.argsort(middle, kind="stable")
        position = np.arange(len(order))
        ax.vlines(position, low[order], high[order], color=colour, linewidth=2.5 if named else 1, alpha=0.6)
        ax.scatter(position, middle[order], color=colour, s=14 if named else 4, zorder=2)
        title = str(name)
        if truth is not None and truth[name].notna().any():
            measured = truth[name].to_numpy(dtype=float)
            known = np.isfinite(measured)
            inside = (measured >= low) & (measured <= high)
            ax.scatter(position, measured[order], color="black", marker="_", s=60 if named else 12, zorder=3)
            title += f": {inside.sum()} of {known.sum()}"
        ax.set_title(title, fontsize="medium")
        ax.set_xticks(position if named else [], table.index[order] if named else [], rotation=90, fontsize="x-small")
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize="x-small")
    for ax in axes.flat[len(types) :]:
        ax.remove()
    fig.supylabel("proportion", fontsize="medium")
    return fig
