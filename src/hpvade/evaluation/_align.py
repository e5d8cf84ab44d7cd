"""Bring predicted and true proportions to the same samples and the same columns."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._text import check_adata, listed, warn
from ..io._names import named


def compare(
    prediction: pd.DataFrame,
    truth: pd.DataFrame,
    mapping: Mapping[str, str] | None = None,
    renormalize: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Align predicted and true proportions by name.

    Parameters
    ----------
    prediction
        Predicted proportions, samples x reference types.
    truth
        True proportions, samples x truth columns, in any order of samples.
    mapping
        Which truth column each reference type counts towards, ``{type: column}``; types with the same column are added
        up. Without it types and columns of the same name belong together. What is not named is left out.
    renormalize
        Scale both sides to sum to one over the columns that are compared. A sample in which nothing is predicted for
        any of them keeps its zeros.

    Returns
    -------
    Prediction and truth, both samples x compared columns, the samples in the order of `prediction`, the columns in the
    order of `truth`. ``.attrs["left_out_types"]`` and ``.attrs["left_out_columns"]`` list what is not compared.

    Raises
    ------
    ValueError
        When names are duplicated, `mapping` names types or columns that do not exist, nothing is shared, or a compared
        value is NaN or infinite.

    Warns
    -----
    UserWarning
        When samples are in only one of the two tables, or have no prediction (NaN for every type, as `deconvolve`
        gives samples that it skipped); they are left out.

    Examples
    --------
    >>> import pandas as pd
    >>> prediction = pd.DataFrame({"CD4 T": [0.5], "CD8 T": [0.1], "B": [0.2], "Platelet": [0.2]}, index=["s1"])
    >>> truth = pd.DataFrame({"T": [0.7], "B": [0.3]}, index=["s1"])
    >>> p, t = compare(prediction, truth, {"CD4 T": "T", "CD8 T": "T", "B": "B"})
    >>> p.round(2).loc["s1"].to_dict()
    {'T': 0.75, 'B': 0.25}
    """
    prediction, truth = predicted(_named(prediction, "prediction")), _named(truth, "truth")
    mapping = _complete(mapping, prediction.columns, truth.columns)
    compared = set(mapping.values())
    columns = [column for column in truth.columns if column in compared]
    if renormalize and len(columns) < 2:
        raise ValueError(
            f"Only the column {columns[0]!r} is compared; scaled to sum to one it would be 1 in every sample. "
            "Map types to two columns or more, or pass renormalize=False."
        )
    left_out = {
        "left_out_types": [name for name in prediction.columns if name not in mapping],
        "left_out_columns": [name for name in truth.columns if name not in compared],
    }
    samples = _shared_samples(prediction.index, truth.index)
    prediction = _finite(prediction.loc[samples, list(mapping)], "prediction")
    truth = _finite(truth.loc[samples, columns], "truth")
    if len(negative := truth.index[(truth < 0).any(axis=1)]):
        raise ValueError(
            f"The truth of {listed(negative, 3)} has values below zero; expected fractions. Were they transformed?"
        )
    prediction = prediction.T.groupby(mapping).sum().T[columns]
    if renormalize:
        empty = truth.index[truth.sum(axis=1) <= 0]
        if len(empty):
            raise ValueError(
                f"The truth of sample {empty[0]!r} sums to zero over {listed(columns)}, so it cannot be scaled to one. "
                "Leave the sample out, or pass renormalize=False."
            )
        prediction, truth = closed(prediction), closed(truth)
    prediction.attrs, truth.attrs = dict(left_out), dict(left_out)
    return prediction, truth


def table(bulk: AnnData, key: str) -> pd.DataFrame:
    """The samples x types table ``bulk.obsm[key]``, or an error that says what is missing."""
    check_adata(bulk, "bulk")
    if key not in bulk.obsm:
        raise KeyError(
            f"bulk.obsm has no {key!r}; it has {listed(bulk.obsm)}. `model.deconvolve(bulk)` stores predictions there; "
            "measured proportions are yours to store, as a DataFrame."
        )
    value = bulk.obsm[key]
    if not isinstance(value, pd.DataFrame):
        raise TypeError(
            f"bulk.obsm[{key!r}] is a {type(value).__name__}; store a DataFrame with one named column per type."
        )
    return named(value)


def predicted(*tables: pd.DataFrame) -> pd.DataFrame | tuple[pd.DataFrame, ...]:
    """The tables without the samples that are all NaN in one of them, which were skipped; a warning names them."""
    skipped = pd.Index([])
    for one in tables:
        skipped = skipped.union(one.index[one.isna().all(axis=1)], sort=False)
    if len(skipped):
        if len(skipped) == len(tables[0]):
            raise ValueError("No sample has a prediction: all rows are NaN. Deconvolve the bulk again.")
        warn(f"{len(skipped)} samples have no prediction (they were skipped) and are left out: {listed(skipped, 20)}.")
        tables = tuple(one[~one.index.isin(skipped)] for one in tables)
    return tables if len(tables) > 1 else tables[0]


def mapping_of(bulk: AnnData, truth_key: str, mapping: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """`mapping`, or the one stored beside the truth in ``bulk.uns``, or None."""
    return bulk.uns.get(Keys.mapping(truth_key)) if mapping is None else mapping


def closed(proportions: pd.DataFrame) -> pd.DataFrame:
    """Scale the rows to sum to one; rows of zeros stay zero."""
    total = proportions.sum(axis=1)
    return proportions.div(total.where(total > 0, 1.0), axis=0)


def _named(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    """A copy with unique names that are strings, as those of a CSV file may not be."""
    frame = frame.set_axis(frame.index.astype(str), axis=0).set_axis(frame.columns.astype(str), axis=1)
    for names, kind in ((frame.index, "sample"), (frame.columns, "column")):
        if names.has_duplicates:
            twice = listed(names[names.duplicated()].unique())
            raise ValueError(f"The {what} has duplicated {kind} names: {twice}. Give each {kind} a name of its own.")
    return frame


def _complete(mapping: Mapping[str, str] | None, types: pd.Index, columns: pd.Index) -> dict[str, str]:
    """`mapping` with every name checked; without one, the names that both sides share."""
    if mapping is None:
        mapping = {name: name for name in types if name in columns}
    else:
        mapping = mapping.to_dict() if isinstance(mapping, pd.Series) else mapping
        if not isinstance(mapping, Mapping):
            raise TypeError(f"mapping={mapping!r}; expected {{type: column of the truth}}, such as {{'CD4 T': 'T'}}.")
        mapping = {str(name): str(column) for name, column in mapping.items()}
        unknown_types = [name for name in mapping if name not in types]
        unknown_columns = sorted({name for name in mapping.values() if name not in columns})
        if unknown_types or unknown_columns:
            raise ValueError(
                f"The mapping names unknown reference types ({listed(unknown_types)}) and unknown truth columns "
                f"({listed(unknown_columns)}). Types: {listed(types, 30)}. Columns: {listed(columns, 30)}."
            )
    if not mapping:
        raise ValueError(
            f"No reference type is mapped to a truth column; pass mapping={{type: column}}. "
            f"Types: {listed(types, 30)}. Columns: {listed(columns, 30)}."
        )
    return mapping


def _shared_samples(predicted: pd.Index, measured: pd.Index) -> pd.Index:
    shared = predicted[predicted.isin(measured)]
    if shared.empty:
        raise ValueError(
            f"Prediction and truth share no sample. Prediction: {listed(predicted)}. Truth: {listed(measured)}. "
            "Expected the same names of samples in both indices."
        )
    single = predicted.symmetric_difference(measured, sort=False)
    if len(single):
        warn(f"{len(single)} samples are in only one of prediction and truth and are left out: {listed(single, 3)}.")
    return shared


def _finite(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    frame = frame.astype(float)
    rows, columns = np.nonzero(~np.isfinite(frame.to_numpy()))
    if len(rows):
        raise ValueError(
            f"The {what} of sample {frame.index[rows[0]]!r} is not a finite number in column "
            f"{frame.columns[columns[0]]!r} ({len(set(rows))} such samples). Leave such samples out."
        )
    return frame
