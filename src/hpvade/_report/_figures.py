"""Figures of the page, as images that the page holds itself."""

import base64
import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import pl
from .._figures._palette import colours

_MANY = 1500  # marks beyond which a figure's marks become pixels
_DPI = 150


_READABLE = 80  # pixels per inch of the figure, below which its words are too small


@dataclass
class Image:
    """A figure as a data URL, and the width in pixels that it needs to be read."""

    src: str
    min_width: int


def as_image(figure: Figure) -> Image:
    """The figure as SVG, in which very many marks are drawn as pixels."""
    for ax in figure.axes:
        n_segments = sum(len(c.get_paths()) + len(np.atleast_2d(c.get_offsets())) for c in ax.collections)
        if len(ax.patches) + n_segments * len(figure.axes) > _MANY:
            for artist in (*ax.patches, *ax.collections):
                artist.set_rasterized(True)
    stream = io.BytesIO()
    with plt.rc_context({"svg.hashsalt": "hpvade"}):  # the same page from the same results
        figure.savefig(stream, format="svg", dpi=_DPI, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    src = "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode()
    return Image(src, round(_READABLE * figure.get_figwidth()))


def stacked_bars(table: pd.DataFrame) -> Image:
    return as_image(pl.proportions(table).figure)


def intervals(table: pd.DataFrame, lower: pd.DataFrame, upper: pd.DataFrame) -> Image:
    """One panel per type, in the order of the table."""
    types = [name for name in table.columns if name in lower]
    columns = pd.MultiIndex.from_product([types, ["lower", "median", "upper"]])
    values = np.stack([lower[types], table[types], upper[types]], axis=2).reshape(len(table), -1)
    return as_image(pl.intervals(pd.DataFrame(values, table.index, columns), ncols=3))


def agreement(predicted: pd.DataFrame, measured: pd.DataFrame) -> Image:
    return as_image(pl.agreement(predicted, truth=measured))


def groups(table: pd.DataFrame, labels: np.ndarray) -> Image:
    """Points of every sample, by type and group, with the medians."""
    names = sorted(set(labels))
    n_columns = min(4, table.shape[1])
    n_rows = -(-table.shape[1] // n_columns)
    size = (max(2.1, 0.5 * len(names) + 1) * n_columns, 2.2 * n_rows)
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, layout="constrained", squeeze=False)
    spread = np.random.default_rng(0)
    for ax, name in zip(axes.flat, table.columns, strict=False):
        for i, (label, colour) in enumerate(zip(names, colours(names), strict=True)):
            values = table.loc[labels == label, name].to_numpy()
            ax.scatter(i + spread.uniform(-0.18, 0.18, len(values)), values, s=12, color=colour, alpha=0.7, linewidth=0)
            ax.hlines(np.median(values), i - 0.3, i + 0.3, color="black", linewidth=1.5)
        ax.set_title(str(name), fontsize="medium")
        ax.set_xticks(range(len(names)), names, fontsize="small", rotation=30, ha="right", rotation_mode="anchor")
        ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes.flat[table.shape[1] :]:
        ax.remove()
    figure.supylabel("proportion of cells", fontsize="medium")
    return as_image(figure)
