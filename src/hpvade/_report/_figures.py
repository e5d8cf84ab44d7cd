"""Figures of the page, as images that the page holds itself."""

import base64
import io
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

from .. import pl
from .._figures._palette import colours

_MANY = 1500  # marks beyond which a figure's marks become pixels
_DPI = 150
_LONGEST = 20  # characters of a sample's name in a figure

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


def composition(table: pd.DataFrame) -> Image:
    """Stacked bars, or a heat map of many samples."""
    return as_image(pl.proportions(table.rename(index=_short)).figure)


def intervals(table: pd.DataFrame, lower: pd.DataFrame, upper: pd.DataFrame) -> Image:
    """One panel per type; the samples in the order of the table."""
    types = [name for name in table.columns if name in lower]
    columns = pd.MultiIndex.from_product([types, ["lower", "median", "upper"]])
    values = np.stack([lower[types], table[types], upper[types]], axis=2).reshape(len(table), -1)
    return as_image(pl.intervals(pd.DataFrame(values, table.index.map(_short), columns), ncols=3))


def agreement(predicted: pd.DataFrame, measured: pd.DataFrame) -> Image:
    return as_image(pl.agreement(predicted, truth=measured))


def groups(table: pd.DataFrame, labels: pd.Series) -> Image:
    """Boxes and points of every type and group."""
    return as_image(pl.proportions(table, groupby=labels, palette=_shades(labels)).figure)


def differences(results: pd.DataFrame, labels: pd.Series) -> Image:
    """What `tl.compare_groups` found, in the colours of `groups`."""
    return as_image(pl.groups(results, palette=_shades(labels)).figure)


def label_check(reference: AnnData) -> Image:
    return as_image(pl.label_check(reference))


def _short(name) -> str:
    """A name that leaves the panels their room; the table has it whole."""
    name, half = str(name), _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}\N{HORIZONTAL ELLIPSIS}{name[1 - half :]}"


def _shades(labels: pd.Series) -> dict:
    names = [str(name) for name in labels.cat.categories]
    return dict(zip(names, colours(names), strict=True))
