import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import check_adata, whole_number
from ..evaluation._metrics import pearson
from ..io._rows import in_memory
from ..reference._checks import check_column
from ..reference._shift import similarity_weights

_DIRECTION_GENES = 50


def evaluate_perturbation(
    model, adata: AnnData | None = None, *, reference: AnnData | None = None, min_cells: int = 10
) -> pd.DataFrame:
    """Compare predicted with observed responses to perturbations, for every perturbation and cell type.

    The model predicts from the control cells of a type, decoded with the perturbation. A response is the difference of
    log1p mean counts per 10,000 between perturbed cells and control cells, the mean taken before the logarithm.

    Parameters
    ----------
    model
        Trained :class:`hpvade.ConditionalVAE`.
    adata
        Cells with the columns of the model, control and perturbed; those it was set up with when None.
    reference
        Cells the baseline learns from; the cells that the model was set up with when None.
    min_cells
        Pairs with fewer perturbed cells in `adata`, and types with fewer control cells, are left out.

    Returns
    -------
    One row per perturbation, cell type and predictor: `r` and `r2` of the response, `rmse` of log1p cp10k,
    `direction_accuracy` over the 50 genes that respond most, numbers of cells, and whether the pair is `in_reference`.
    Predictors are the ``"model"``; the ``"mean shift"``, the response of the type in the reference, where it has
    none that of its other types on average; the ``"weighted shift"``, where it has none their average with weights
    exp(4 r), r the correlation of their log control profiles with that of the type; and ``"no change"``.

    Raises
    ------
    ValueError
        The model has seen no control cells; there is no pair with enough cells, or no reference.

    Examples
    --------
    >>> import hpvade as hp
    >>> hp.tl.evaluate_perturbation(model, held_out)  # doctest: +SKIP
    """
    whole_number("min_cells", min_cells)
    control = model._control_name(None)
    adata = model._require_data() if adata is None else adata
    reference = model._require_data() if reference is None else reference
    for name, cells in (("adata", adata), ("reference", reference)):
        check_adata(cells, name)
    observed, n_cells = _profiles(model, adata)
    known, n_known = _profiles(model, reference)
    shifts = {
        pair: np.log1p(known[pair]) - np.log1p(known[pair[0], control])
        for pair in known
        if pair[1] != control and min(n_known[pair], n_known.get((pair[0], control), 0)) >= min_cells
    }
    labels, perturbations = (adata.obs[key].astype(str).to_numpy() for key in _columns(model))
    rows = []
    for (kind, name), profile in observed.items():
        if name == control or min(n_cells[kind, name], n_cells.get((kind, control), 0)) < min_cells:
            continue
        before, after = np.log1p(observed[kind, control]), np.log1p(profile)
        cells = np.flatnonzero((labels == kind) & (perturbations == control))
        predicted = model.get_counterfactual_expression(adata, indices=cells, perturbation=name, library_size=1e4)
        guesses = {"model": np.log1p(predicted.to_numpy(dtype=float).mean(axis=0)) - before}
        guesses |= _shifts(
            shifts, kind, name, np.log1p(known.get((kind, control), observed[kind, control])), known, control
        )
        guesses["no change"] = np.zeros_like(before)
        about = {"perturbation": name, "cell_type": kind}
        counts = {
            "n_perturbed": n_cells[kind, name],
            "n_control": len(cells),
            "in_reference": (kind, name) in shifts,
        }
        rows += [about | {"predictor": who} | _scores(guess, after - before) | counts for who, guess in guesses.items()]
    if not rows:
        raise ValueError(
            f"no pair of perturbation and cell type has {min_cells} perturbed and {min_cells} control cells. Lower "
            "min_cells, or pass cells of both."
        )
    return pd.DataFrame(rows)


def _columns(model) -> tuple[str, str]:
    return model.get_setup_arg("labels_key"), model.get_setup_arg("perturbation_key")


def _profiles(model, adata: AnnData) -> tuple[dict, dict]:
    """Mean counts per 10,000 (genes,) and number of cells, by cell type and perturbation."""
    keys = _columns(model)
    for argument, key in zip(("labels_key", "perturbation_key"), keys, strict=True):
        check_column(in_memory(adata.obs), argument, key)
    labels, perturbations = (adata.obs[key].astype(str) for key in keys)
    cells = model._read(adata, None)
    groups = (labels + "\x1f" + perturbations).to_numpy()
    names, codes = np.unique(groups, return_inverse=True)
    sums, sizes = np.zeros((len(names), adata.n_vars)), np.bincount(codes)
    import torch  # loaded by the model

    for batch in cells.batches(torch.device("cpu"), 2048):
        x = batch.x.double()
        x = (1e4 * x / x.sum(dim=1, keepdim=True)).numpy()
        member = np.equal.outer(np.arange(len(names)), codes[batch.rows]).astype(float)
        sums += member @ x
    pairs = [tuple(name.split("\x1f")) for name in names]
    return (
        {pair: sums[i] / sizes[i] for i, pair in enumerate(pairs)},
        {pair: int(sizes[i]) for i, pair in enumerate(pairs)},
    )


def _shifts(responses: dict, kind: str, name: str, profile: np.ndarray, known: dict, control: str) -> dict:
    """Response of the type, else means over the other types, equal and by similarity to its log control `profile`.

    Empty when no type has a response.
    """
    if (kind, name) in responses:
        return dict.fromkeys(("mean shift", "weighted shift"), responses[kind, name])
    others = [pair for pair in responses if pair[1] == name]
    if not others:
        return {}
    values = np.stack([responses[pair] for pair in others])
    profiles = np.stack([profile, *(np.log1p(known[pair[0], control]) for pair in others)])
    return {"mean shift": values.mean(axis=0), "weighted shift": similarity_weights(profiles)[0, 1:] @ values}


def _scores(guess: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    most = np.argsort(-np.abs(truth), kind="stable")[:_DIRECTION_GENES]
    error = guess - truth
    return {
        "r": float(pearson(guess, truth, axis=None)),
        "r2": float(1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum()),
        "rmse": float(np.sqrt((error**2).mean())),
        "direction_accuracy": float((np.sign(guess[most]) == np.sign(truth[most])).mean()),
    }
