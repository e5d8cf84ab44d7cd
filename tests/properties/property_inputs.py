"""Inputs as users bring them: small cells and bulk with the faults that files have, and how an answer is judged."""

import contextlib
import re
import traceback
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy import sparse

import hpvade as hp

PACKAGE = str(Path(hp.__file__).parent)
OURS = (
    PACKAGE,
    str(Path(__file__).parents[1]),
    "<string>",
    "/usr/lib",
    contextlib.__file__,
)  # where our warnings point
# true ones of anndata and scvi-tools about the user's data, at setup
THEIRS = re.compile(
    "names are not unique|Duplicated obs_names|formatted as CSR|fewer than 3 cells|unnormalized count data"
)
TYPES = ["T/NK", "B", "β ☃"]


def cells() -> ad.AnnData:
    """90 cells x 60 genes of three types whose names files cannot carry as they are."""
    adata = hp.datasets.planted_contexts(90, 60, n_types=3, seed=0)
    adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(TYPES)
    adata.varm.clear()
    return adata


# ---------------------------------------------------------------- faults of values: (matrix of float64, rng) -> matrix


def _at(value):
    def change(X, rng):
        if X.size:
            X[rng.integers(X.shape[0]), rng.integers(X.shape[1])] = value
        return X

    return change


def _row(value):
    def change(X, rng):
        if X.size:
            X[rng.integers(X.shape[0])] = value
        return X

    return change


def _column(value):
    def change(X, rng):
        if X.size:
            X[:, rng.integers(X.shape[1])] = value
        return X

    return change


def _times(factor):
    return lambda X, rng: X * factor


def _one_read(X, rng):
    X = np.zeros_like(X)
    return _at(1.0)(X, rng)


def _row_of_one_read(X, rng):
    if X.size:
        row = rng.integers(X.shape[0])
        X[row] = 0
        X[row, rng.integers(X.shape[1])] = 1
    return X


VALUES = {
    "a NaN": _at(np.nan),
    "an infinity": _at(np.inf),
    "minus infinity": _at(-np.inf),
    "a negative": _at(-1.0),
    "a row of NaN": _row(np.nan),
    "a row of infinity": _row(np.inf),
    "a row of zeros": _row(0.0),
    "a row of one read": _row_of_one_read,
    "a row on another scale": lambda X, rng: (_row(1)(np.zeros_like(X), rng) * 1e9 + 1) * X,
    "a logged row": lambda X, rng: np.where(_row(1)(np.zeros_like(X), rng) > 0, np.log2(np.abs(X) + 1), X),
    "a gene of zeros": _column(0.0),
    "a constant gene": _column(3.0),
    "a huge gene": _column(1e12),
    "zeros": _times(0.0),
    "one read": _one_read,
    "constant": lambda X, rng: np.full_like(X, 2.0),
    "fractions": lambda X, rng: X / np.maximum(X.sum(axis=1, keepdims=True), 1),
    "logged": lambda X, rng: np.log1p(np.abs(X)),
    "centred": lambda X, rng: X - X.mean(axis=0) if X.size else X,
    "subnormal in float32": _times(1e-44),
    "subnormal": _times(1e-315),
    "tiny": _times(1e-25),
    "x 1e12": _times(1e12),
    "the sum overflows float32": _times(1e36),
    "beyond float32": _times(1e60),
    "the sum overflows float64": lambda X, rng: np.where(X > 0, 1e308, 0.0),
}


# ---------------------------------------------------------------- faults of names and shapes: (adata, rng) -> adata


def _genes(names):
    def change(adata, rng):
        adata.var_names = pd.Index(names(adata.var_names.astype(str), rng))
        return adata

    return change


def _samples(names):
    def change(adata, rng):
        adata.obs_names = pd.Index(names(adata.obs_names.astype(str), rng))
        return adata

    return change


def _first(values):
    return lambda names, rng: [*values[: len(names)], *names[len(values) :]]


def _taken(rows=None, columns=None):
    def change(adata, rng):
        rows_, columns_ = (
            slice(None) if f is None else f(n, rng) for f, n in zip((rows, columns), adata.shape, strict=True)
        )
        return adata[rows_][:, columns_].copy()

    return change


def _shuffled(n, rng):
    return rng.permutation(n)


def _view(adata, rng):
    return adata[:]


def _obs(**columns):
    def change(adata, rng):
        for name, make in columns.items():
            adata.obs[name] = make(adata.n_obs)
        return adata

    return change


def _uns(adata, rng):
    adata.uns["hpvade_proportions"] = {"a": [1, 2], "mine": "text"}
    adata.obsm["hpvade_proportions"] = np.zeros((adata.n_obs, 2))
    return adata


SHAPES = {
    "repeated genes": _genes(lambda names, rng: [*names[:1], *names[:-1]] if len(names) else []),
    "blank genes": _genes(_first(["", " ", "\t"])),
    "odd genes": _genes(_first(["β", "a/b", "1e5", "nan", "a\nb", "x" * 400])),
    "numbers as genes": _genes(lambda names, rng: [str(i) for i in range(len(names))]),
    "foreign genes": _genes(lambda names, rng: [f"ENSG{i:011d}" for i in range(len(names))]),
    "upper case": _genes(lambda names, rng: [name.upper() for name in names]),
    "genes as pandas strings": _genes(lambda names, rng: names.astype("string")),
    "genes as categories": _genes(lambda names, rng: pd.CategoricalIndex(names)),
    "shuffled genes": _taken(columns=_shuffled),
    "half of the genes": _taken(columns=lambda n, rng: rng.permutation(n)[: n // 2]),
    "two genes": _taken(columns=lambda n, rng: slice(0, 2)),
    "one gene": _taken(columns=lambda n, rng: slice(0, 1)),
    "no genes": _taken(columns=lambda n, rng: slice(0, 0)),
    "repeated rows": _samples(lambda names, rng: [*names[:1], *names[:-1]] if len(names) else []),
    "odd rows": _samples(_first(["", " s ", "β/☃", "nan", "0", "a\nb"])),
    "rows as pandas strings": _samples(lambda names, rng: names.astype("string")),
    "shuffled rows": _taken(_shuffled),
    "one row": _taken(lambda n, rng: slice(0, 1)),
    "two rows": _taken(lambda n, rng: slice(0, 2)),
    "no rows": _taken(lambda n, rng: slice(0, 0)),
    "a view": _view,
    "results of before": _uns,
}


def _labels(change):
    def apply(adata, rng):
        if "cell_type" in adata.obs:
            adata.obs["cell_type"] = change(adata.obs["cell_type"], rng)
        return adata

    return apply


def _set_some(value):
    def change(labels, rng):
        labels = labels.astype(object)
        if len(labels):
            labels.iloc[rng.integers(len(labels))] = value
        return labels

    return change


LABELS = {
    "a label of NaN": _labels(_set_some(np.nan)),
    "a blank label": _labels(_set_some("  ")),
    "an unseen label": _labels(_set_some("new/type ")),
    "a label that is a number": _labels(_set_some(3)),
    "a category without cells": _labels(lambda labels, rng: labels.astype("category").cat.add_categories("ghost")),
    "labels in another order": _labels(
        lambda labels, rng: pd.Categorical(labels, categories=list(labels.astype("category").cat.categories)[::-1])
    ),
    "labels as text": _labels(lambda labels, rng: labels.astype(str).astype(object)),
    "labels as pandas strings": _labels(lambda labels, rng: labels.astype("string")),
    "labels as integers": _labels(lambda labels, rng: labels.astype("category").cat.codes.to_numpy()),
    "labels as floats": _labels(lambda labels, rng: labels.astype("category").cat.codes.to_numpy() + 0.5),
    "labels as truth values": _labels(lambda labels, rng: (labels == TYPES[0]).to_numpy()),
    "one type": _labels(lambda labels, rng: pd.Categorical(["B"] * len(labels))),
    "types that differ in case": _labels(_set_some("b")),
    "no labels": lambda adata, rng: _without(adata, "cell_type"),
    "no condition": lambda adata, rng: _without(adata, "condition"),
    "a condition of NaN": lambda adata, rng: _with_missing(adata, "condition"),
    "an unseen tissue": lambda adata, rng: _with_missing(adata, "tissue", "liver/1 "),
}


def _without(adata, column):
    adata.obs = adata.obs.drop(columns=column, errors="ignore")
    return adata


def _with_missing(adata, column, value=np.nan):
    if column in adata.obs and adata.n_obs:
        values = adata.obs[column].astype(object)
        values.iloc[0] = value
        adata.obs[column] = values
    return adata


STORAGES = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "dense": np.asarray,
    "fortran": np.asfortranarray,
}
DTYPES = ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]


@st.composite
def nasty(draw, base, more=()):
    """A copy of `base` with up to three faults of its values, names, shape or labels, and how it is stored."""
    faults = {**VALUES, **SHAPES, **dict(more)}
    names = draw(
        st.lists(st.sampled_from(list(faults)), max_size=draw(st.sampled_from([0, 1, 1, 1, 2, 3])), unique=True)
    )
    storage, dtype = draw(st.sampled_from(list(STORAGES))), draw(st.sampled_from([*["float32"] * 8, *DTYPES]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    place = draw(st.sampled_from([*["X"] * 5, "layer", "both"]))
    return spoiled(base, names, storage, dtype, rng, place), [*names, storage, dtype, place]


def spoiled(base, faults, storage="csr", dtype="float32", rng=None, place="X"):
    """A copy of `base` with these faults, stored like that; in ``layers["counts"]`` where `place` says so."""
    rng = np.random.default_rng(0) if rng is None else rng
    adata = base.copy()
    X = adata.X.toarray() if sparse.issparse(adata.X) else np.array(adata.X)
    X = X.astype(np.float64)
    known = {**VALUES, **SHAPES, **LABELS}
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in faults:
            if name in VALUES:
                X = known[name](X, rng)
        # SciPy has no half precision
        dense = storage in ("dense", "fortran")
        adata.X = STORAGES[storage](X.astype(dtype if dense or dtype != "float16" else "float64"))
        if place != "X":
            adata.layers["counts"] = adata.X
        if place == "layer":
            adata.X = None
        for name in sorted(faults, key=lambda name: name == "a view"):
            if name not in VALUES:
                adata = known[name](adata, rng)
    return adata


# ---------------------------------------------------------------- judging an answer

REMEDY = re.compile(
    r"\b(pass|use|give|expected|expects|choose|remove|drop|name|set|call|save|load|copy|install|leave|add|make|check|"
    r"merge|train|rename|needs?|take|write|read|convert|map|replace|fill|sum|omit|is one of|keep|put|correct|see|say|"
    r"translate|lower|raise|ask|again|damaged|truncated|comments only|download|fetch)\b",
    re.IGNORECASE,
)
DOCUMENTED = (ValueError, KeyError, TypeError, NotImplementedError, FileNotFoundError)


def refuse(error: BaseException, what: str = "") -> None:
    """Fail unless an error is one that the docs name, raised by this package, in words that say what to do."""
    where = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    assert type(error) in DOCUMENTED, f"{what}: {type(error).__name__}: {error}"
    assert where[-1].startswith(PACKAGE), f"{what}: raised in {where[-1]}: {type(error).__name__}: {error}"
    text = str(error)
    choices = re.search(r"found [\['\"]|it has|there are|the model has|known values|Types:", text)
    assert len(text) > 20 and (choices or REMEDY.search(text)), f"{what}: no remedy: {text}"


COUNTS = {"answered": 0, "refused": 0}


@contextlib.contextmanager
def judged(adata, writes=(), what=""):
    """Run a block on `adata`: only documented errors, no leaked warnings, and only documented keys change.

    ``outcome["error"]`` is why it was refused, ``outcome["skipped"]`` whether a warning said that samples were skipped.
    """
    before, outcome = contents(adata), {"error": None, "skipped": False}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield outcome
        except AssertionError:
            raise
        except Exception as error:  # noqa: BLE001
            refuse(error, what)
            outcome["error"] = error
    COUNTS["refused" if outcome["error"] else "answered"] += 1
    outcome["skipped"] = any("skipped" in str(w.message) for w in caught)
    leaked = [
        f"{w.category.__name__}: {w.message} ({w.filename}:{w.lineno})"
        for w in caught
        if issubclass(w.category, RuntimeWarning)
        or (w.category is UserWarning and not w.filename.startswith(OURS) and not THEIRS.search(str(w.message)))
    ]
    plt.close("all")  # figures are the user's to close, and matplotlib warns of many
    assert not leaked, f"{what}: {leaked}"
    # what scvi-tools writes to know cells again may stay when an answer is refused later
    registered = tuple(name for name in writes if name == "_scvi")
    compare(contents(adata), before, registered if outcome["error"] else writes, what)


def contents(adata) -> dict:
    """Everything in an AnnData, or the parts of a MuData, copied, by (slot, key)."""
    if not isinstance(adata, ad.AnnData):
        parts = getattr(adata, "mod", {})
        return {(name, *key): value for name, part in parts.items() for key, value in contents(part).items()}
    found = {("X", ""): _copied(adata.X), ("index", "obs"): adata.obs_names.copy()}
    found |= {("index", "var"): adata.var_names.copy(), ("view", ""): adata.is_view}
    for slot in ("obs", "var", "layers", "obsm", "varm", "obsp", "varp", "uns"):
        found |= {(slot, key): _copied(getattr(adata, slot)[key]) for key in getattr(adata, slot)}
    return found


def _copied(value):
    return value.copy() if hasattr(value, "copy") else value


def compare(after, before, writes, what):
    """Fail where contents differ in other keys than those that start with one of `writes`.

    A view stays a view, unless something was written: anndata then makes it an AnnData of its own, and says so.
    """
    differing, written = before.keys() | after.keys(), False
    for key in before.keys() | after.keys():
        slot, name = key[-2:]
        if slot in ("obs", "obsm", "varm", "uns", "layers", "var", "obsp") and str(name).startswith(tuple(writes)):
            differing.remove(key)
            written |= key not in before or key not in after or not _equal(after[key], before[key])
    for key in differing:
        if written and key[-2:] == ("view", ""):
            continue
        assert key in after, f"{what}: {key} is gone"
        assert key in before, f"{what}: {key} is new"
        assert _equal(after[key], before[key]), f"{what}: {key} has changed"


def _equal(a, b) -> bool:
    if sparse.issparse(a) and sparse.issparse(b):  # setup turns SciPy's arrays into matrices, and says so
        return a.format == b.format and a.dtype == b.dtype and _equal(a.toarray(), b.toarray())
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if a.dtype.kind in "fc":
            return np.array_equal(a, b, equal_nan=True)
        return np.array_equal(a, b)
    if isinstance(a, pd.DataFrame | pd.Series | pd.Index):
        return a.equals(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return a == b or a is b


def finite(value, where="result", *, nan=False):
    """Fail where a result, whatever it is made of, holds an infinity, or a NaN unless that is allowed."""
    if isinstance(value, dict):
        for key, part in value.items():
            finite(part, f"{where}[{key!r}]", nan=nan)
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            finite(part, f"{where}[{i}]", nan=nan)
    elif isinstance(value, ad.AnnData):
        finite({"X": value.X, "layers": dict(value.layers), "obsm": dict(value.obsm)}, where, nan=nan)
    elif isinstance(value, pd.DataFrame):
        for name, column in value.items():
            finite(column, f"{where}[{name!r}]", nan=nan)
    elif isinstance(value, pd.Series):
        if pd.api.types.is_numeric_dtype(value):
            finite(value.to_numpy(), where, nan=nan)
    elif hasattr(value, "detach"):
        finite(value.detach().cpu().numpy(), where, nan=nan)
    elif sparse.issparse(value):
        finite(value.data, where, nan=nan)
    elif isinstance(value, np.ndarray | float | np.floating):
        array = np.asarray(value)
        if array.dtype.kind == "f":
            assert not np.isinf(array).any(), f"{where} holds an infinity"
            assert nan or not np.isnan(array).any(), f"{where} holds NaN"


def writable(adata, folder) -> bool:
    """Whether an AnnData can be written to h5ad."""
    if not isinstance(adata, ad.AnnData):
        return True
    try:
        adata.write_h5ad(folder / "written.h5ad")
    except Exception:  # noqa: BLE001
        return False
    return True
