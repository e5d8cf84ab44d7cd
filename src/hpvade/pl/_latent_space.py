"""Cells in the plane by their latent representation, one panel per column of labels."""

from collections.abc import Mapping, Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

from .._figures._finish import finished
from ..tl._layout import SEED, layout
from ._embedding import embedding

_NAMES = {"pca": "PC", "tsne": "t-SNE", "umap": "UMAP"}


def latent_space(
    representation,
    groups: pd.DataFrame,
    *,
    method: str = "pca",
    palette: Mapping[str, str] | Sequence[str] | None = None,
    seed: int = SEED,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw cells by PCA, t-SNE or UMAP of their latent representation, once per column of labels.

    Parameters
    ----------
    representation
        Cells x dimensions, such as ``model.get_latent_representation()``.
    groups
        Labels of the same cells, one panel per column, such as ``adata.obs[["cell_type", "perturbation"]]``.
    method
        ``"pca"``, ``"tsne"`` or ``"umap"``; see :func:`hpvade.tl.layout`.
    palette
        Colours of the groups, in order or by name.
    seed
        Seed of t-SNE and UMAP.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure.

    Raises
    ------
    ValueError
        The number of cells differs, there is no column, or `method` is unknown.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> groups = pd.DataFrame({"cell_type": ["B", "T"] * 10, "perturbation": ["control"] * 20})
    >>> figure = latent_space(np.random.default_rng(0).normal(size=(20, 4)), groups)
    >>> [axes.get_title() for axes in figure.axes]
    ['cell_type', 'perturbation']
    """
    if len(groups) != len(representation) or groups.shape[1] == 0:
        raise ValueError(
            f"groups has shape {groups.shape} for {len(representation)} cells; expected one row per cell and a column."
        )
    points = layout(representation, method, seed=seed)
    obs = groups.astype(str).set_axis([str(i) for i in range(len(groups))], axis=0)
    cells = AnnData(obs=obs, obsm={method: np.asarray(points)})
    figure, panels = plt.subplots(
        1, groups.shape[1], figsize=(5.2 * groups.shape[1], 4.0), layout="constrained", squeeze=False
    )
    for axes, column in zip(panels[0], groups.columns, strict=True):
        embedding(cells, method, color=column, palette=palette, ax=axes)
        axes.set_title(column, fontsize="medium")
        axes.get_legend().set_title(None)
        axes.set(xlabel=f"{_NAMES[method]} 1", ylabel=f"{_NAMES[method]} 2")
    return finished(figure, show, save)
