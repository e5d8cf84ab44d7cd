"""Everything that must hold for a labelled single-cell reference before any work starts."""

import re
from collections.abc import Hashable
from itertools import combinations, permutations

import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import check_adata, listed, warn
from ..io._gene_names import refuse_duplicates
from ..io._rows import in_memory, is_integer, iter_rows, pick_matrix, refuse_bad_values
from ._blood_markers import blood_type
from ._sums import check_n_cells, warn_of_other_values, warn_of_sums

_MISSING_TEXT = {"", "nan", "<na>"}  # what missing values turn into when written as text; "none" can be a treatment
_MANY = 1000  # values above zero; in so many counts some are above 1, in any protocol
_NO_COLUMNS = "no columns. A table of labels is joined by hp.io.read_reference(..., obs='labels.csv')"
_LOGGED_MAX = 20  # single-cell values on a log scale stay below; log2 of a million is 20


def check_reference(
    adata: AnnData,
    labels_key: str,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    sample_key: str | None = None,
    study_key: str | None = None,
    n_cells_key: str | None = None,
) -> None:
    """Refuse a reference that a model could not learn from, before anything is written.

    The matrix is read once, in blocks of rows; `adata` is never changed.

    Parameters
    ----------
    adata
        Reference (cells x genes) with raw counts. In memory, backed or with Dask arrays.
    labels_key
        Column of `adata.obs` with one cell type per cell. Unused categories are ignored.
    layer
        Layer with the counts; `adata.X` when None.
    batch_key, sample_key, study_key
        Columns of `adata.obs` with the batch, the donor or sample, and the study of each cell.
    n_cells_key
        Column of `adata.obs` with the number of cells in each row, where rows are sums of cells.

    Raises
    ------
    TypeError
        `adata` is not an AnnData, or its matrix is of an unknown kind.
    KeyError
        A column or the layer is absent.
    ValueError
        A view; no cells or no genes; a cell without label, batch or sample; fewer than two types; a type with fewer
        than two cells; type names that differ only in case or spaces; duplicate gene names; negative, NaN or infinite
        values; cells without counts; values on a log scale (not integers, maximum below 20).

    Warns
    -----
    UserWarning
        The words of one type name are part of those of another, as in "T cells" and "CD4 T cells"; values that are
        not integers but too large for a log scale; rows that are sums of cells, taken as cells; sums of other values.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> obs = pd.DataFrame({"cell_type": ["B", "B", "T", "T"]}, index=list("abcd"))
    >>> check_reference(anndata.AnnData(np.ones((4, 3)), obs=obs), "cell_type")
    """
    _check_own(adata)
    obs = in_memory(adata.obs)
    check_column(obs, "labels_key", labels_key)
    n_cells = None
    if n_cells_key is not None:
        check_column(obs, "n_cells_key", n_cells_key, numbers=True)
        n_cells = check_n_cells(obs[n_cells_key], n_cells_key)
    _check_types(obs[labels_key], labels_key, n_cells)
    columns = {"batch_key": batch_key, "sample_key": sample_key, "study_key": study_key}
    _check_cells(adata, obs, layer, columns, sums=n_cells is not None)
    if n_cells is None:
        warn_of_sums(obs)
    else:
        warn_of_other_values(*pick_matrix(adata, layer, "adata"), n_cells)
    if study_key is not None:
        _check_studies(obs[study_key], obs[labels_key], study_key)


def check_cells(
    adata: AnnData,
    *,
    layer: str | None = None,
    columns: dict[str, str | None] | None = None,
    logged: str = "error",
    unlabeled: bool = False,
) -> None:
    """Refuse cells that no count model could learn from, before anything is written; labels are not needed.

    Parameters
    ----------
    adata
        Cells x genes with raw counts. In memory, backed or with Dask arrays.
    layer
        Layer with the counts; `adata.X` when None.
    columns
        Columns of `adata.obs` that must have a value for every cell, by the argument that named them; None is left out.
    logged
        ``"warning"``: values that look logged give the warning of other values that are not integers.
    unlabeled
        Whether the model takes cells of no type, by `unlabeled_category`: the error of missing labels says so.

    Raises
    ------
    TypeError, KeyError, ValueError
        As :func:`check_reference`, but for labels.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> check_cells(anndata.AnnData(np.ones((4, 3))))
    """
    _check_own(adata)
    obs, columns = in_memory(adata.obs), columns or {}
    if unlabeled and columns.get("labels_key") is not None:
        check_column(obs, "labels_key", columns["labels_key"], unlabeled=True)
    _check_cells(adata, obs, layer, columns, refuse_logged=logged == "error")


def _check_cells(
    adata: AnnData,
    obs: pd.DataFrame,
    layer: str | None,
    columns: dict[str, str | None],
    *,
    refuse_logged: bool = True,
    sums: bool = False,
) -> None:
    for argument, key in columns.items():
        if key is not None:
            check_column(obs, argument, key)
    refuse_duplicates(adata.var_names, "adata")
    X, name = pick_matrix(adata, layer, "adata")
    check_counts(X, name, adata.obs_names, adata.var_names, refuse_logged=refuse_logged, whole=not sums)


def _check_own(adata: AnnData) -> None:
    check_adata(adata, "The reference")
    if adata.is_view:
        fix = "adata = adata.to_memory()" if adata.isbacked else "adata = adata.copy()"
        raise ValueError(f"The reference is a view of another AnnData; expected one of its own. Run `{fix}` first.")
    if not (adata.n_obs and adata.n_vars):
        raise ValueError(
            f"The reference is empty: {adata.n_obs} cells x {adata.n_vars} genes. Expected some of both: see what was "
            "filtered before."
        )


def check_order(bulk: AnnData, adata: AnnData, labels_key: str, order: str) -> None:
    """Raise KeyError where the labels that the reference `adata` lacks are in the bulk, which has more rows.

    `order` is how the two are to be given.
    """
    if not isinstance(labels_key, Hashable):
        return
    if labels_key not in adata.obs and labels_key in bulk.obs and bulk.n_obs > adata.n_obs:
        raise KeyError(
            f"labels_key={labels_key!r} is a column of bulk.obs ({bulk.n_obs} rows), and not of adata.obs "
            f"({adata.n_obs} rows): the two look swapped. Expected {order}, the labelled cells as the reference."
        )


def check_column(obs: pd.DataFrame, argument: str, key: str, *, numbers: bool = False, unlabeled: bool = False) -> None:
    """Raise KeyError when `obs` has no column `key`, ValueError when it lacks a value; `argument` asked for it.

    Names must be of one kind; what is no number among `numbers` is for the caller to name.
    """
    if not isinstance(key, Hashable) or key not in obs.columns:
        shown = ", ".join(map(repr, obs.columns[:20])) + (", ..." if len(obs.columns) > 20 else "")
        raise KeyError(f"{argument}={key!r} is not a column of adata.obs; found {shown or _NO_COLUMNS}.")
    names = obs[key].cat.categories if isinstance(obs[key].dtype, pd.CategoricalDtype) else obs[key].dropna()
    kinds = {isinstance(value, str) for value in names} if names.dtype == object else ()
    if len(kinds) > 1 and not numbers:
        raise ValueError(
            f"adata.obs[{key!r}] holds text and numbers, which have no common order; expected one kind. Convert with "
            f"`adata.obs[{key!r}] = adata.obs[{key!r}].astype(str)`."
        )
    texts = _MISSING_TEXT | {"none"} if argument == "labels_key" else _MISSING_TEXT
    blank = [value for value in obs[key].dropna().unique() if str(value).strip().casefold() in texts]
    missing = (obs[key].isna() | obs[key].isin(blank)).to_numpy()
    if missing.any():
        column = f"adata.obs[{key!r}]"
        there = f"~({column}.isna() | {column}.isin({blank}))" if blank else f"{column}.notna()"
        kept = f"{column} = {column}.astype(object).where({there}, 'unknown')"
        also = f", or keep them as cells of no type: `{kept}` and unlabeled_category='unknown'" if unlabeled else ""
        raise ValueError(
            f"adata.obs[{key!r}] is missing (NaN or empty) for {missing.sum()} of {len(obs)} cells, the first is "
            f"{str(obs.index[missing.argmax()])!r}; expected a value for every cell. "
            f"Remove them with `adata = adata[{there}].copy()` or fill them in{also}."
        )


def _check_studies(studies: pd.Series, labels: pd.Series, key: str) -> None:
    """Every study has two types or more."""
    n_types = labels.astype(str).groupby(studies.astype(str)).nunique()
    if len(single := n_types[n_types < 2]):
        raise ValueError(
            f"adata.obs[{key!r}]: study {single.index[0]!r} has one type only; expected two or more, or nothing says "
            "how it sees genes. Leave it out, or merge it with another study of its protocol."
        )
    found = pd.crosstab(labels.astype(str).to_numpy(), studies.astype(str).to_numpy()) > 0
    twice = [
        f"{a!r} and {b!r}"
        for a, b in combinations(map(str, found.index), 2)
        if blood_type(a) is not None and blood_type(a) == blood_type(b) and not (found.loc[a] & found.loc[b]).any()
    ]
    if twice:
        warn(
            f"Types that no study has together read like one type under two names: {listed(twice)}. If they are, give "
            "them one name; else no study says how the two differ."
        )


def _check_types(labels: pd.Series, key: str, n_cells: np.ndarray | None = None) -> None:
    """Number, size and names of the types that occur in `labels`."""
    sizes = labels.value_counts()
    if n_cells is not None:
        sizes = pd.Series(n_cells, index=labels.index).groupby(labels, observed=True).sum().astype(int)
    sizes = sizes[sizes > 0].rename(index=str)
    if len(sizes) < 2:
        raise ValueError(f"adata.obs[{key!r}] has only one type, {sizes.index[0]!r}; deconvolution needs at least two.")
    spellings: dict[str, list[str]] = {}
    for name in sizes.index:
        spellings.setdefault(" ".join(name.split()).casefold(), []).append(name)
    same = [names for names in spellings.values() if len(names) > 1]
    if same:
        raise ValueError(
            f"adata.obs[{key!r}] has duplicate type names, which differ only in upper/lower case or spaces: "
            f"{'; '.join(map(repr, same[:3]))}. Give each type one name."
        )
    small = sizes[sizes < 2]
    if len(small):
        raise ValueError(
            f"adata.obs[{key!r}] has {len(small)} types with fewer than 2 cells: "
            f"{', '.join(f'{name!r} ({n} cell)' for name, n in small[:3].items())}{', ...' if len(small) > 3 else ''}. "
            "Remove these cells or merge them into another type."
        )
    words = {name: _words(name) for name in sizes.index}
    # numbers of clusters, such as "0,1" and "1", say nothing of each other
    words = {name: found for name, found in words.items() if any(re.search(r"[^\W\d_]", word) for word in found)}
    nested = sorted((a, b) for a, b in permutations(words, 2) if words[a] < words[b])
    if nested:
        warn(
            f"Some type names of adata.obs[{key!r}] read like parts of others: "
            f"{'; '.join(f'{b!r} of {a!r}' for a, b in nested[:5])}{'; ...' if len(nested) > 5 else ''}. "
            "If they are, their proportions cannot be told apart: use labels of one level."
        )


def _words(name: str) -> frozenset[str]:
    """Words of a type name: case and plural s dropped, "CD4+" as "cd4"; a final minus stays, as in "CD16-"."""
    words = re.findall(r"[^\W_]+(?:-(?![^\W_]))?", name.casefold())
    return frozenset(word[:-1] if len(word) > 2 and word.endswith("s") else word for word in words)


def check_counts(
    X,
    name: str,
    obs_names: pd.Index,
    var_names: pd.Index,
    *,
    refuse_logged: bool = True,
    allow_empty: bool = False,
    whole: bool = True,
) -> np.ndarray:
    """Raise ValueError unless `X` holds counts, warn when they are not integers if `whole`; True where a cell has none.

    Cells without counts are refused unless `allow_empty`, logged values unless `refuse_logged` is False.
    """
    largest, n_values, n_broken, empties = 0.0, 0, 0, []
    for rows, block in iter_rows(X):
        refuse_bad_values(block, rows, name, obs_names, var_names)
        values = block.data[block.data > 0]
        largest = max(largest, values.max(initial=0))
        n_values += values.size
        n_broken += values.size - int(is_integer(values).sum())
        empties.append(block.sum(axis=1).A1 == 0)
    empty = np.concatenate(empties)
    if not n_values:
        raise ValueError(f"{name} holds only zeros; expected counts. Pass the layer that holds them.")
    if empty.any() and not allow_empty:
        fix = "sc.pp.filter_cells(adata, min_counts=1)"
        if name != "adata.X":
            fix = f"adata = adata[np.asarray({name}.sum(axis=1)).ravel() > 0].copy()"
        raise ValueError(
            f"{name} has {empty.sum()} cells without any count, the first is {str(obs_names[empty.argmax()])!r}; they "
            f"say nothing about their type. Remove them with `{fix}`."
        )
    if n_broken and refuse_logged:
        refuse_small(largest, name)
    if n_broken and whole:
        warn(
            f"{name} holds values that are not integers ({n_broken / n_values:.1%} of those above zero); the model is "
            "meant for raw counts. Pass the layer that holds them, if there is one."
        )
    elif whole and largest == 1 and n_values > _MANY:
        warn(f"{name} holds no count above 1: it says whether a gene was seen. Pass the layer with the counts.")
    return empty


def refuse_small(largest: float, name: str) -> None:
    """Raise ValueError where the largest of values that are not all integers is one of a log scale."""
    if largest < _LOGGED_MAX:
        fix = "Pass the layer with counts (layer='counts'), or take them from adata.raw.to_adata()."
        if name.endswith(".npz"):
            fix = "Give the file with the counts."
        raise ValueError(
            f"{name} looks log-transformed or scaled: values are not integers and the maximum is {largest:.4g}; "
            f"expected raw counts. {fix}"
        )


def check_signature(signature: pd.DataFrame) -> None:
    """Refuse a signature (genes x types) that no solver could use.

    Raises
    ------
    ValueError
        Fewer than two types; no genes; duplicate genes or types; values that are no numbers, negative, NaN or infinite;
        a type without expression.

    Examples
    --------
    >>> import pandas as pd
    >>> check_signature(pd.DataFrame({"B": [1.0, 0.0], "T": [0.0, 2.0]}, index=["MS4A1", "CD3E"]))
    """
    if signature.shape[1] < 2 or not len(signature):
        raise ValueError(
            f"The signature has {len(signature)} genes x {signature.shape[1]} types; expected one row per gene and a "
            "column for each of two types or more."
        )
    for names, what in ((signature.index, "genes"), (signature.columns.astype(str), "types")):
        if names.has_duplicates:
            twice = [str(name) for name in names[names.duplicated()].unique()[:3]]
            raise ValueError(f"The signature names {what} more than once, such as {twice}; expected each once.")
    texts = [str(name) for name, dtype in signature.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)]
    if texts:
        raise ValueError(f"The signature's columns {texts[:3]} hold no numbers. Gene names belong in the index.")
    values = signature.to_numpy(dtype=float)
    bad = ~((values >= 0) & (values < float("inf")))
    if bad.any():
        row, column = (int(i[0]) for i in bad.nonzero())
        raise ValueError(
            f"The signature holds {values[row, column]:g} for gene {str(signature.index[row])!r} in "
            f"{str(signature.columns[column])!r}; expected finite values >= 0 on linear scale."
        )
    if len(empty := signature.columns[values.sum(axis=0) == 0]):
        raise ValueError(f"The signature has no expression for {[str(name) for name in empty[:3]]}. Remove such types.")
