"""Metadata of any kind as contexts: values, kinds, vocabularies, field specifications, codes."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

MISSING = "<missing>"
"""Name of the category of cells without a value."""
_TYPES = {"bool": bool, "int": int, "float": float, "str": str, "tuple": tuple}


def normalise(value):
    """Plain value of a metadata entry: trimmed text, bool, int, float, tuple of texts, or None where there is none.

    Examples
    --------
    >>> [normalise(v) for v in (" a ", "", float("nan"), np.int64(3), ["x", "y"])]
    ['a', None, None, 3, ('x', 'y')]
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, list | tuple | set | frozenset | np.ndarray):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return tuple(str(item).strip() for item in items) or None
    if value is None or pd.isna(value):
        return None
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return str(value)


def values_of(column: pd.Series) -> list:
    """Normalised values of a metadata column."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        categories = [normalise(value) for value in column.cat.categories]
        return [categories[code] if code >= 0 else None for code in column.cat.codes]
    return [normalise(value) for value in column]


def encode(values: Iterable, vocab: Mapping, field: str, where: str) -> np.ndarray:
    """Codes of normalised values, -1 where there is none; ValueError that names a value which `vocab` does not know."""
    values = list(values)
    unknown = [v for v in dict.fromkeys(values) if v is not None and v not in vocab]
    if unknown:
        known = ", ".join(repr(v) for v in list(vocab)[:20]) + (", ..." if len(vocab) > 20 else "")
        raise ValueError(
            f"{where}: field {field!r} holds {unknown[0]!r}, which the model does not know; known values: {known}. "
            "Train with such cells, or remove them."
        )
    return np.array([-1 if v is None else vocab[v] for v in values], dtype=np.int64)


def vocabulary(values: Iterable) -> dict:
    """Ids of the distinct values, sorted by their text, missing values left out."""
    return {v: i for i, v in enumerate(sorted({v for v in values if v is not None}, key=str))}


def read_metadata(path: str | Path, *, allow_pickle: bool = False) -> pd.DataFrame:
    """Metadata of cells (cells x fields) from ``.csv``, ``.tsv``, ``.parquet`` or the obs of ``.h5ad``.

    A pickle (``.pkl``) executes what code it holds when it is read, so it is read with `allow_pickle` only; ValueError
    without.
    """
    path = Path(path)
    readers = {".csv": pd.read_csv, ".tsv": partial(pd.read_csv, sep="\t"), ".parquet": pd.read_parquet}
    readers |= {".pkl": pd.read_pickle}
    if path.suffix == ".pkl" and not allow_pickle:
        raise ValueError(
            f"{path} is a pickle, which can execute code when it is read. If the file is your own, pass "
            "allow_pickle=True; else save the table as .csv, .tsv or .parquet: "
            "`frame.to_csv(path)`."
        )
    if path.suffix not in [*readers, ".h5ad"]:
        raise ValueError(f"{path} is of an unknown kind; expected metadata in {', '.join([*readers, '.h5ad'])}.")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; expected metadata of cells.")
    try:
        frame = _obs(path) if path.suffix == ".h5ad" else readers[path.suffix](path)
    except Exception as error:
        raise ValueError(
            f"{path} is empty, damaged or no {path.suffix[1:]} file ({error}). Copy or write it again."
        ) from error
    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"{path} holds a {type(frame).__name__}; expected a table of cells x fields.")
    return frame


def _obs(path: Path) -> pd.DataFrame:
    adata = ad.read_h5ad(path, backed="r")
    try:
        return adata.obs
    finally:
        adata.file.close()


def build_context_specs(
    files: Sequence[str | Path],
    include: Sequence[str] | None = None,
    *,
    ignore: Sequence[str] = (),
    allow_pickle: bool = False,
) -> tuple[dict[str, dict], dict[str, dict]]:
    """Describe every metadata column of some files, and number its values.

    Parameters
    ----------
    files
        Metadata of cells: ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad`` (its obs), or ``.pkl`` with `allow_pickle`.
    include
        Fields for the model to use; the others are described, with ``using`` false.
    ignore
        Columns to leave out.
    allow_pickle
        Also read ``.pkl``. A pickle executes what code it holds: only for files of your own.

    Returns
    -------
    vocab
        ``{field: {value: id}}`` of the boolean and categorical fields, sorted by text, missing values left out.
    specs
        ``{field: {...}}`` with ``kind`` (boolean, categorical, categorical_multi, numeric, datetime or empty),
        ``cardinality``, ``using``, ``non_null_fraction``, ``non_null_count``, ``null_count``, ``total_count`` and, for
        numbers, ``numeric_summary`` (min, max, mean, std, p50).

    Raises
    ------
    KeyError
        A field of `include` is in no file.
    ValueError
        There are no files, a file is of an unknown kind or a pickle that was not allowed, or a field of `include` is
        numeric, a date or empty.

    Examples
    --------
    >>> import hpvade as hp, pandas as pd, tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> pd.DataFrame({"sex": ["f", "m", None], "age": [3, 4, 5]}).to_csv(folder / "meta.csv", index=False)
    >>> vocab, specs = hp.pp.build_context_specs([folder / "meta.csv"], include=["sex"])
    >>> vocab, specs["age"]["kind"], specs["sex"]["non_null_fraction"]
    ({'sex': {'f': 0, 'm': 1}}, 'numeric', 0.666667)
    """
    if not files:
        raise ValueError("there are no metadata files; expected at least one.")
    counts: dict[str, Counter] = {}
    dates, total = set(), 0
    for path in files:
        frame = read_metadata(path, allow_pickle=allow_pickle)
        total += len(frame)
        for name in frame.columns:
            if name in ignore or str(name) in ignore:
                continue
            column = frame[name]
            if pd.api.types.is_datetime64_any_dtype(column) or any(isinstance(v, date) for v in column[:100]):
                dates.add(str(name))
            # True and 1 are equal in Python, but not the same value
            counts.setdefault(str(name), Counter()).update((type(v), v) for v in values_of(column) if v is not None)
    include = [str(name) for name in include or ()]
    if absent := [name for name in include if name not in counts]:
        raise KeyError(f"include names {absent[0]!r}, which is in no file; found {', '.join(counts) or 'no columns'}.")
    specs, vocab = {}, {}
    for name, counter in counts.items():
        spec = _describe(counter, name in dates, total)
        spec["using"] = name in include
        if spec["using"] and spec["kind"] in ("numeric", "datetime", "empty"):
            raise ValueError(
                f"field {name!r} is {spec['kind']} and gets no head; bin it into categories, or leave it out."
            )
        if spec["kind"] in ("boolean", "categorical", "categorical_multi"):
            vocab[name] = vocabulary(value for _, value in counter)
            spec["cardinality"] = len(vocab[name])
        specs[name] = spec
    return vocab, specs


def _describe(counter: Counter, is_date: bool, total: int) -> dict:
    kinds, count = {kind for kind, _ in counter}, sum(counter.values())
    if not count:
        kind = "empty"
    elif is_date:
        kind = "datetime"
    elif tuple in kinds:
        kind = "categorical_multi"
    elif kinds == {bool}:
        kind = "boolean"
    else:
        kind = "numeric" if kinds <= {int, float} else "categorical"
    spec = {
        "kind": kind,
        "cardinality": len(counter),
        "using": False,
        "non_null_fraction": round(count / total, 6) if total else 0.0,
        "non_null_count": count,
        "null_count": total - count,
        "total_count": total,
    }
    if kind == "numeric":
        x = np.repeat([float(v) for _, v in counter], list(counter.values()))
        summary = {"min": x.min(), "max": x.max(), "mean": x.mean(), "std": x.std(), "p50": np.median(x)}
        spec["numeric_summary"] = {name: float(value) for name, value in summary.items()}
    return spec


def vocab_to_json(vocab: Mapping[str, Mapping]) -> str:
    """Vocabularies as JSON text, every value with its type, so that bool, number and tuple come back as they were."""
    document = {
        field: [{"type": type(value).__name__, "value": value, "id": i} for value, i in values.items()]
        for field, values in vocab.items()
    }
    return json.dumps(document, indent=1) + "\n"


def vocab_from_json(text: str) -> dict[str, dict]:
    """Vocabularies from the text of :func:`vocab_to_json`; ValueError for other text."""
    try:
        return {
            field: {_TYPES[entry["type"]](entry["value"]): int(entry["id"]) for entry in entries}
            for field, entries in json.loads(text).items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"not a vocabulary file ({type(error).__name__}: {error}); expected the file of "
            "`hpvade cycleae preprocess`."
        ) from error
