"""Influence of metadata fields, and effects of their categories."""

from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from .._figures._finish import finished
from .._figures._palette import BASE


def head_influence(
    table: pd.DataFrame,
    *,
    base: bool = False,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Axes | None:
    """Draw how much each head of a CycleAE contributes: bars of the mean, whiskers from minimum to maximum.

    Parameters
    ----------
    table
        :meth:`hpvade.CycleAE.get_head_influence`.
    base
        Also draw the base, which holds most of the expression and makes the fields look small.
    ax
        Where to draw; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The table has no columns mean, min and max.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"mean": [9, 2], "min": [8, 1], "max": [10, 3]}, index=["base", "sex"])
    >>> ax = head_influence(table)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['sex']
    """
    if absent := [name for name in ("mean", "min", "max") if name not in table]:
        raise KeyError(f"the table has no column {absent[0]!r}; expected that of CycleAE.get_head_influence().")
    table = table if base else table.drop(index="base", errors="ignore")
    table = table.sort_values("mean", ascending=False)
    if ax is None:
        _, ax = plt.subplots(figsize=(1.6 + 0.6 * len(table), 3.2), layout="constrained")
    position, mean = np.arange(len(table)), table["mean"].to_numpy(dtype=float)
    whiskers = [mean - table["min"], table["max"] - mean]
    ax.bar(position, mean, yerr=whiskers, color=BASE[0], ecolor="0.4", capsize=3, width=0.7)
    ax.set_xticks(position, table.index.astype(str), rotation=45, ha="right", rotation_mode="anchor")
    ax.set_ylabel("L2 norm per cell")
    ax.spines[["top", "right"]].set_visible(False)
    return finished(ax, show, save)


def context_effects(
    table: pd.DataFrame,
    field: str,
    *,
    n_genes: int = 10,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Axes | None:
    """Draw the genes that the categories of a field change most, as a heat map (genes x categories).

    Parameters
    ----------
    table
        :meth:`hpvade.CycleAE.get_context_effects`.
    field
        The field to draw.
    n_genes
        Genes per category, those furthest from zero.
    ax
        Where to draw; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The table has no such field.
    ValueError
        `n_genes` is below one.

    Examples
    --------
    >>> import pandas as pd
    >>> index = pd.MultiIndex.from_tuples([("sex", "f"), ("sex", "m")], names=["field", "category"])
    >>> ax = context_effects(pd.DataFrame({"A": [1.0, -1.0], "B": [0.1, -0.1]}, index=index), "sex", n_genes=1)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['A']
    """
    fields = list(dict.fromkeys(table.index.get_level_values(0)))
    if field not in fields:
        raise KeyError(f"the table has no field {field!r}; it has {', '.join(map(str, fields))}.")
    if n_genes < 1:
        raise ValueError(f"n_genes is {n_genes}; expected at least 1.")
    effects = table.loc[field].T.astype(float)
    strongest = [effects[name].abs().nlargest(n_genes).index for name in effects]
    genes = list(dict.fromkeys(gene for names in strongest for gene in names))
    shown = effects.loc[genes]
    if ax is None:
        size = (2.4 + 0.45 * shown.shape[1], 1.4 + 0.18 * len(shown))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    limit = np.abs(shown.to_numpy()).max() or 1.0
    image = ax.imshow(shown.to_numpy(), aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_yticks(np.arange(len(shown)), shown.index.astype(str), fontsize=8)
    names = [str(name) for name in shown.columns]
    ax.set_xticks(np.arange(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, label="effect on expression", shrink=min(1.0, 14 / len(shown)))
    bar.outline.set_visible(False)
    ax.set_title(field, fontsize="medium")
    return finished(ax, show, save)
