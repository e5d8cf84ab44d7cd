"""The results of `tl.diagnose` in four panels."""

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
from .._text import check_adata, listed
from ..tl._verdict import PERCENTILE, UNEXPLAINED

_MAX_NAMED = 40  # above it, names of samples cannot be read
_FLAGGED = BASE[3]


def diagnostics(
    bulk: AnnData,
    key: str = Keys.DIAGNOSIS,
    *,
    n_genes: int = 12,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw what :func:`hpvade.tl.diagnose` found.

    Parameters
    ----------
    bulk
        Bulk samples after :func:`hpvade.tl.diagnose`.
    key
        Its `key_added`.
    n_genes
        Genes in the last panel.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure with four panels: the percentile of each sample's residual among simulated samples; the share of
    expression that the fit does not explain; the cohort's mean composition (with standard deviations) beside the
    reference's; and the informative genes that the fit misses most. Flagged samples are red, limits are dashed and
    say what they are.

    Raises
    ------
    KeyError
        There is no diagnosis in `bulk` under this key.
    ValueError
        `n_genes` is below one.

    Examples
    --------
    >>> import hpvade as hp
    >>> bulk = hp.datasets.pbmc_bulk()
    >>> model = hp.HPVADE.load("pbmc_model/")  # doctest: +SKIP
    >>> hp.tl.diagnose(bulk, model)  # doctest: +SKIP
    >>> fig = diagnostics(bulk)  # doctest: +SKIP
    """
    columns = {name: Keys.diagnosis(key, name) for name in ("percentile", "unexplained", "flagged")}
    check_adata(bulk, "bulk")
    missing = [column for column in columns.values() if column not in bulk.obs]
    if key not in bulk.uns or missing:
        what = f"no uns[{key!r}]" if key not in bulk.uns else f"no obs columns {listed(missing)}"
        raise KeyError(f"The bulk has {what}. Run hpvade.tl.diagnose(bulk, model, key_added={key!r}) first.")
    if n_genes < 1:
        raise ValueError(f"n_genes={n_genes}; expected at least 1.")
    summary = bulk.uns[key]
    rows = pd.DataFrame({name: bulk.obs[column].to_numpy() for name, column in columns.items()}, index=bulk.obs_names)
    width = 7 + 0.14 * min(len(rows), _MAX_NAMED)
    fig, axes = plt.subplots(2, 2, figsize=(width, 6.4), layout="constrained", width_ratios=[1.2, 1])
    _samples(
        axes[0, 0], rows, "percentile", PERCENTILE, f"limit: {PERCENTILE:.0f} %", "percentile among\nsimulated samples"
    )
    axes[0, 0].set_ylim(-3, 112)
    _samples(
        axes[1, 0], rows, "unexplained", UNEXPLAINED, f"limit: {UNEXPLAINED:.2f}", "share of expression\nnot explained"
    )
    axes[1, 0].set_ylim(
        min(0, 1.1 * rows["unexplained"].min()), max(1.3 * UNEXPLAINED, 1.1 * rows["unexplained"].max())
    )
    _composition(axes[0, 1], summary["types"])
    _genes(axes[1, 1], summary["residual_genes"], n_genes)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize="small")
    return finished(fig, show, save)


def _samples(ax: Axes, rows: pd.DataFrame, name: str, limit: float, said: str, label: str) -> None:
    colour = np.where(rows["flagged"].astype(bool), _FLAGGED, BASE[0])
    ax.scatter(np.arange(len(rows)), rows[name], color=colour, s=22, linewidths=0, zorder=2)
    ax.axhline(limit, color="0.5", linewidth=1, linestyle="--", zorder=1)
    # on white, so that points behind do not cross it
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
    words = {"ha": "right", "fontsize": "small", "color": "0.3", "bbox": box}
    ax.annotate(said, (1, limit), (-2, 3), ax.get_yaxis_transform(), "offset points", **words)
    ax.set(ylabel=label, xlim=(-0.6, len(rows) - 0.4))
    if len(rows) <= _MAX_NAMED:
        ax.set_xticks(np.arange(len(rows)), rows.index.astype(str), rotation=90)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{len(rows)} samples")


def _composition(ax: Axes, types: pd.DataFrame) -> None:
    position = np.arange(len(types))
    ax.barh(position + 0.2, types["mean"], 0.4, xerr=types["sd"].fillna(0), color=BASE[0], label="this bulk")
    ax.barh(position - 0.2, types["reference"], 0.4, color="0.75", label="reference")
    ax.set_yticks(position, types.index.astype(str))
    ax.invert_yaxis()
    ax.set_xlabel("mean fraction of cells", fontsize="small")
    ax.legend(frameon=False, fontsize="small")


def _genes(ax: Axes, genes: pd.DataFrame, n_genes: int) -> None:
    genes = genes[genes["informative"].astype(bool)][:n_genes]
    ax.barh(np.arange(len(genes)), 100 * genes["excess"], color=BASE[1])
    ax.set_yticks(np.arange(len(genes)), genes.index.astype(str))
    ax.invert_yaxis()
    ax.set_xlabel("above the fit, % of expression", fontsize="small")
