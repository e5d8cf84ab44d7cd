"""Plain JSON for the Python, NumPy and pandas values that a model keeps, exact both ways."""

import math

import numpy as np
import pandas as pd

_TYPE = "__type__"
MAX_DEPTH = 64  # of values in values; models need about ten
_MAX_ITEM = 2**20  # bytes of one item of an array
_KINDS = "biufUO"  # NumPy kinds that JSON can hold exactly: bool, integers, floats up to 64 bits, str, object


def encode(value, name: str, depth: int = 0):
    """Turn a value into lists, dicts, strings and numbers that standard JSON can hold.

    Handles None, bool, int, float, str, list, tuple, dict, NumPy arrays and scalars, pandas DataFrames and Index;
    :func:`decode` gives back an equal value of the same type and dtype (subclasses of dict come back as dict, a
    RangeIndex as an integer Index).

    Parameters
    ----------
    value
        The value.
    name
        What the value is called, for the error message.
    depth
        How many values it lies in.

    Raises
    ------
    TypeError
        The value, or something in it, is of another type, or lies in more than 64 others.

    Examples
    --------
    >>> encode((1, float("nan")), "x")
    {'__type__': 'tuple', 'values': [1, {'__type__': 'float', 'value': 'nan'}]}
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if depth > MAX_DEPTH:
        raise TypeError(f"{name} holds values nested more than {MAX_DEPTH} deep, which cannot be saved.")
    depth += 1
    if type(value) is float:
        return value if math.isfinite(value) else {_TYPE: "float", "value": repr(value)}
    if isinstance(value, np.ndarray) and _plain(value.dtype):
        return {_TYPE: "ndarray", "dtype": value.dtype.str, "shape": list(value.shape), "values": _flat(value, name)}
    if isinstance(value, np.generic) and _plain(value.dtype):
        return {_TYPE: "scalar", "dtype": value.dtype.str, "value": encode(value.item(), name)}
    if type(value) is list:
        return [encode(item, name, depth) for item in value]
    if type(value) is tuple:
        return {_TYPE: "tuple", "values": [encode(item, name, depth) for item in value]}
    if isinstance(value, dict):
        if all(type(key) is str for key in value) and _TYPE not in value:
            return {key: encode(item, f"{name}[{key!r}]", depth) for key, item in value.items()}
        items = [[encode(k, name, depth), encode(v, f"{name}[{k!r}]", depth)] for k, v in value.items()]
        return {_TYPE: "dict", "items": items}
    if isinstance(value, pd.DataFrame):
        columns = [_encode_column(value.iloc[:, i], name) for i in range(value.shape[1])]
        return {_TYPE: "dataframe", "index": encode(value.index, name), "columns": encode(value.columns, name)} | {
            "values": columns
        }
    if isinstance(value, pd.Index) and not isinstance(value, pd.MultiIndex):
        return {_TYPE: "index", "name": encode(value.name, name), "values": _encode_column(value, name)}
    raise TypeError(
        f"{name} is a {type(value).__name__}, which cannot be saved. Expected None, a bool, number, str, list, tuple, "
        "dict, NumPy array or scalar, pandas DataFrame or Index. Keep tensors in buffers of the module; a name "
        "without an underscore at its end is not saved."
    )


def decode(value):
    """Turn the output of :func:`encode` back into the value; ValueError for what `encode` does not write."""
    if _depth(value) > 4 * MAX_DEPTH:
        raise ValueError(f"values are nested more than {4 * MAX_DEPTH} deep.")
    return _decode(value)


def _depth(value) -> int:
    """Depth of nested lists and dicts."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, list | dict) and item]:
        depth += 1
        level = [part for item in level for part in (item.values() if isinstance(item, dict) else item)]
    return depth


def _decode(value):
    if isinstance(value, list):
        return [_decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_TYPE)
    if kind is None:
        return {key: _decode(item) for key, item in value.items()}
    if kind not in _DECODERS:
        raise ValueError(f"unknown type {kind!r} in the saved model; expected one of {sorted(_DECODERS)}.")
    return _DECODERS[kind](value)


def _plain(dtype: np.dtype) -> bool:
    return dtype.kind in _KINDS and (dtype.kind != "f" or dtype.itemsize <= 8)


def _flat(array: np.ndarray, name: str) -> list:
    if array.dtype.kind == "O" or (array.dtype.kind == "f" and not np.isfinite(array).all()):
        return [encode(item, name) for item in array.ravel().tolist()]
    return array.ravel().tolist()


def _encode_column(column, name: str) -> dict:
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, categories = pd.Categorical(column).codes, encode(column.dtype.categories, name)
        return {
            _TYPE: "categorical",
            "codes": encode(codes, name),
            "categories": categories,
            "ordered": bool(column.dtype.ordered),
        }
    if isinstance(column.dtype, np.dtype):
        return encode(column.to_numpy(), name)
    values = [None if missing else item for item, missing in zip(column, pd.isna(column), strict=True)]
    return {_TYPE: "extension", "dtype": str(column.dtype), "values": encode(values, name)}


def _dtype(name: str) -> np.dtype:
    dtype = np.dtype(name)
    if not _plain(dtype) or dtype.itemsize > _MAX_ITEM:
        raise ValueError(f"dtype {name!r} is not one that a saved model holds.")
    return dtype


def _decode_array(value: dict) -> np.ndarray:
    array = np.empty(len(value["values"]), dtype=_dtype(value["dtype"]))
    for i, item in enumerate(_decode(value["values"])):
        array[i] = item  # one by one: a slice of objects would take a list apart
    return array.reshape(value["shape"])


def _decode_frame(value: dict) -> pd.DataFrame:
    columns = [_decode(column) for column in value["values"]]
    index = _decode(value["index"])
    frame = pd.DataFrame({i: pd.Series(column, index=index) for i, column in enumerate(columns)}, index=index)
    frame.columns = _decode(value["columns"])
    return frame


_DECODERS = {
    "float": lambda value: float(value["value"]),
    "tuple": lambda value: tuple(_decode(value["values"])),
    "dict": lambda value: {_decode(key): _decode(item) for key, item in value["items"]},
    "scalar": lambda value: _dtype(value["dtype"]).type(_decode(value["value"])),
    "ndarray": _decode_array,
    "categorical": lambda value: pd.Categorical.from_codes(
        _decode(value["codes"]), categories=_decode(value["categories"]), ordered=value["ordered"]
    ),
    "extension": lambda value: pd.array(_decode(value["values"]), dtype=value["dtype"]),
    "index": lambda value: pd.Index(_decode(value["values"]), name=_decode(value["name"])),
    "dataframe": _decode_frame,
}
