"""Tables beside the expression: annotation of cells or samples, and proportions."""

from pathlib import Path

import numpy as np
import pandas as pd

from ._kinds import file_kind, read_any_cells
from ._text_tables import Cells, looks_numeric, to_numbers

LANE = r"-\d+$"

NOTHING = {"", "NA", "NaN", "nan"}


def match_rows(
    cells: pd.Index, table: pd.DataFrame, name: str, rows: str = "cells"
) -> tuple[pd.Index, pd.Index, object, str]:
    """Names of the cells and of the rows of `table` in one spelling, and the column that holds them.

    `rows` is what the cells are called in the error.
    """
    candidates = [(None, table.index.astype(str)), *((key, pd.Index(table[key].astype(str))) for key in table)]
    bare = cells.str.replace(LANE, "", regex=True)
    for shorten, how in ((False, ""), (True, " without the number behind their barcodes")):
        wanted = bare if shorten else cells
        if shorten and not bare.is_unique:
            break
        tried = [(key, names.str.replace(LANE, "", regex=True) if shorten else names) for key, names in candidates]
        key, names = max(tried, key=lambda pair: wanted.isin(pair[1]).mean())
        if wanted.isin(names).any():
            return wanted, names, key, how
    raise ValueError(
        f"{name} and the {rows} share no name: {rows} are {list(cells[:3])}, the columns of {name} begin with "
        f"{ {str(key): str(names[0]) for key, names in candidates[1:5] if len(names)} }. One column must "
        f"have the names of the {rows}."
    )


def read_obs(path: Path) -> pd.DataFrame:
    """A table of annotation: one row per cell or sample, columns of numbers or of text."""
    kind = file_kind(path)
    if kind not in ("text", "xlsx"):
        raise ValueError(f"{path} is no table ({kind}); expected csv, tsv or xlsx with one row per cell.")
    cells: Cells = read_any_cells(path, kind)
    heads = [head or f"column_{i}" for i, head in enumerate(cells.first)]
    twice = pd.Index(heads)[pd.Index(heads).duplicated()]
    if len(twice):
        raise ValueError(f"{path.name} has the column {twice[0]!r} more than once. Rename one.")
    columns = {}
    for head, key in zip(heads, cells.rows, strict=True):
        column = cells.rows[key]
        if key and column.dtype == object and looks_numeric(column):
            try:
                column = to_numbers(column.to_frame(), pd.RangeIndex(len(column)), pd.Index([head]), path.name)[0][:, 0]
            except ValueError:
                column = column.astype(str)
        columns[head] = np.asarray(column)
    return pd.DataFrame(columns)


def read_numbers(path: Path) -> pd.DataFrame:
    """A table of numbers with the names of its rows in the first column, such as proportions of samples.

    A row without any number in several columns, which a skipped sample has, is NaN.
    """
    kind = file_kind(path)
    if kind not in ("text", "xlsx"):
        raise ValueError(f"{path} is no table ({kind}); expected csv, tsv or xlsx with the names of samples first.")
    cells = read_any_cells(path, kind)
    names = pd.Index(cells.rows[0].astype(str), name=cells.first[0])
    columns = pd.Index(cells.first[1:])
    for name, key in zip(columns, cells.rows.columns[1:], strict=True):
        if not looks_numeric(cells.rows[key]):
            first = cells.rows[key].iloc[0]
            raise ValueError(
                f"{path}: column {name!r} is not numeric; its first cell is {first!r}. Correct or remove it."
            )
    for index, what in ((names, "sample"), (columns, "column")):
        if index.has_duplicates:
            raise ValueError(f"{path} has the {what} {index[index.duplicated()][0]!r} more than once. Rename one.")
    empty = cells.rows.iloc[:, 1:].apply(lambda cell: cell.isna() | cell.astype(str).str.strip().isin(NOTHING))
    given = ~(empty.all(axis=1) & (len(columns) > 1)).to_numpy()
    values = np.full((len(names), len(columns)), np.nan)
    values[given] = to_numbers(cells.rows.iloc[given, 1:], names[given], columns, path.name)[0]
    return pd.DataFrame(values, index=names, columns=columns)
