"""Scatter plot of cells on two or three axes of an embedding."""

from collections.abc import Mapping, Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba_array
from matplotlib.lines import Line2D

from .._figures._finish import finished
from .._figures._palette import categories, colours, stored_palette
from .._keys import Keys
from .._text import check_adata, listed


def embedding(
    adata: AnnData,
    basis: str = Keys.IVAE_BOTTLENECK,
    *,
    color: str | None = None,
    axes: Sequence[int] | None = None,
    palette: Mapping[str, str] | Sequence[str] | None = None,
    size: float | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Axes | None:
    """Draw every cell at its place in an embedding.

    Parameters
    ----------
    adata
        Cells with the embedding in ``.obsm[basis]``.
    basis
        Key of the embedding.
    color
        Column of ``adata.obs`` or gene: groups get a colour each and a legend, numbers a colour scale.
    axes
        Two or three columns of the embedding to draw; by default the first two, or all of three.
    palette
        Colours of the groups, in order or by name; by default those in ``adata.uns[f"{color}_colors"]``, if any.
    size
        Area of a point; chosen from the number of cells by default.
    ax
        Where to draw, with ``projection="3d"`` for three axes; a new figure by default.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        When there is no such embedding, column or gene.
    ValueError
        When the embedding does not have these axes.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.ones((4, 1)), obsm={"X_ivae_bottleneck": np.random.rand(4, 2)})
    >>> adata.obs["type"] = ["B", "B", "T", "T"]
    >>> [text.get_text() for text in embedding(adata, color="type").get_legend().get_texts()]
    ['B', 'T']
    """
    check_adata(adata, "adata")
    if basis not in adata.obsm:
        raise KeyError(f"adata.obsm has no {basis!r}: train or embed first. It has {listed(adata.obsm)}.")
    points = np.asarray(adata.obsm[basis])
    axes = list(axes) if axes is not None else list(range(3 if points.shape[1] == 3 else 2))
    if len(axes) not in (2, 3) or not set(axes) <= set(range(points.shape[1])):
        raise ValueError(f"axes={axes} of {basis!r}, which has {points.shape[1]}; expected two or three of them.")
    values = None if color is None else _values(adata, color)
    if ax is None:
        projection = {"projection": "3d"} if len(axes) == 3 else {}
        _, ax = plt.subplots(figsize=(5.2, 4.2), layout="constrained", subplot_kw=projection)
    points = points[:, axes].T
    style = {"s": size or float(np.clip(30000 / max(adata.n_obs, 1), 2, 30)), "linewidths": 0, "rasterized": True}
    if values is None:
        ax.scatter(*points, color=colours(["cells"], palette)[0], **style)
    elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        drawn = ax.scatter(*points, c=values, cmap="viridis", **style)
        ax.figure.colorbar(drawn, ax=ax, label=color, shrink=0.8).outline.set_visible(False)
    else:
        groups = pd.Categorical(values)
        names = [str(name) for name in groups.categories]
        every = categories(adata.obs[color]) if color in adata.obs else names
        palette = stored_palette(adata, color, every, palette)
        shades = to_rgba_array(colours(names, palette))
        mixed = np.random.default_rng(0).permutation(np.flatnonzero(groups.codes >= 0))  # no group hides another
        ax.scatter(*points[:, mixed], c=shades[groups.codes[mixed]], **style)
        ax.legend(
            handles=[
                Line2D([], [], linestyle="", marker="o", markersize=5, markeredgewidth=0, color=shade, label=name)
                for name, shade in zip(names, shades, strict=True)
            ],
            title=color, loc="center left", bbox_to_anchor=(1.1 if len(axes) == 3 else 1.01, 0.5), frameon=False,
            fontsize="small",
        )  # fmt: skip
    for name, axis in zip("xyz", axes, strict=False):
        getattr(ax, f"set_{name}label")(f"{basis.removeprefix('X_')} {axis}")
    ax.tick_params(labelsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return finished(ax, show, save)


def _values(adata: AnnData, color: str):
    if color in adata.obs:
        column = adata.obs[color]
        return column.cat.remove_unused_categories() if isinstance(column.dtype, pd.CategoricalDtype) else column
    if color in adata.var_names:
        return adata.obs_vector(color)
    raise KeyError(f"color={color!r} is neither a column of adata.obs ({listed(adata.obs.columns)}) nor a gene.")
