"""Boxes and points of every type and group."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

_MAX_POINTS = 2000  # beyond it points become pixels of a vector file


def strips(values: pd.DataFrame, groups: pd.Series, shades: Mapping, ax: Axes | None, *, boxes: bool) -> Axes:
    """Types from top to bottom, their groups below each other: one box, or a line at the median, and all points."""
    names = list(groups.cat.categories)
    step = 0.8 / len(names)
    if ax is None:
        height = 1.2 + values.shape[1] * max(0.3, 0.2 * len(names) + 0.06)
        _, ax = plt.subplots(figsize=(6.4, height), layout="constrained")
    spread = np.random.default_rng(0)
    many = values.size > _MAX_POINTS
    for i, name in enumerate(names):
        part = values[(groups == name).to_numpy()].to_numpy()
        at = np.arange(values.shape[1]) - 0.4 + step * (i + 0.5)
        if boxes:
            look = {"facecolor": "none", "edgecolor": shades[name], "linewidth": 1.1}
            lines = {"color": shades[name], "linewidth": 1.1}
            ax.boxplot(
                part, positions=at, widths=0.75 * step, orientation="horizontal", patch_artist=True, showfliers=False,
                manage_ticks=False, boxprops=look, whiskerprops=lines, capprops=lines,
                medianprops={"color": "black", "linewidth": 1.5},
            )  # fmt: skip
        else:
            ax.vlines(np.median(part, axis=0), at - 0.4 * step, at + 0.4 * step, color="black", linewidth=1.5, zorder=3)
        y = at + spread.uniform(-0.25 * step, 0.25 * step, part.shape)
        ax.scatter(part, y, s=9, color=shades[name], alpha=0.65, linewidths=0, zorder=2, rasterized=many, label=name)
    ax.set_yticks(np.arange(values.shape[1]), values.columns.astype(str))
    ax.set(ylim=(values.shape[1] - 0.5, -0.5), xlabel="proportion of cells")
    ax.set_xlim(left=0)
    for line in np.arange(values.shape[1] - 1) + 0.5:
        ax.axhline(line, color="0.9", linewidth=0.8, zorder=0)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=shades[name], label=f"{name} ({(groups == name).sum()})") for name in names]
    ax.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, frameon=False, fontsize="small",
        borderaxespad=0.2, handlelength=1,
    )  # fmt: skip
    return ax
