"""Types whose profiles differ from sample to sample: which ones, and how much they were found to."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..._text import listed
from ...solvers import VariableFit


def variable_columns(names: Sequence[str] | None, types: list[str]) -> tuple[int, ...]:
    """Positions of the types named, ascending; none when None.

    Raises
    ------
    TypeError
        One text instead of a list.
    ValueError
        A name that is no type, or all types.
    """
    if names is None:
        return ()
    if isinstance(names, str):
        raise TypeError(f"variable_types={names!r} is a text; expected a list of types, such as [{names!r}].")
    names = [str(name) for name in names]
    if unknown := [name for name in names if name not in types]:
        raise ValueError(f"variable_types names {listed(unknown)}; expected some of {listed(types, 30)}.")
    if len(set(names)) == len(types):
        raise ValueError(
            f"variable_types names all {len(types)} types; expected fewer: samples are compared by the types that do "
            "not vary. Name those that differ most, such as malignant cells."
        )
    return tuple(sorted({types.index(name) for name in names}))


def check_variable(variable: tuple[int, ...], *, refined: bool = True, unknown: bool = False) -> None:
    """Raise ValueError where types that vary cannot be told from something else."""
    if variable and not refined:
        raise ValueError(
            "variable_types are found by the regression; expected preset='default' and refine=True. The network knows "
            "one profile of each type."
        )
    if variable and unknown:
        raise ValueError(
            "variable_types and unknown=True both explain what the reference's profiles leave, and cannot be told "
            "apart. Use one of them: variable_types for a type of the reference, unknown=True for one that it lacks."
        )


def variation_table(fits: list, weight: np.ndarray, types: list[str]) -> pd.DataFrame | None:
    """Standard deviation of log expression between samples of the types that vary, mean over cohorts; None for none."""
    if not isinstance(fits[0], VariableFit):
        return None
    found = weight @ np.stack([fit.variation.double().cpu().numpy() for fit in fits])
    table = pd.DataFrame({"log_sd": found}, index=types)
    return table.iloc[list(fits[0].variable)]
