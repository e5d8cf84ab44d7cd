"""What must hold for a reference of sums of cells, and how sums that pass for cells are seen."""

import numpy as np
import pandas as pd

from .._text import warn
from ..io._rows import is_integer, iter_rows

_MOST = 1e9  # cells in a row
_LOGGED = 10.0  # per cell; the log of 10,000 is 9.2, and any type has genes of tens of counts
_EQUAL = 1e-3
COLUMN = "n_cells"  # where `hpvade.pp.summarize` writes the numbers of cells


def check_n_cells(values: pd.Series, key: str) -> np.ndarray:
    """Numbers of cells in each row (rows,); ValueError that names the first that is none."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=float)
    numbers = np.where(np.isfinite(numbers), numbers, 0)
    bad = ~((numbers >= 1) & (numbers <= _MOST) & is_integer(numbers))
    if bad.any():
        value = values.iloc[int(bad.argmax())]
        value = value.item() if isinstance(value, np.generic) else value
        raise ValueError(
            f"adata.obs[{key!r}] is {value!r} for row {str(values.index[bad.argmax()])!r} ({bad.sum()} such rows); "
            "expected the number of cells that each row sums up, a whole number above 0, up to a billion."
        )
    if (numbers == 1).mean() > 0.5:
        raise ValueError(
            f"adata.obs[{key!r}] is 1 for {(numbers == 1).sum()} of {len(numbers)} rows, which are single cells then; "
            "expected sums. Leave n_cells_key out for cells, and sum up cells that stand among sums with "
            "`hpvade.pp.summarize`."
        )
    return numbers


def warn_of_other_values(X, name: str, n_cells: np.ndarray) -> None:
    """Warn if sums (rows x genes) are of logged or normalised values; sums of scaled counts are fine."""
    totals, largest, whole = [], 0.0, True
    for rows, block in iter_rows(X):
        per_cell = block.max(axis=1).toarray().ravel() / n_cells[rows]
        totals.append(block.sum(axis=1).A1)
        largest = max(largest, float(per_cell.max(initial=0)))
        whole = whole and bool(is_integer(block.data).all())
    totals = np.concatenate(totals)
    if not whole and largest < _LOGGED:
        warn(
            f"{name} holds values that are not integers, the largest of them {largest:.3g} per cell: sums of logged "
            "values? Sum up raw counts; `hpvade.pp.summarize` does."
        )
    for one, per in ((totals, "row"), (totals / n_cells, "cell")):
        if len(one) > 2 and np.ptp(one) <= _EQUAL * one.mean():
            warn(
                f"All rows of {name} have the same total per {per}, {one.mean():.4g}: normalised values, which say "
                "nothing of the RNA in a cell of each type. Sum up raw counts; `hpvade.pp.summarize` does."
            )
            return


def warn_of_sums(obs: pd.DataFrame) -> None:
    """Warn if rows that are taken as cells seem to be sums of them."""
    if COLUMN not in obs.columns:
        return
    numbers = pd.to_numeric(obs[COLUMN], errors="coerce").to_numpy(dtype=float)
    numbers = np.where(np.isfinite(numbers), numbers, 0)
    if (is_integer(numbers) & (numbers > 1)).mean() > 0.5:
        warn(
            f"Rows are taken as single cells here, and adata.obs[{COLUMN!r}] says that they sum up "
            f"{np.median(numbers):g} (median). A model of sums is made by HPVADE.setup_anndata(..., "
            f"n_cells_key={COLUMN!r}); anything else needs the cells."
        )
