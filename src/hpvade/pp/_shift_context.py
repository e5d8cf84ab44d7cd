from typing import Any

from anndata import AnnData

from .._text import warn, whole_number


def shift_context(
    adata: AnnData,
    context_key: str,
    target: Any,
    labels_key: str,
    *,
    source: Any = None,
    layer: str | None = None,
    seed: int = 0,
) -> AnnData:
    """Move cells into another context by the measured change of their type, shrunk to that of related types.

    Nothing is trained. Of each type the change of log1p mean counts per 10,000 between the two contexts is measured,
    and drawn to what similar types do, gene by gene, as far as the number of its cells leaves it open, but never by
    more than one standard error. A type without cells in the target takes the change of similar types whole. Every cell
    keeps its own deviation and its total count; fractions of counts are rounded at random.

    Parameters
    ----------
    adata
        Cells x genes of both contexts, raw counts. In memory or backed.
    context_key
        Column of `adata.obs` with the context of each cell, such as a condition.
    target
        The context to move to, such as that of the bulk.
    labels_key
        Column of `adata.obs` with the cell types.
    source
        The context whose cells are moved; those of all other contexts when None, each by its own change.
    layer
        Layer with the counts; `adata.X` when None.
    seed
        Same seed, same counts.

    Returns
    -------
    The moved cells: counts in `X` (CSR float32), `obs` with `context_key` set to the target, `var`, and
    ``uns["shift_context"]``: per context and cell type the number of cells in source and target, and `measured`, where
    the change lies between that of similar types (0) and the type's own measurement (1).

    Raises
    ------
    KeyError
        A column or the layer is absent.
    ValueError
        A context is unknown, or the same as the target; no type has cells in both; values are missing, negative,
        not finite or logged.

    Warns
    -----
    UserWarning
        A type has no cells in the target, so its change is not measured.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.planted_contexts(400, 100, fields={"condition": 2})
    >>> moved = hp.pp.shift_context(adata, "condition", "condition_1", "cell_type")
    >>> moved.obs["condition"].unique().tolist()
    ['condition_1']
    """
    import numpy as np
    import pandas as pd
    from scipy import sparse

    from .._keys import Keys
    from ..io._rows import in_memory, iter_rows, pick_matrix
    from ..reference._checks import check_cells
    from ..reference._shift import moments, rewritten, type_shifts

    whole_number("seed", seed, 0)
    check_cells(adata, layer=layer, columns={"context_key": context_key, "labels_key": labels_key})
    obs = in_memory(adata.obs)
    contexts, labels = (obs[key].astype(str).to_numpy() for key in (context_key, labels_key))
    found = sorted(set(contexts))
    sources = [name for name in found if name != str(target)] if source is None else [str(source)]
    for argument, name in (("target", str(target)), *(("source", name) for name in sources)):
        if name not in found:
            raise ValueError(f"{argument}={name!r} is no value of adata.obs[{context_key!r}]; found {found[:20]}.")
    if not sources or str(target) in sources:
        raise ValueError(f"there is no other context than {str(target)!r} to move cells from; found {found}.")
    types = sorted(set(labels))
    kind = np.array([types.index(label) for label in labels])
    X = pick_matrix(adata, layer, "adata")[0]
    places = [str(target), *sources]
    code = np.array([places.index(name) if name in places else -1 for name in contexts])
    of = moments(X, np.where(code < 0, -1, code * len(types) + kind), len(places) * len(types))
    after = of[: len(types)]
    tables, shifts = [], []
    for i, name in enumerate(sources, start=1):
        before = of[i * len(types) : (i + 1) * len(types)]
        if not ((before.n_cells > 0) & (after.n_cells > 0)).any():
            raise ValueError(f"no cell type has cells in both {name!r} and {str(target)!r}, so no change is measured.")
        shift, measured = type_shifts(before, after)
        shifts.append((before.log, shift))
        table = {context_key: name, labels_key: types, "n_source": before.n_cells, "n_target": after.n_cells}
        tables.append(pd.DataFrame(table | {"measured": measured})[before.n_cells > 0])
    table = pd.concat(tables, ignore_index=True)
    absent = sorted(set(table.loc[table["n_target"] == 0, labels_key]))
    if absent:
        warn(
            f"adata.obs[{context_key!r}] == {str(target)!r} has no cells of {', '.join(map(repr, absent[:10]))}: their "
            "change is that of similar types, not measured."
        )
    rng, blocks = np.random.default_rng(seed), []
    for rows, block in iter_rows(X, 2048):
        moved = np.flatnonzero(code[rows] > 0)
        at, k = code[rows][moved] - 1, kind[rows][moved]
        if len(moved):
            base, change = (np.stack([shifts[i][j][t] for i, t in zip(at, k, strict=True)]) for j in (0, 1))
            blocks.append(rewritten(block[moved].toarray(), base, change, rng))
    obs = obs[code > 0].copy()
    obs[context_key] = target
    if isinstance(in_memory(adata.obs)[context_key].dtype, pd.CategoricalDtype):
        obs[context_key] = obs[context_key].astype("category")
    result = AnnData(sparse.vstack(blocks, format="csr"), obs=obs, var=in_memory(adata.var).copy())
    result.uns[Keys.SHIFT] = table
    return result
