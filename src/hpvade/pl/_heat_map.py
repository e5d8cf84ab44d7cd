"""Types x samples as a heat map, similar samples side by side."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.patches import Patch, Rectangle
from scipy.cluster.hierarchy import leaves_list, linkage

_MAX_NAMED = 60
_MAX_OPTIMAL = 400  # samples whose leaves are turned to the best order, which takes the square of their number


def heat_map(
    values: pd.DataFrame, groups: pd.Series | None, shades: Mapping | None, ax: Axes | None, *, cluster: bool
) -> Axes:
    """Fractions on a square-root scale, so that rare types are seen; samples by similarity, inside groups if any."""
    if groups is not None:
        parts = [values[(groups == name).to_numpy()] for name in groups.cat.categories]
        values = pd.concat([_clustered(part) if cluster else part for part in parts])
        groups = groups.loc[values.index]
    elif cluster:
        values = _clustered(values)
    values = values[values.mean().sort_values(ascending=False, kind="stable").index]
    n, n_types = values.shape
    named = n <= _MAX_NAMED
    if ax is None:
        longest = max(len(str(name)) for name in values.index) if named else 0
        size = 2.6 + 0.075 * max(map(len, map(str, values.columns))) + np.clip(0.15 * n, 2.4, 9)
        height = 1.0 + 0.2 * n_types + 0.065 * longest + (0.5 if groups is not None else 0)
        _, ax = plt.subplots(figsize=(size, height), layout="constrained")
    norm = PowerNorm(0.5, 0, max(float(values.to_numpy().max()), 1e-9))
    image = ax.imshow(values.T.to_numpy(), aspect="auto", cmap="viridis", norm=norm, interpolation="nearest")
    ax.set_yticks(np.arange(n_types), values.columns.astype(str), fontsize="small")
    if named:
        ax.set_xticks(np.arange(n), values.index.astype(str), rotation=90, fontsize=8)
    else:
        ax.set_xticks([])
        ax.set_xlabel(f"{n} samples" + (", similar ones side by side" if cluster else ""))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, label="proportion of cells", aspect=16, shrink=min(1.0, 12 / n_types))
    bar.outline.set_visible(False)
    if groups is not None:
        _mark(ax, groups, shades)
    return ax


def _clustered(values: pd.DataFrame) -> pd.DataFrame:
    """Similar samples side by side: average linkage on square roots of fractions (Hellinger's distance)."""
    if len(values) < 3:
        return values
    tree = linkage(np.sqrt(values.to_numpy()), "average", optimal_ordering=len(values) <= _MAX_OPTIMAL)
    return values.iloc[leaves_list(tree)]


def _mark(ax: Axes, groups: pd.Series, shades: Mapping) -> None:
    """A band of the groups' colours above the samples."""
    start = -0.5
    for name in groups.cat.categories:
        width = int((groups == name).sum())
        ax.add_patch(Rectangle((start, -1.35), width, 0.7, color=shades[name], linewidth=0))
        start += width
        if start < len(groups) - 1:
            ax.axvline(start, color="white", linewidth=1)
    ax.set_ylim(ax.get_ylim()[0], -1.4)
    handles = [Patch(color=shades[name], label=f"{name} ({(groups == name).sum()})") for name in groups.cat.categories]
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize="small",
        borderaxespad=0.2, handlelength=1,
    )  # fmt: skip
