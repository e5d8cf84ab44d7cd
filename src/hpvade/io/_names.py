"""Names of types as columns of tables: what h5ad and zarr can hold, and one row for each sample.

Both formats keep a column under its name, as a path: "T/NK" would be the column "NK" in a group "T". Where a name
cannot be one, the table that is stored has a look-alike, and :func:`named` gives the name back.
"""

from collections.abc import Iterable, MutableMapping

import numpy as np
import pandas as pd

_LOOK_ALIKES = {"/": "\N{DIVISION SLASH}", "\0": "\N{SYMBOL FOR NULL}"}
_DOT, _EMPTY, _INDEX = "\N{ONE DOT LEADER}", "\N{OPEN BOX}", "\N{FULLWIDTH LOW LINE}index"


def writable_name(name) -> str:
    """A name that h5ad and zarr can hold: the name itself, or one that looks like it.

    Examples
    --------
    >>> writable_name("CD4 T"), writable_name("T/NK") == "T\N{DIVISION SLASH}NK"
    ('CD4 T', True)
    """
    text = str(name)
    for character, other in _LOOK_ALIKES.items():
        text = text.replace(character, other)
    if text.startswith("."):
        return _DOT + text[1:]
    return {"": _EMPTY, "_index": _INDEX}.get(text, text)


def plain_name(name: str) -> str:
    """The name that :func:`writable_name` was given."""
    text = {_EMPTY: "", _INDEX: "_index"}.get(name, str(name))
    text = "." + text[1:] if text.startswith(_DOT) else text
    for character, other in _LOOK_ALIKES.items():
        text = text.replace(other, character)
    return text


def writable(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose columns h5ad and zarr can hold; the same one where they can."""
    columns = [writable_name(name) for name in table.columns]
    return table if columns == list(table.columns) else table.set_axis(columns, axis=1)


def make_writable(tables: MutableMapping, keys: Iterable[str]) -> None:
    """Do so with some tables of an `obsm` or `varm`, as far as they are there."""
    for key in keys:
        if key in tables and (table := writable(tables[key])) is not tables[key]:
            tables[key] = table


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A stored table with the names that it stands for; the same one where they are the same."""
    columns = [plain_name(name) if isinstance(name, str) else name for name in table.columns]
    return table if columns == list(table.columns) else table.set_axis(columns, axis=1)


def rows_of(table: pd.DataFrame, samples: pd.Index, name: str) -> np.ndarray:
    """Row of a user's table for each sample; ValueError when samples have none, or more than one.

    Parameters
    ----------
    table
        Samples x anything. Where its index is that of the samples, in order, names may repeat.
    samples
        Names of the samples.
    name
        What the table is called, for the error.
    """
    if table.index.equals(samples):
        return np.arange(len(samples))
    if absent := [sample for sample in samples if sample not in table.index]:
        raise ValueError(f"{name} lacks {len(absent)} samples, such as {absent[:3]}; expected a row for each.")
    rows = np.flatnonzero(table.index.isin(samples))
    wanted = table.index[rows]
    if wanted.has_duplicates:
        twice = list(wanted[wanted.duplicated()].unique()[:3])
        raise ValueError(
            f"{name} has more than one row for some samples, such as {twice}; expected one row for each, or exactly "
            "the samples of the bulk in their order. Make the names unique, or leave the extra rows out."
        )
    return rows[wanted.get_indexer(samples)]
