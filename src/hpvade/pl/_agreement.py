"""Predicted against true proportions, one panel per type."""

from collections.abc import Mapping, Sequence
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
from ..evaluation import _metrics as metrics
from ..evaluation._align import compare, mapping_of, table


def agreement(
    data: AnnData | pd.DataFrame,
    truth_key: str = Keys.TRUE_PROPORTIONS,
    *,
    truth: pd.DataFrame | None = None,
    key: str = Keys.PROPORTIONS,
    mapping: Mapping[str, str] | None = None,
    renormalize: bool = True,
    ncols: int = 4,
    axes: Sequence[Axes] | np.ndarray | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw predicted against true proportions, with the identity line, r, RMSE and bias in every panel.

    Parameters
    ----------
    data
        Bulk samples with predictions in ``.obsm[key]``, or the predictions, samples x types.
    truth_key
        The true proportions in ``data.obsm``.
    truth
        The true proportions, samples x truth columns, instead of ``data.obsm[truth_key]``; needed when `data` is one.
    key
        The predictions in ``data.obsm``.
    mapping, renormalize
        How types are matched to the truth's columns, as in :func:`hpvade.tl.evaluate`.
    ncols
        Panels per row.
    axes
        Where to draw, at least one per type; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure. r is Pearson's correlation across samples ("-" when undefined), bias the mean of prediction minus truth.

    Raises
    ------
    ValueError
        When `data` is a table and `truth` is not given, there are fewer `axes` than types, or the two sides cannot be
        aligned; see :func:`hpvade.tl.compare`.
    KeyError
        When ``data.obsm`` misses one of the tables.

    Examples
    --------
    >>> import pandas as pd
    >>> truth = pd.DataFrame({"T": [0.6, 0.7, 0.5], "B": [0.4, 0.3, 0.5]}, index=["s1", "s2", "s3"])
    >>> fig = agreement(0.9 * truth + 0.05, truth=truth)
    >>> [ax.get_title() for ax in fig.axes]
    ['T', 'B']
    """
    check_adata(data, "data", frame=True)
    if isinstance(data, AnnData):
        prediction = table(data, key)
        mapping = mapping_of(data, truth_key, mapping)
        truth = table(data, truth_key) if truth is None else truth
    elif truth is None:
        raise ValueError("Predictions given as a table need the true proportions: pass truth=DataFrame.")
    else:
        prediction = data
    prediction, truth = compare(prediction, truth, mapping, renormalize)
    n_types = truth.shape[1]
    own = axes is None
    axes = np.ravel(_grid(n_types, min(ncols, n_types)) if own else axes)
    if len(axes) < n_types:
        raise ValueError(f"There are {len(axes)} axes for {n_types} types; pass one per type.")
    for name, ax in zip(truth.columns, axes, strict=False):
        _panel(ax, prediction[name].to_numpy(), truth[name].to_numpy())
        ax.set_title(name, fontsize="medium")
        if not own:
            ax.set(xlabel="true proportion", ylabel="predicted proportion")
    return finished(axes[0].figure, show, save)


def _grid(n_types: int, ncols: int) -> np.ndarray:
    """Square panels with one label for each side of the figure; the rest of the last row stays empty."""
    nrows = -(-n_types // ncols)
    fig, axes = plt.subplots(
        nrows, ncols, figsize=(2.5 * ncols + 0.4, 2.5 * nrows + 0.4), squeeze=False, layout="constrained"
    )
    for ax in axes.flat[n_types:]:
        ax.remove()
    fig.supxlabel("true proportion", fontsize="medium")
    fig.supylabel("predicted proportion", fontsize="medium")
    return axes.flat[:n_types]


def _panel(ax: Axes, predicted: np.ndarray, true: np.ndarray) -> None:
    low, high = min(0.0, predicted.min(), true.min()), max(predicted.max(), true.max(), 1e-6)
    limits = (low - 0.05 * (high - low), high + 0.05 * (high - low))
    ax.axline((0, 0), slope=1, color="0.6", linewidth=1, linestyle="--", zorder=1)
    ax.scatter(true, predicted, s=18, color=BASE[0], alpha=0.75, linewidths=0, zorder=2)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    ax.locator_params(nbins=4)
    # the same ticks on both sides
    ax.set_xticks([tick for tick in ax.get_yticks() if limits[0] <= tick <= limits[1]])
    ax.set_yticks(ax.get_xticks())
    ax.tick_params(labelsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    r, bias = metrics.pearson(predicted, true), metrics.bias(predicted, true)
    text = f"r = {'-' if np.isnan(r) else f'{r:.2f}'}\nRMSE = {metrics.rmse(predicted, true):.3f}\nbias = {bias:+.3f}"
    # in the corner off the identity line that has fewer points
    x, y = ((values - limits[0]) / (limits[1] - limits[0]) for values in (true, predicted))
    above, below = ((x < 0.55) & (y > 0.7)).sum(), ((x > 0.45) & (y < 0.3)).sum()
    x, y, ha, va = (0.04, 0.97, "left", "top") if above <= below else (0.97, 0.04, "right", "bottom")
    ax.text(x, y, text, transform=ax.transAxes, ha=ha, va=va, fontsize="small")
