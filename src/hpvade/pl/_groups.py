"""Differences between groups of samples, with their intervals."""

from collections.abc import Mapping
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from .._figures._finish import finished
from .._figures._palette import Palette, categories, colours, stored_palette
from .._keys import Keys
from .._text import check_adata, listed

_COLUMNS = ["type", "group", "reference", "log2_ratio", "log2_lower", "log2_upper", "fdr"]


def groups(
    data: AnnData | pd.DataFrame,
    key: str = Keys.GROUPS,
    *,
    alpha: float = 0.1,
    sort: bool = True,
    palette: Palette | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Axes | None:
    """Draw what :func:`hpvade.tl.compare_groups` found: the log-ratio of every type, with its interval and FDR.

    Parameters
    ----------
    data
        Bulk samples after :func:`hpvade.tl.compare_groups`, or its table.
    key
        Its `key_added`.
    alpha
        Types with an FDR up to this are filled, the others hollow.
    sort
        Types by their largest FDR-significant change first; else in their own order.
    palette
        Colours of the groups, by name or in order; by default those in ``data.uns[f"{groupby}_colors"]``, if any.
    ax
        Where to draw; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The axes: types from top to bottom, one line per group. Types without an answer (NaN) are left out.

    Raises
    ------
    KeyError
        There is no comparison in ``data.uns`` under this key, or the table is none.
    ValueError
        Every type is without an answer, or `alpha` is not between 0 and 1.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"type": ["B", "T"], "group": "ill", "reference": "ctrl", "log2_ratio": [0.1, 1.0]})
    >>> table = table.assign(log2_lower=table.log2_ratio - 0.5, log2_upper=table.log2_ratio + 0.5, fdr=[0.7, 0.01])
    >>> [label.get_text() for label in groups(table).get_yticklabels()]
    ['T', 'B']
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha!r}; expected a share between 0 and 1, such as 0.1.")
    found, shades = _table(data, key, palette)
    found = found.dropna(subset=["log2_ratio", "fdr"])
    if found.empty:
        raise ValueError("No type has an answer: all are NaN.")
    if sort:
        best = found.assign(size=-found["log2_ratio"].abs()).sort_values(["fdr", "size"], kind="stable")
        types = list(dict.fromkeys(best["type"].astype(str)))
    else:
        types = list(dict.fromkeys(found["type"].astype(str)))
    names = list(dict.fromkeys(found["group"].astype(str)))
    step = 0.8 / len(names)
    if ax is None:
        size = (6.0, 1.3 + len(types) * max(0.28, 0.2 * len(names)))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    for i, name in enumerate(names):
        part = found[found["group"].astype(str) == name]
        y = part["type"].astype(str).map(types.index).to_numpy() - 0.4 + step * (i + 0.5)
        ax.hlines(y, part["log2_lower"], part["log2_upper"], color=shades[name], linewidth=1.4, zorder=2)
        sure = (part["fdr"] <= alpha).to_numpy()
        fill = [shades[name] if one else "white" for one in sure]
        ax.scatter(part["log2_ratio"], y, s=34, color=fill, edgecolors=[shades[name]], linewidths=1.4, zorder=3)
        for at, fdr, one in zip(y, part["fdr"], sure, strict=True):
            words = {"fontsize": "small", "va": "center", "color": "black" if one else "0.5"}
            ax.text(1.02, at, _fdr(fdr), transform=ax.get_yaxis_transform(), **words)
    ax.axvline(0, color="0.4", linewidth=1, zorder=1)
    ax.set_yticks(np.arange(len(types)), types)
    ax.set_ylim(len(types) - 0.5, -0.5)
    reference = found["reference"].iloc[0]
    compared = f"to {reference}" if len(names) > 1 else f"of {names[0]} to {reference}"
    ax.set_xlabel(f"log2 ratio {compared}, against the mean of all types", fontsize="small")
    ax.text(1.02, 1.0, "FDR", transform=ax.transAxes, fontsize="small", va="bottom", color="0.3")
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    if len(names) > 1:
        handles = [Line2D([], [], color=shades[name], marker="o", label=name) for name in names]
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
        ax.legend(handles=handles, ncols=4, frameon=False, fontsize="small", **place)
    return finished(ax, show, save)


def _table(data: AnnData | pd.DataFrame, key: str, palette: Palette | None) -> tuple[pd.DataFrame, dict]:
    """The results, and the colour of every group."""
    check_adata(data, "data", frame=True)
    if isinstance(data, AnnData):
        if key not in data.uns:
            raise KeyError(
                f"bulk.uns has no {key!r}. Run hpvade.tl.compare_groups(bulk, groupby, key_added={key!r}) first."
            )
        found, groupby = data.uns[key]["results"], str(data.uns[key]["params"]["groupby"])
    else:
        found, groupby = data, ""
    if missing := [name for name in _COLUMNS if name not in found]:
        raise KeyError(f"the table has no column {listed(missing)}; expected that of tl.compare_groups.")
    names = list(dict.fromkeys(found["group"].astype(str)))
    every = names
    if groupby and groupby in data.obs:  # the reference has a colour, too
        every = categories(data.obs[groupby])
        palette = stored_palette(data, groupby, every, palette)
        used = set(data.obs[groupby].dropna().astype(str))
        every = every if palette is not None else [name for name in every if name in used]
    every = every if set(names) <= set(every) and not isinstance(palette, Mapping) else names
    return found, dict(zip(every, colours(every, palette), strict=True))


def _fdr(value: float) -> str:
    return f"{value:.0e}" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"
