"""How well an embedding keeps labels apart, and how independent its axes are. Arrays in, numbers out."""

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import (
    adjusted_rand_score,
    calinski_harabasz_score,
    davies_bouldin_score,
    normalized_mutual_info_score,
    silhouette_score,
)


def clustering_metrics(latent: np.ndarray, labels: np.ndarray | None, n_clusters: int, seed: int) -> dict[str, float]:
    """Metrics of an embedding, with given labels or without.

    Parameters
    ----------
    latent
        Embedding (cells x axes).
    labels
        Label of each cell, two or more different ones; None without labels.
    n_clusters
        Clusters of the KMeans partition.
    seed
        Seed of KMeans.

    Returns
    -------
    With labels: `ARI` and `NMI` of the KMeans partition against the labels, `ASW` (silhouette of the labels, rescaled
    to 0..1), `C_H` and `D_B` of the labels, and `P_C`. Without: `C_H` and `D_B` of the KMeans partition, and `P_C`.

    Examples
    --------
    >>> import numpy as np
    >>> latent = np.array([[0.0, 0.0], [0.1, 0.2], [9.0, 9.1], [9.2, 9.0]])
    >>> clustering_metrics(latent, np.array(["a", "a", "b", "b"]), 2, 0)["ARI"]
    1.0
    """
    partition = KMeans(n_clusters=n_clusters, n_init=10, random_state=seed).fit_predict(latent)
    metrics = {}
    if labels is not None:
        metrics["ARI"] = adjusted_rand_score(labels, partition)
        metrics["NMI"] = normalized_mutual_info_score(labels, partition)
        metrics["ASW"] = (silhouette_score(latent, labels) + 1) / 2
    groups = partition if labels is None else labels
    metrics["C_H"] = calinski_harabasz_score(latent, groups)
    metrics["D_B"] = davies_bouldin_score(latent, groups)
    metrics["P_C"] = mean_correlation(latent)
    return {name: float(value) for name, value in metrics.items()}


def mean_correlation(latent: np.ndarray) -> float:
    """Mean absolute Pearson correlation between different axes; NaN for one axis or for a constant one."""
    n_axes = latent.shape[1]
    if n_axes < 2 or (np.ptp(latent, axis=0) == 0).any():
        return float("nan")
    correlation = np.abs(np.corrcoef(latent, rowvar=False))
    return float(correlation[~np.eye(n_axes, dtype=bool)].mean())
