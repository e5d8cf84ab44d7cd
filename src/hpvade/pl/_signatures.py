"""Heat map of the genes that set the types apart."""

from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from .._figures._finish import finished
from .._keys import Keys
from .._text import check_adata, listed
from ..evaluation._align import named


def signatures(
    data: AnnData | pd.DataFrame,
    *,
    n_genes: int = 5,
    key: str = Keys.SIGNATURES,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Axes | None:
    """Draw the most specific genes of every type.

    A gene belongs to the type in which its log1p cp10k is highest, and is the more specific the further the second type
    is below. Colours are z-scores of log1p cp10k over the types.

    Parameters
    ----------
    data
        Reference with signatures in ``.varm[key]``, or the signatures, genes x types, linear (counts per cell or CPM).
    n_genes
        Genes per type; fewer where fewer are highest in it.
    key
        The signatures in ``data.varm``.
    ax
        Where to draw; a new figure by default, as high as its genes need.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The axes: genes in rows, grouped by type, types in columns.

    Raises
    ------
    KeyError
        When ``data.varm`` has no signatures.
    ValueError
        When there are fewer than two types, a negative or non-finite value, or a type without expression.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"B": [9, 1, 5], "T": [1, 9, 5]}, index=["MS4A1", "CD3D", "ACTB"])
    >>> ax = signatures(table, n_genes=1)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['MS4A1', 'CD3D']
    """
    check_adata(data, "data", frame=True)
    if isinstance(data, AnnData):
        if key not in data.varm:
            raise KeyError(f"data.varm has no {key!r}: train the model first. It has {listed(data.varm)}.")
        data = named(data.varm[key])
    expression = _log1p_cp10k(data)
    expression = expression.loc[_specific_genes(expression, n_genes)]
    centred = expression.sub(expression.mean(axis=1), axis=0)
    z = centred.div(expression.std(axis=1, ddof=0), axis=0)
    n_rows, n_types = z.shape
    if ax is None:
        size = (2.4 + 0.34 * n_types, 1.6 + 0.17 * n_rows)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    limit = z.abs().to_numpy().max()
    image = ax.imshow(z.to_numpy(), aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_yticks(np.arange(n_rows), z.index.astype(str), fontsize=8)
    ax.set_xticks(
        np.arange(n_types), z.columns.astype(str), rotation=45, ha="right", rotation_mode="anchor", fontsize=9
    )
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, label="z-score of log1p cp10k", shrink=min(1.0, 14 / n_rows), aspect=20)
    bar.outline.set_visible(False)
    return finished(ax, show, save)


def _log1p_cp10k(table: pd.DataFrame) -> pd.DataFrame:
    table = table.astype(float)
    if table.shape[1] < 2:
        raise ValueError(f"Specific genes need at least two types; there is {listed(table.columns)}.")
    if not ((table >= 0) & np.isfinite(table)).all(axis=None):
        raise ValueError("Signatures must be linear, not negative and finite (counts per cell or CPM).")
    total = table.sum()
    if not (total > 0).all():
        raise ValueError(f"No gene is expressed in {listed(total.index[~(total > 0)])}.")
    return np.log1p(1e4 * table / total)


def _specific_genes(expression: pd.DataFrame, n_genes: int) -> list:
    """The genes furthest above the second highest type, grouped by type in the order of the columns."""
    ranked = np.sort(expression.to_numpy(), axis=1)
    margin = pd.Series(ranked[:, -1] - ranked[:, -2], index=expression.index)
    best = expression.idxmax(axis=1)
    genes = []
    for name in expression.columns:
        own = margin[(best == name) & (margin > 0)]
        genes += own.nlargest(n_genes).index.tolist()
    if not genes:
        raise ValueError("No gene differs between the types.")
    return genes
