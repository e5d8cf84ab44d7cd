"""Order, sign and rotation of trained axes, so that another seed gives the same picture. The model stays the same."""

import numpy as np
import torch
from scvi import REGISTRY_KEYS

_CELLS = 2000  # enough for moments of ten axes
_FLOOR = 1e-6  # smallest variance of a direction, relative to the largest


def order_axes(model) -> None:
    """Bring the axes of a trained `IVAE` into an order, sign and rotation that follow from what they explain.

    Nothing that the model says of cells changes, up to rounding: what is done to an axis is undone in the layer that
    reads it. Latent axes are only put in order and turned round, as the posterior is diagonal along them; the axes of
    the bottleneck, between two linear maps, become principal axes. At most 2,000 evenly spaced cells are read.

    Parameters
    ----------
    model
        Trained `IVAE` with data.
    """
    n_obs = model.adata.n_obs
    cells = np.unique(np.linspace(0, n_obs - 1, min(n_obs, _CELLS)).astype(int))
    vae, bottleneck = model.module.vae, model.module.weights["irecon"] > 0
    latent, counts, loadings, reads = [], 0.0, 0.0, 0.0
    for tensors in model._make_data_loader(model.adata, cells, None):
        latent.append(model.module.posterior_mean(tensors))
        counts = counts + tensors[REGISTRY_KEYS.X_KEY].sum(dim=0).double().cpu().numpy()
        loadings = loadings + model.module.loadings(tensors, of_latent=True).double().cpu().numpy()
        if bottleneck:
            reads = reads + model.module.loadings(tensors).double().cpu().numpy()
    z = torch.cat(latent).double().cpu().numpy()
    weights = information(counts / len(cells), vae.decoder.disp.detach().double().exp().cpu().numpy())
    if bottleneck:
        linear = vae.latent_encoder
        code = z @ linear.weight.detach().double().cpu().numpy().T + linear.bias.detach().double().cpu().numpy()
        vae.turn_bottleneck(
            torch.as_tensor(principal_axes(code, reads / len(cells), weights)), torch.as_tensor(code.mean(axis=0))
        )
    vae.order_latent(*map(torch.as_tensor, ordered_axes(z, loadings / len(cells), weights)))


def information(mean: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Fisher information of a negative binomial count about the logarithm of its mean (G,).

    The weight of a gene's change of log proportion: without it, genes that are hardly counted would set the order.
    """
    return mean * theta / (mean + theta)


def explained_variance(scores: np.ndarray, loadings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Variance of log expression that each axis explains, weighted over genes (I,).

    Parameters
    ----------
    scores
        Axes of the cells (n, I).
    loadings
        Change of log proportion per unit of each axis (G, I).
    weights
        Weights of the genes (G,).

    Examples
    --------
    >>> import numpy as np
    >>> explained_variance(np.array([[1.0], [-1.0]]), np.array([[2.0], [1.0]]), np.array([1.0, 3.0]))
    array([7.])
    """
    return scores.var(axis=0) * (weights @ loadings**2)


def ordered_axes(scores: np.ndarray, loadings: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order of the axes by what they explain, the most first, and their signs in the new order.

    Parameters
    ----------
    scores, loadings, weights
        See :func:`explained_variance`.

    Returns
    -------
    Indices (I,) and signs (I,), +1 or -1: the axis, times its sign, has the larger loadings on its positive side.
    """
    order = np.argsort(-explained_variance(scores, loadings, weights), kind="stable")
    return order, _signs(loadings[:, order], weights)


def principal_axes(scores: np.ndarray, loadings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The matrix A (I, I) with which ``A @ (score - mean)`` are principal axes of what the scores explain.

    The new axes are uncorrelated, have variance one, and loadings ``loadings @ inv(A)`` that are orthogonal under the
    weights; their squared weighted lengths are the explained variances, in falling order. These are the principal
    components of ``sqrt(weights) * (scores @ loadings.T)``, whichever linear map the scores went through before.

    Parameters
    ----------
    scores, loadings, weights
        See :func:`explained_variance`.
    """
    variance, directions = np.linalg.eigh(np.atleast_2d(np.cov(scores, rowvar=False, bias=True)))
    if not variance[-1] > 0:
        return np.eye(scores.shape[1])  # all cells are alike
    root = directions * np.sqrt(np.maximum(variance, _FLOOR * variance[-1]))  # root @ root.T: covariance
    spread = np.sqrt(weights)[:, None] * (loadings @ root)
    _, turn = np.linalg.eigh(spread.T @ spread)
    turn = turn[:, ::-1]  # the most explaining first
    turn = turn * _signs(loadings @ root @ turn, weights)
    return turn.T @ np.linalg.inv(root)


def _signs(loadings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Signs (I,) after which the loadings are skewed to the positive side."""
    skew = ((np.sqrt(weights)[:, None] * loadings) ** 3).sum(axis=0)
    return np.where(skew >= 0, 1.0, -1.0)
