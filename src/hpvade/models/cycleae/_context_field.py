"""The metadata fields of CycleAE as a field of scvi-tools' registry."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.table import Table
from scvi.data.fields import BaseAnnDataField

from ..._text import warn
from ._contexts import MISSING, encode, values_of, vocabulary

CONTEXT_KEY = "context"
MODES = ("category", "mask", "error")
_SLOT = "_scvi_context"
_MAX_NUMBERS = 100  # more distinct numbers than this are a measurement, not categories


class ContextField(BaseAnnDataField):
    """Codes of several obs columns, written to ``obsm["_scvi_context"]`` (cells x fields).

    A code counts the categories from 0; -1 is a missing value that is masked, the number of categories a missing
    value that is a category of its own.

    Parameters
    ----------
    context_keys
        Columns of obs.
    missing
        ``"category"``, ``"mask"`` or ``"error"``.
    """

    registry_key = CONTEXT_KEY
    attr_name = "obsm"
    attr_key = _SLOT
    is_empty = False

    def __init__(self, context_keys: Sequence, missing: str = "category"):
        self.context_keys, self.missing = list(context_keys), missing

    def validate_field(self, adata: AnnData) -> None:
        """Refuse absent columns."""
        columns = {str(column): column for column in adata.obs.columns}
        for key in map(str, self.context_keys):
            if key not in columns:
                shown = ", ".join(map(repr, columns)) or "no columns"
                raise KeyError(f"context_keys: {key!r} is not a column of adata.obs; found {shown}.")

    def register_field(self, adata: AnnData) -> dict:
        """Number the categories of every column and write the codes."""
        self.validate_field(adata)
        state = describe(adata.obs, self.context_keys, self.missing)
        adata.obsm[_SLOT] = codes_of(adata.obs, state, "adata.obs")
        return state

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Write the codes of other cells in the numbering of `state_registry`."""
        self.context_keys = state_registry["fields"]
        self.validate_field(adata_target)
        adata_target.obsm[_SLOT] = codes_of(adata_target.obs, state_registry, "adata.obs")
        return state_registry

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of fields."""
        return {"n_context_fields": len(state_registry["fields"])}

    def view_state_registry(self, state_registry: dict) -> Table:
        """Fields with their categories."""
        table = Table(title="context State Registry")
        for name in ("Field", "Categories"):
            table.add_column(name)
        for field, categories in zip(state_registry["fields"], state_registry["categories"], strict=True):
            table.add_row(field, ", ".join(map(str, categories)))
        return table


def describe(obs: pd.DataFrame, context_keys: Sequence, missing: str) -> dict:
    """Fields with at least two categories, their categories, and whether cells lack a value.

    Raises
    ------
    ValueError
        A value is missing and must not be; a column holds measurements; no field is left; a name is reserved.
    """
    columns = {str(column): column for column in obs.columns}
    state = {"fields": [], "categories": [], "has_missing": [], "missing": missing}
    for field in map(str, context_keys):
        values = values_of(obs[columns[field]])
        categories = list(vocabulary(values))
        n_missing = sum(value is None for value in values)
        if field == "base":
            raise ValueError("a field cannot be called 'base', the name of the shared head. Rename the column.")
        if field in state["fields"]:
            raise ValueError(f"field {field!r} is named twice; expected every column once.")
        if n_missing and missing == "error":
            raise ValueError(
                f"adata.obs[{field!r}] is missing for {n_missing} of {len(values)} cells. Fill it in, or pass "
                "missing='category' or missing='mask'."
            )
        numbers = [v for v in categories if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) > _MAX_NUMBERS:
            raise ValueError(
                f"adata.obs[{field!r}] holds {len(numbers)} different numbers, which would give one category each. "
                "Bin them, as with pd.cut."
            )
        if MISSING in categories:
            raise ValueError(f"adata.obs[{field!r}] holds {MISSING!r}, the name of missing values. Use NaN instead.")
        if len(categories) < 2:
            warn(
                f"field {field!r} is skipped: it has {len(categories)} "
                f"categor{'y' if len(categories) == 1 else 'ies'}, so there is nothing to translate it to."
            )
            continue
        state["fields"].append(field)
        state["categories"].append(categories)
        state["has_missing"].append(bool(n_missing) and missing == "category")
    if not state["fields"]:
        raise ValueError(f"no field of context_keys={list(context_keys)} has two categories; expected at least one.")
    return state


def codes_of(obs: pd.DataFrame, state: Mapping, where: str) -> np.ndarray:
    """Codes (cells x fields) in the numbering of `state`; ValueError for unknown and for unforeseen missing values."""
    columns = {str(column): column for column in obs.columns}
    codes = np.empty((len(obs), len(state["fields"])), dtype=np.int64)
    for i, (field, categories) in enumerate(zip(state["fields"], state["categories"], strict=True)):
        column = encode(values_of(obs[columns[field]]), {v: j for j, v in enumerate(categories)}, field, where)
        lacking = column < 0
        if lacking.any() and state["missing"] != "mask":
            if not state["has_missing"][i]:
                raise ValueError(
                    f"{where}: field {field!r} is missing for {lacking.sum()} of {len(column)} cells, and the model "
                    "has seen no such cell. Fill it in, or set up the training data with missing='mask'."
                )
            column[lacking] = len(categories)
        codes[:, i] = column
    return codes
