from typing import Literal

import numpy as np

SEED = 0  # the same representation gives the same picture
_MAX_PERPLEXITY = 30


def layout(representation, method: Literal["pca", "tsne", "umap"] = "pca", *, seed: int = SEED) -> np.ndarray:
    """Place cells in the plane by their representation.

    Parameters
    ----------
    representation
        Cells x dimensions, such as ``model.get_latent_representation()``.
    method
        ``"pca"``: the first two principal components. ``"tsne"``: t-SNE with perplexity min(30, (cells - 1) / 3).
        ``"umap"``: UMAP of the 15 nearest neighbours, or as many as there are.
    seed
        Seed of the random start; PCA has none.

    Returns
    -------
    Coordinates (cells, 2).

    Raises
    ------
    ValueError
        `method` is unknown; there are fewer than four cells or two dimensions; a value is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> layout(np.random.default_rng(0).normal(size=(50, 8))).shape
    (50, 2)
    """
    x = np.asarray(representation, dtype=np.float64)
    if method not in ("pca", "tsne", "umap"):
        raise ValueError(f"method={method!r} is unknown; expected 'pca', 'tsne' or 'umap'.")
    if x.ndim != 2 or len(x) < 4 or x.shape[1] < 2:
        raise ValueError(f"the representation has shape {x.shape}; expected at least 4 cells x 2 dimensions.")
    if not np.isfinite(x).all():
        raise ValueError("the representation holds values that are not finite. Expected numbers: leave out such cells.")
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(_MAX_PERPLEXITY, (len(x) - 1) / 3)
        return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(x)
    if method == "umap":
        from umap import UMAP

        return UMAP(n_neighbors=min(15, len(x) - 1), random_state=seed, n_jobs=1).fit_transform(x)
    from sklearn.decomposition import PCA

    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # shares of no variance, which nobody asked for
        return PCA(2, svd_solver="full").fit_transform(x)
