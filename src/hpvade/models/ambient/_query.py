"""Map a query onto a trained reference: new categories get new parameters, everything else stays as it is."""

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from ..._text import check_adata
from ...io._gene_names import refuse_duplicates
from .._base import _init_arguments
from .._device import choose_device
from ._setup import categories
from ._shared_module import AMBIENT, BATCH, CONDITIONING, DISPERSION, ENCODER, LIBRARY, SCALING

_MIN_SHARED = 0.5
_CENTRE = "library_global_log_mean"
_MEAN_START = ("px_r_mu", "px_r_log_sigma", "dispersion_prior_rate_raw")
_COLUMNS = {  # parameter or buffer: covariate, axis of its categories
    "px_r_mu": (DISPERSION, 1),
    "px_r_log_sigma": (DISPERSION, 1),
    "dispersion_prior_rate_raw": (DISPERSION, 0),
    "additive_background": (AMBIENT, 1),
    "feature_scaling": (SCALING, 0),
    "library_log_means": (LIBRARY, 1),
    "library_log_vars": (LIBRARY, 1),
}


def load_query(cls, adata, reference_model, *, freeze: bool, accelerator: str, device: int | str):
    """See `RegularizedFace.load_query_data`."""
    device = choose_device(accelerator, device)
    reference = reference_model
    if not isinstance(reference, cls):
        if not isinstance(reference_model, str) and not hasattr(reference_model, "__fspath__"):
            found = type(reference_model).__name__
            raise TypeError(f"reference_model is a {found}; expected a {cls.__name__} or a folder.")
        reference = cls.load(reference_model, adata=False, accelerator="cpu")
    if not reference.is_trained_:
        raise RuntimeError("the reference model is not trained. Call its `train()` first.")
    registry = reference.registry
    adata = _align(adata, reference.get_var_names())
    setup = getattr(cls, registry["setup_method_name"])
    setup(adata, source_registry=registry, extend_categories=True, **registry["setup_args"])
    model = cls(adata, **_init_arguments(reference.init_params_))
    positions = _category_positions(registry, model.registry)
    masks = _transfer(model.module, reference.module, positions)
    if freeze:
        model.query_masks_ = {name: mask.numpy() for name, mask in masks.items() if mask.any()}
        apply_masks(model)
    model.to_device(device)
    model.module.eval()
    model.is_trained_ = all(not mask.any() for mask in masks.values())
    return model


def apply_masks(model) -> None:
    """Freeze all but what the query's masks name, so that training leaves it bit for bit as it is."""
    masks = {name: torch.as_tensor(np.asarray(mask)) for name, mask in model.query_masks_.items()}
    for name, parameter in model.module.named_parameters():
        parameter.requires_grad_(name in masks)
    model.module.trainable_masks = {name: mask.float() for name, mask in masks.items()}


def _align(data, genes):
    """The cells with the reference's features in its order, zeros for those they lack; the object itself if it fits."""
    if isinstance(genes, dict):
        if not isinstance(data, MuData):
            raise TypeError(f"the query is a {type(data).__name__}; expected a MuData like the reference's.")
        if absent := [name for name in genes if name not in data.mod]:
            raise ValueError(f"the query has no modalities {absent}; it has {list(data.mod)}.")
        aligned = {name: _align(data.mod[name], names) for name, names in genes.items()}
        if all(aligned[name] is data.mod[name] for name in genes):
            return data
        result = MuData(aligned)
        result.obs = data.obs.copy()
        return result
    check_adata(data, "The query")
    names = pd.Index(np.asarray(genes).astype(str))
    refuse_duplicates(data.var_names, "adata")
    if data.var_names.astype(str).equals(names):
        return data
    found = data.var_names.astype(str).get_indexer(names)
    shared = (found >= 0).mean()
    if shared < _MIN_SHARED:
        raise ValueError(
            f"the query has {(found >= 0).sum()} of the {len(names)} features of the reference; expected at least "
            "half. Use the same kind of names on both sides."
        )
    place = sparse.csr_matrix(
        (np.ones((found >= 0).sum(), dtype=np.float32), (found[found >= 0], np.flatnonzero(found >= 0))),
        shape=(data.n_vars, len(names)),
    )

    def put(matrix):
        return sparse.csr_matrix(sparse.csr_matrix(matrix) @ place)

    layers = {key: put(value) for key, value in data.layers.items()}
    X = None if data.X is None else put(data.X)
    var = pd.DataFrame(index=names)
    return AnnData(X, obs=data.obs.copy(), var=var, layers=layers, uns={})


def _category_positions(before: dict, after: dict) -> dict[str, np.ndarray]:
    """For each covariate, where the reference's concatenated categories are among the query's."""
    positions = {}
    for key in (BATCH, AMBIENT, DISPERSION, LIBRARY, SCALING, ENCODER, CONDITIONING):
        found, start = [], 0
        for (_, old), (_, new) in zip(categories(before, key).items(), categories(after, key).items(), strict=True):
            found.append(start + np.arange(len(old)))  # scvi appends new categories
            start += len(new)
        positions[key] = np.concatenate(found) if found else np.zeros(0, dtype=np.int64)
    return positions


def _transfer(module, reference, positions: dict) -> dict[str, torch.Tensor]:
    """Copy the reference's state into `module`; masks of what is new, by name of parameter."""
    old, new = reference.state_dict(), module.state_dict()
    parameters, masks = dict(module.named_parameters()), {}
    centres = {name: value.clone() for name, value in new.items() if "global_log_mean" in name}
    for name, value in new.items():
        known = old[name].to(value.device)
        kind, axis = _kind(name)
        mask = torch.zeros_like(value, dtype=torch.bool)
        if value.shape == known.shape:
            result = known
        elif kind is not None:
            where = torch.as_tensor(positions[kind])
            mask = mask.index_fill(axis, where, True).logical_not()
            result = value.index_copy(axis, where, known)
            if _stem(name) in _MEAN_START:
                mean = known.mean(dim=axis, keepdim=True).expand_as(value)
                result = torch.where(mask, mean, result)
            if _stem(name) in ("library_log_means", "additive_background"):  # of the query's depth, on the reference's
                centre = _centre_of(name)
                deeper = centres[centre] - old[centre].to(value.device)  # the library carries it, not the background
                result = torch.where(mask, result + (deeper if name.startswith("library") else -deeper), result)
        else:
            result, mask = _extend_layer(name, value, known, module, reference)
        value.copy_(result)
        if name in parameters:
            masks[name] = mask
    module.load_state_dict(new)
    return masks


def _centre_of(name: str) -> str:
    """Buffer with the mean log total that the library of a parameter's modality is relative to."""
    kind, _, modality = name.partition(".") if "." in name else (_stem(name), "", name[len(_stem(name)) + 1 :])
    return f"{_CENTRE}_{modality}" if modality else _CENTRE


def _kind(name: str) -> tuple[str | None, int]:
    return _COLUMNS.get(_stem(name), (None, 0))


def _stem(name: str) -> str:
    """Name of a parameter or buffer without its modality."""
    first = name.split(".")[0]
    return next((kind for kind in _COLUMNS if first == kind or first.startswith(f"{kind}_")), first)


def _extend_layer(name: str, value, known, module, reference):
    """First axis kept, category columns at the end of the input extended; new ones start at the mean of the old."""
    if value.ndim != 2 or value.shape[0] != known.shape[0] or value.shape[1] < known.shape[1]:
        raise ValueError(f"{name} is {tuple(value.shape)} in the query and {tuple(known.shape)} in the reference.")
    is_decoder = name.startswith("decoder")
    before, after = (_layer_cats(m, is_decoder) for m in (reference, module))
    n_input = value.shape[1] - sum(n for n in after if n > 1)
    result, mask = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.bool)
    result[:, :n_input] = known[:, :n_input]
    old_start, new_start = n_input, n_input
    for old, new in zip(before, after, strict=True):
        columns = slice(new_start, new_start + new) if new > 1 else slice(0, 0)
        if old > 1:
            own = known[:, old_start : old_start + old]
            result[:, columns] = own.mean(dim=1, keepdim=True)
            result[:, new_start : new_start + old] = own
            mask[:, new_start + old : new_start + new] = True
        elif new > 1:
            mask[:, new_start + 1 : new_start + new] = True  # one category had no column: it keeps a zero
        old_start, new_start = old_start + (old if old > 1 else 0), new_start + (new if new > 1 else 0)
    return result, mask


def _layer_cats(module, is_decoder: bool) -> list[int]:
    layout = module.layout
    if not is_decoder:
        return list(layout.encoder)
    return [*([layout.n_batch] if module.use_batch_in_decoder else []), *layout.conditioning]
