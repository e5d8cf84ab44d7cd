"""What must hold for cells before they are registered, and which of them are held out."""

import numpy as np
import torch
from anndata import AnnData

from ..._keys import Keys
from ..._text import warn
from ...io._rows import use_sparse_matrix
from ...reference._checks import check_cells
from ...train._group_split import split_groups
from ...train._splitter import split_cells

__all__ = ["check_setup", "split_training", "use_sparse_matrix"]


def check_setup(
    adata: AnnData,
    keys: dict[str, str | None],
    control: str,
    unlabeled: str | None,
    layer: str | None,
    size_factor_key: str | None,
    *,
    new: bool,
) -> None:
    """Refuse cells that the model could not learn from, before anything is written.

    Parameters
    ----------
    adata, layer
        Cells and the layer with their counts.
    keys
        Columns by the argument that named them.
    control, unlabeled
        Name of the control, and of cells whose type is not known.
    size_factor_key
        Column of size factors.
    new
        Whether a model is to be trained: then two cell types are needed.

    Raises
    ------
    KeyError
        A column or the layer is absent.
    ValueError
        See `ConditionalVAE.setup_anndata`.
    """
    if keys["labels_key"] is None:
        raise ValueError("labels_key is None; expected a column of adata.obs. No labels are made up.")
    check_cells(adata, layer=layer, columns=keys, unlabeled=True)
    _check_size_factors(adata, size_factor_key)
    if not new:
        return
    labels = adata.obs[keys["labels_key"]].astype(str)
    types = sorted(set(labels) - {unlabeled})
    if len(types) < 2:
        raise ValueError(
            f"adata.obs[{keys['labels_key']!r}] has {len(types)} cell types, {types}; the model needs at least two."
        )
    if keys["perturbation_key"] is None:
        return
    names = sorted(set(adata.obs[keys["perturbation_key"]].astype(str)))
    if control not in names:
        warn(
            f"adata.obs[{keys['perturbation_key']!r}] has no control cells: control_category={control!r} is none of "
            f"{names[:10]}. Perturbation effects need it; all else works."
        )


def _check_size_factors(adata: AnnData, key: str | None) -> None:
    if key is None:
        return
    if key not in adata.obs:
        raise KeyError(f"size_factor_key={key!r} is not a column of adata.obs; found {list(adata.obs)}.")
    try:
        values = adata.obs[key].to_numpy(dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"adata.obs[{key!r}] holds values that are no numbers: {error}.") from error
    bad = ~(np.isfinite(values) & (values > 0))
    if bad.any():
        raise ValueError(
            f"adata.obs[{key!r}] holds {values[bad][0]:g} for cell {str(adata.obs_names[bad.argmax()])!r}; expected "
            "size factors above zero."
        )


def split_training(model, split_by: str | None, train_size: float, validation_size: float | None):
    """Training, validation and test cells; generated cells are always training cells."""
    rng = np.random.default_rng(int(torch.randint(2**62, ())))
    sizes = {"train_size": train_size, "validation_size": validation_size}
    real = np.arange(model.adata.n_obs)
    if Keys.GENERATED in model.adata.obs:
        real = np.flatnonzero(~model.adata.obs[Keys.GENERATED].to_numpy(dtype=bool))
    if split_by is None:
        types = model._read(None, real, used=("labels",)).of("labels")
        parts = split_cells(types, np.zeros_like(types), rng, **sizes)
    else:
        setup = {"experiment": "experiment_key", "perturbation": "perturbation_key"}
        column = model.get_setup_arg(setup[split_by]) if split_by in setup else split_by
        if column is None or column not in model.adata.obs:
            raise KeyError(
                f"split_by={split_by!r}: {column!r} is not a column of adata.obs; expected 'experiment' (with "
                f"experiment_key), 'perturbation', or one of {list(model.adata.obs)}."
            )
        groups = model.adata.obs[column].astype(str).to_numpy()[real]
        keep = [str(model.get_setup_arg("control_category"))] if split_by == "perturbation" else None
        parts = split_groups(groups, rng, keep=keep, name=split_by, **sizes)
    train, validation, test = (real[part] for part in parts)
    generated = np.setdiff1d(np.arange(model.adata.n_obs), real)
    return np.union1d(train, generated), validation, test
