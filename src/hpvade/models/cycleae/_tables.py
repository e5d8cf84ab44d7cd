"""What a trained CycleAE says, as tables: effects, influence, contexts, counterfactuals."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...io._positions import cell_positions
from ...io._rows import refuse_bad_values
from ._context_data import take_rows
from ._context_field import CONTEXT_KEY
from ._contexts import MISSING, normalise


def batches(model, adata, indices, batch_size: int = 512) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows, scaled expression (B, G) and codes (B, F) of cells in the order of `indices`, on the model's device."""
    manager = model.get_anndata_manager(adata, required=True)
    X, codes = manager.get_from_registry("X"), np.asarray(manager.get_from_registry(CONTEXT_KEY))
    device = model.module.device
    for a in range(0, len(indices), batch_size):
        rows = indices[a : a + batch_size]
        block = take_rows(X, rows)
        refuse_bad_values(block, slice(0, len(rows)), "adata.X", adata.obs_names[rows], adata.var_names)
        x = model.module.scaled(torch.from_numpy(block).to(device))
        yield rows, x, torch.from_numpy(codes[rows].astype(np.int64)).to(device)


def streamed(model, stream) -> Iterator[tuple[None, Tensor, Tensor]]:
    """Cells of a stream as `batches` yields them."""
    for batch in stream:
        yield None, model.module.scaled(batch["X"].to(model.module.device)), batch["context"].to(model.module.device)


def cells(model, adata, indices) -> tuple:
    """Validated AnnData and int indices of the cells asked for."""
    model._check_if_trained(
        warn=False, message=f"the {type(model).__name__} is not trained. Call `model.train()` first."
    )
    adata = model._validate_anndata(adata)
    return adata, cell_positions(adata.n_obs, indices)


def target_codes(model, context: Mapping, n: int) -> dict[int, np.ndarray]:
    """Codes (n,) of the target by number of field; ValueError naming field, value and known values."""
    if not isinstance(context, Mapping):
        raise TypeError(
            f"context is a {type(context).__name__}; expected a dict such as {{'{model.fields[0]}': value}}."
        )
    targets = {}
    for field, value in context.items():
        if str(field) not in model.fields:
            raise ValueError(f"context names the field {field!r}; the model has {', '.join(model.fields)}.")
        known = model.categories[str(field)]
        many = isinstance(value, list | np.ndarray | pd.Series | pd.Index)
        values = [normalise(v) for v in value] if many else [normalise(value)]
        if many and len(values) != n:
            raise ValueError(
                f"context[{field!r}] has {len(values)} values for {n} cells; expected one, or one per cell."
            )
        code = {v: i for i, v in enumerate(known)}
        unknown = [v for v in values if v not in code]
        if unknown:
            names = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
            raise ValueError(f"context[{field!r}]={unknown[0]!r} is no category of this field; known values: {names}.")
        found = np.array([code[v] for v in values])
        targets[model.fields.index(str(field))] = found if many else np.full(n, found[0])
    return targets


@torch.inference_mode()
def moves(model, adata, context: Mapping, indices) -> Iterator[tuple[np.ndarray, *tuple[Tensor, ...]]]:
    """Rows of cells, their expression, codes of their source and target, and the reconstruction in both."""
    targets, at = target_codes(model, context, len(indices)), 0
    by_field, generator = model.module.by_field, model.module.generator
    for rows, x, source in batches(model, adata, indices):
        target = source.clone()
        for f, codes in targets.items():
            target[:, f] = torch.from_numpy(codes[at : at + len(rows)]).to(target.device)
        hidden = generator.encode(x, by_field(source))
        yield rows, x, source, target, *(generator.decode(hidden, by_field(codes)) for codes in (source, target))
        at += len(rows)


@torch.no_grad()
def context_effects(model) -> pd.DataFrame:
    """Rows (field, category) with ("base", "intercept") first, columns genes; see `CycleAE.get_context_effects`."""
    module = model.module
    index, rows = [("base", "intercept")], [module.intercept()]
    for f, field in enumerate(model.fields):
        names = [*model.categories[field], *([MISSING] if module.n_codes[f] > len(model.categories[field]) else [])]
        index += [(field, name) for name in names]
        rows.append(module.raw_effects(field) - module.offset(field))
    values = torch.cat([row.reshape(-1, row.shape[-1]) for row in rows]).cpu().numpy()
    index = pd.MultiIndex.from_arrays([[f for f, _ in index], pd.Index([c for _, c in index], dtype=object)])
    return pd.DataFrame(values, index=index.set_names(["field", "category"]), columns=np.asarray(model.get_var_names()))


@torch.inference_mode()
def head_influence(model, cells_of: Iterable) -> pd.DataFrame:
    """One row per head: mean, min and max over cells of the L2 norm, and its share of the means' sum."""
    norms = {head: [] for head in ("base", *model.fields)}
    for _, x, source in cells_of:
        for head, part in model.module.head_logits(x, source).items():
            norms[head].append(part.norm(dim=1).cpu().numpy())
    joined = {head: np.concatenate(parts) for head, parts in norms.items()}
    table = pd.DataFrame({"mean": n.mean(), "min": n.min(), "max": n.max()} for n in joined.values())
    table.index = pd.Index(list(joined), name="head")
    table["share"] = table["mean"] / table["mean"].sum()
    return table


@torch.inference_mode()
def predicted_contexts(model, adata, indices) -> dict[str, pd.DataFrame]:
    """Probabilities (cells x categories) by field."""
    parts = {field: [] for field in model.fields}
    for _, x, _ in batches(model, adata, indices):
        for field, logits in model.module.classifier(x).items():
            parts[field].append(logits.softmax(dim=1).cpu().numpy())
    names = adata.obs_names[indices]
    return {
        field: pd.DataFrame(np.concatenate(p), index=names, columns=pd.Index(model.categories[field], dtype=object))
        for field, p in parts.items()
    }
