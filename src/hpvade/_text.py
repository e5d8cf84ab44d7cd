"""Words of messages, and what arguments must be."""

import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)
_BETWEEN = tuple(f"{os.sep}site-packages{os.sep}{name}{os.sep}" for name in ("scvi", "lightning", "torch"))


def listed(names: Iterable, n: int = 5) -> str:
    """The first `n` names, for a message."""
    names = [str(name) for name in names]
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "") if names else "nothing"


def whole_number(name: str, value, least: int = 1) -> None:
    """Refuse a value of the argument `name` that is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}.")


def name_map(argument: str, value) -> dict[str, str]:
    """Names by names, as text; TypeError when `value` is no mapping, nothing when it is None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} is a {type(value).__name__}; expected a dict, {{'own name': 'other name'}}.")
    return {str(name): str(target) for name, target in value.items()}


def warn(message: str) -> None:
    """Give a UserWarning at the user's line that called this package, however deep below it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_ours(file: str) -> bool:
    """Whether a file is of this package, or of those whose frames stand between two of ours."""
    return file.startswith(_PACKAGE) or any(name in file for name in _BETWEEN)


def is_mudata(data) -> bool:
    """Whether `data` is a MuData; mudata is not imported for the question."""
    mudata = sys.modules.get("mudata")
    return mudata is not None and isinstance(data, mudata.MuData)


def mudata_of(names: Iterable[str]) -> str:
    """What a MuData with modalities of these names is called."""
    return f"a MuData of {', '.join(map(repr, names)) or 'no modality'}"


def usual_modality(names: Iterable[str]) -> str:
    """The modality that messages name: ``"rna"`` where there is one."""
    names = list(names)
    return "rna" if "rna" in names or not names else names[0]


def check_adata(data, name: str, *, frame: bool = False, modality: bool = False) -> None:
    """Refuse what is no AnnData; of a MuData, say how to pass one modality.

    Parameters
    ----------
    data, name
        What was passed, and the argument's name.
    frame
        A DataFrame is fine, too.
    modality
        The function has an argument `modality`.

    Raises
    ------
    TypeError
        `data` is of another kind.

    Examples
    --------
    >>> check_adata([1, 2], "bulk")
    Traceback (most recent call last):
    TypeError: bulk is a list; expected an AnnData.
    """
    if is_mudata(data):
        one = usual_modality(data.mod)
        how = f"modality={one!r}, or mdata[{one!r}]" if modality else f"mdata[{one!r}]"
        raise TypeError(f"{name} is {mudata_of(data.mod)}; expected one of them. Pass {how}.")
    kind, module = type(data).__name__, (type(data).__module__ or "").split(".")[0]
    if frame and (module, kind) == ("pandas", "DataFrame"):
        return
    if "AnnData" not in {parent.__name__ for parent in type(data).__mro__}:  # anndata is not imported for the question
        how = " Make one: anndata.AnnData(table)." if (module, kind) == ("pandas", "DataFrame") else ""
        if isinstance(data, str | Path):
            how = " Read the file first, with hp.io.read_bulk or hp.io.read_reference."
        raise TypeError(f"{name} is a {kind}; expected {'an AnnData or a DataFrame' if frame else 'an AnnData'}.{how}")
