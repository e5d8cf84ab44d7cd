"""Words of messages."""

from collections.abc import Iterable


def listed(names: Iterable, n: int = 5) -> str:
    """The first `n` names, for a message."""
    names = [str(name) for name in names]
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "") if names else "nothing"
