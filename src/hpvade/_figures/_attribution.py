"""Which latent axes move which modality."""

from collections.abc import Mapping, Sequence
from os import PathLike

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

from .._text import check_adata, listed
from ._finish import finished


def modality_attribution(
    table: pd.DataFrame,
    blocks: Mapping[str, tuple[int, int]] | None = None,
    *,
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw the attribution of every latent axis to every modality.

    Parameters
    ----------
    table
        Mean attribution, modalities x latent axes.
    blocks
        First and last (exclusive) axis of each modality's own part of the latent vector; drawn as separators.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure: a heat map in which each row is scaled to its maximum, and bars with the share of each row's attribution
    that comes from each block.

    Raises
    ------
    ValueError
        The table is empty, or holds negative or non-finite values.

    Examples
    --------
    >>> table = pd.DataFrame([[2.0, 1.0], [0.5, 1.0]], index=["atac", "rna"])
    >>> fig = modality_attribution(table, {"atac": (0, 1), "rna": (1, 2)})
    >>> len(fig.axes)
    3
    """
    values = table.to_numpy(dtype=float)
    if not values.size or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError("the attribution table must be finite, not negative and not empty.")
    blocks = {"joint": (0, values.shape[1])} if blocks is None else dict(blocks)
    width = 3.5 + 0.12 * values.shape[1]
    sizes = {"width_ratios": [width, 2.4]}
    fig, (ax, bars) = plt.subplots(
        1, 2, figsize=(width + 3, 1.4 + 0.5 * len(values)), gridspec_kw=sizes, layout="constrained"
    )
    scaled = values / np.maximum(values.max(axis=1, keepdims=True), 1e-30)
    image = ax.imshow(scaled, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    for _, stop in list(blocks.values())[:-1]:
        ax.axvline(stop - 0.5, color="white", linewidth=1.5)
    ax.set_xticks([(start + stop - 1) / 2 for start, stop in blocks.values()], [f"z of {name}" for name in blocks])
    ax.set_yticks(range(len(values)), table.index.astype(str))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("attribution, relative to the row's highest", fontsize="medium")
    bar = fig.colorbar(image, ax=ax, aspect=12)
    bar.outline.set_visible(False)
    total, left = np.maximum(values.sum(axis=1), 1e-30), np.zeros(len(values))
    for name, (start, stop) in blocks.items():
        share = values[:, start:stop].sum(axis=1) / total
        bars.barh(range(len(values)), share, left=left, label=f"z of {name}")
        left += share
    bars.set_yticks(range(len(values)), [])
    bars.invert_yaxis()
    bars.set_xlim(0, 1)
    bars.set_xlabel("share of attribution")
    bars.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, 1.35), ncols=len(blocks))
    bars.spines[["top", "right"]].set_visible(False)
    return finished(fig, show, save)


def attribution_scatter(
    adata: AnnData,
    modalities: Sequence[str],
    *,
    basis: str = "X_umap_joint",
    show: bool | None = None,
    save: str | PathLike | None = None,
) -> Figure | None:
    """Draw cells coloured by the attribution to each modality, and by its log ratio for two modalities.

    Parameters
    ----------
    adata
        Cells with what `store_attribution_results` wrote.
    modalities
        Names of the modalities.
    basis
        Coordinates in `adata.obsm`; the first two columns are drawn.
    show, save
        Show the figure and return None; write it to this file. See :doc:`/api/pl`.

    Returns
    -------
    The figure.

    Raises
    ------
    ValueError
        The attribution or the coordinates are absent; says what to call.
    """
    columns = [f"{name}_decoder_total_attr" for name in modalities]
    if len(modalities) == 2:
        columns.append("log2_{}_vs_{}_attr".format(*modalities))
    check_adata(adata, "adata")
    if missing := [name for name in columns if name not in adata.obs.columns]:
        raise ValueError(f"adata.obs has no {missing}: call `model.store_attribution_results(adata)` first.")
    if basis not in adata.obsm:
        raise ValueError(
            f"adata.obsm has no {basis!r}: call `model.compute_latent_umap(adata)` first. It has {listed(adata.obsm)}."
        )
    xy = np.asarray(adata.obsm[basis])[:, :2]
    fig, axes = plt.subplots(1, len(columns), figsize=(4 * len(columns), 3.4), squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], columns, strict=True):
        values = adata.obs[name].to_numpy(dtype=float)
        ratio = name.startswith("log2_")
        limit = np.abs(values).max() if ratio else None
        limits = {"vmin": -limit, "vmax": limit} if ratio else {}
        size = float(np.clip(2e4 / len(values), 1, 20))
        points = ax.scatter(*xy.T, c=values, s=size, cmap="RdBu_r" if ratio else "viridis", linewidths=0, **limits)
        ax.set_title(name.replace("_", " "), fontsize="medium")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        fig.colorbar(points, ax=ax, shrink=0.7).outline.set_visible(False)
    return finished(fig, show, save)
