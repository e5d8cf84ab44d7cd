"""Public names of this room that live in others."""

from collections.abc import Callable
from importlib import import_module


def hand_on(package: str, **homes: str) -> tuple[Callable, list[str]]:
    """Make ``__getattr__`` and ``__all__`` of `package` for names that live in other modules, ``name="module"``."""

    def __getattr__(name: str):
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return __getattr__, sorted(homes)
