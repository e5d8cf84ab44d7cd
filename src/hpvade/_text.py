"""Words of messages."""

import os
import sys
import warnings
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path

_PACKAGE = str(Path(__file__).parent)


def listed(names: Iterable, n: int = 5) -> str:
    """The first `n` names, for a message."""
    names = [str(name) for name in names]
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "") if names else "nothing"


def whole_number(name: str, value, least: int = 1) -> None:
    """Refuse a value of the argument `name` that is no whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}; expected a whole number of at least {least}.")


def warn(message: str) -> None:
    """Give a UserWarning at the user's line that called this package, however deep below it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)


def _is_ours(file: str) -> bool:
    """Whether a file is of this package, or torch's between two of ours: decorators such as ``no_grad``."""
    return file.startswith(_PACKAGE) or file.endswith(os.path.join("torch", "utils", "_contextlib.py"))
