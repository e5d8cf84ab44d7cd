"""A labelled reference rewritten into another context, as counts."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from ..._keys import Keys
from ..._text import warn, whole_number
from ...reference._shift import rewritten, whole
from ._context_data import take_rows
from ._context_field import CONTEXT_KEY
from ._contexts import MISSING
from ._tables import cells, moves, target_codes


def translate_reference(model, adata: AnnData | None, to: Mapping, seed: int | None) -> AnnData:
    """See `CycleAE.translate_reference`."""
    if not isinstance(to, Mapping):
        raise TypeError(f"to is a {type(to).__name__}; expected a dict such as {{{model.fields[0]!r}: value}}.")
    if seed is not None:
        whole_number("seed", seed, 0)
    if not to:
        raise ValueError("`to` names no field; expected the target context, such as to={'condition': 'stimulated'}.")
    adata, indices = cells(model, adata, None)
    to = {field: list(v) if isinstance(v, np.ndarray | pd.Series | pd.Index) else v for field, v in to.items()}
    rng = np.random.default_rng(int(torch.randint(2**62, ())) if seed is None else seed)
    table = _evidence(model, adata, to, indices)
    X = model.get_anndata_manager(adata, required=True).get_from_registry("X")
    rewrite = rewritten if model.module.scale == "log1p" else _added
    blocks = [rewrite(take_rows(X, rows), *change, rng) for rows, *change in changes(model, adata, to, indices)]
    obs = adata.obs.drop(columns=[c for c in adata.obs if str(c).startswith("_scvi")]).copy()
    columns = {str(column): column for column in obs.columns}
    for field, value in to.items():
        obs[columns[str(field)]] = np.asarray(value) if isinstance(value, list) else value
    result = AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=adata.var.copy())
    result.uns[Keys.TRANSLATED] = {str(field): str(value) for field, value in to.items() if np.isscalar(value)}
    result.uns[Keys.TRANSLATION] = table
    return result


def _evidence(model, adata: AnnData, to: Mapping, indices: np.ndarray) -> pd.DataFrame:
    """Combinations of contexts of the cells, with the training cells that the change of each was measured with."""
    moved = target_codes(model, to, len(indices))
    source = np.asarray(model.get_anndata_manager(adata, required=True).get_from_registry(CONTEXT_KEY))[indices]
    target = source.copy()
    for field, codes in moved.items():
        target[:, field] = codes
    pairs, n = np.unique(np.concatenate([source, target], axis=1), axis=0, return_counts=True)
    found = [model.module.shift.evidence(torch.as_tensor(part).to(model.module.device)) for part in np.hsplit(pairs, 2)]
    names = [[*model.categories[field], MISSING] for field in model.fields]
    table = pd.DataFrame({field: [str(names[f][code]) for code in pairs[:, f]] for f, field in enumerate(model.fields)})
    for f in moved:
        table[f"to {model.fields[f]}"] = [str(names[f][code]) for code in pairs[:, len(names) + f]]
    (n_source, _), (n_target, measured) = ((a.cpu().numpy(), b.cpu().numpy()) for a, b in found)
    table = table.assign(n_cells=n, n_source=n_source, n_target=n_target, measured=measured.astype(float))
    absent = table[(table["n_target"] == 0) & (pairs[:, : len(names)] != pairs[:, len(names) :]).any(axis=1)]
    if len(absent):
        first = ", ".join(f"{field}={absent.iloc[0][field]}" for field in model.fields)
        warn(
            f"{len(absent)} of {len(table)} combinations of contexts have no training cells in the target, the first "
            f"is {first}: their change is the sum of the fields' effects, not measured. See uns[{Keys.TRANSLATION!r}]."
        )
    return table


@torch.inference_mode()
def changes(model, adata: AnnData, to: Mapping, indices: np.ndarray) -> Iterator[tuple]:
    """Rows of cells, the mean of the cells that change alike, and their change, both (rows x genes).

    Means are on the model's scale, log1p of mean counts per 10,000 or counts. The change is the measured one of the
    two contexts, and what the network says of the cell beyond its mean.
    """
    shift = model.module.shift
    measured = shift.change if model.module.scale == "log1p" else shift
    means = _means(model.module.scale, moves(model, adata, to, indices))
    for rows, _, source, target, same, moved in moves(model, adata, to, indices):
        change = (moved - same + measured(source, target)).cpu().numpy()
        base, by_network = (np.stack(of) for of in zip(*(means[pair] for pair in _pairs(source, target)), strict=True))
        yield rows, base, change - by_network


def _means(scale: str, moved_cells) -> dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]:
    """Of the cells of each pair of source and target: their mean, and the mean change by the network (genes,)."""
    sums, sizes = {}, {}
    for _, x, source, target, same, moved in moved_cells:
        names, member = np.unique(_pairs(source, target), axis=0, return_inverse=True)
        values = np.stack([(x.expm1() if scale == "log1p" else x).cpu().numpy(), (moved - same).cpu().numpy()])
        for i, pair in enumerate(map(tuple, names.tolist())):
            mine = member.ravel() == i
            sums[pair] = sums.get(pair, 0.0) + values[:, mine].sum(axis=1, dtype=float)
            sizes[pair] = sizes.get(pair, 0) + int(mine.sum())
    means = {pair: (total / sizes[pair]).astype(np.float32) for pair, total in sums.items()}
    return {pair: (np.log1p(x) if scale == "log1p" else x, change) for pair, (x, change) in means.items()}


def _pairs(source: torch.Tensor, target: torch.Tensor) -> list[tuple[int, ...]]:
    return list(map(tuple, torch.cat([source, target], dim=1).tolist()))


def _added(x: np.ndarray, base: np.ndarray, change: np.ndarray, rng: np.random.Generator) -> sparse.csr_matrix:
    """Whole counts of cells `x` after a change of counts; see `reference._shift.rewritten`, with the same arguments."""
    return whole(np.maximum(x + change, 0), rng)
