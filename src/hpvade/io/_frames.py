"""One door for bulk in memory: an AnnData as it is, a DataFrame as an AnnData of its own."""

import pandas as pd
from anndata import AnnData
from pandas.api.types import is_numeric_dtype

from .._text import check_adata, listed


def as_bulk(bulk) -> AnnData:
    """An AnnData of samples x genes: `bulk` itself, or a new one of a DataFrame with one row per sample.

    Raises
    ------
    TypeError
        `bulk` is neither; for a MuData, says which modalities it has.
    ValueError
        The DataFrame has columns without numbers.

    Examples
    --------
    >>> as_bulk(pd.DataFrame({"CD3E": [1, 2], "MS4A1": [3, 4]}, index=["s1", "s2"])).shape
    (2, 2)
    """
    if isinstance(bulk, pd.DataFrame):
        return _of_frame(bulk)
    check_adata(bulk, "The bulk", frame=True)
    return bulk


def _of_frame(table: pd.DataFrame) -> AnnData:
    table = table.infer_objects()  # numbers that stood beside a text, as .T of a table with both leaves them
    texts = [column for column, dtype in table.dtypes.items() if not is_numeric_dtype(dtype)]
    if texts:
        if len(texts) == table.shape[1] and _reads_as_numbers(table):
            raise ValueError(
                "The bulk's columns hold numbers that are written as text; expected numbers. Convert them with "
                "`table.astype(float)`."
            )
        raise ValueError(
            f"The bulk's columns {listed(map(repr, texts), 3)} hold no numbers; expected a DataFrame with one row per "
            f"sample and one column per gene. If they name the genes, use `table.set_index({texts[0]!r}).T`."
        )
    names = {"obs": table.index, "var": table.columns}
    axes = {axis: pd.DataFrame(index=index.astype(str)) for axis, index in names.items()}
    plain = all(dtype.kind in "iufb" and not hasattr(dtype, "numpy_dtype") for dtype in table.dtypes)
    return AnnData(table.to_numpy() if plain else table.to_numpy(dtype=float, na_value=float("nan")), **axes)


def _reads_as_numbers(table: pd.DataFrame) -> bool:
    return table.apply(pd.to_numeric, errors="coerce").notna().all(axis=None)
