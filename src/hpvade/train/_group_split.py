"""Splits that hold out whole groups of cells, such as experiments or perturbations."""

import numpy as np

from ._splitter import held_out_shares


def split_groups(
    groups: np.ndarray,
    rng: np.random.Generator,
    *,
    train_size: float = 0.9,
    validation_size: float | None = None,
    keep: np.ndarray | None = None,
    name: str = "group",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split cells into training, validation and test sets of whole groups, in random order.

    Groups are held out until the set has its share of cells or more, at least one for a set with a share above zero;
    the last group stays for training.

    Parameters
    ----------
    groups
        Names or codes (cells,).
    rng
        Source of randomness.
    train_size, validation_size
        Shares of cells; validation is the rest when None, test what remains.
    keep
        Names of groups that are never held out.
    name
        What the groups are, for the error.

    Returns
    -------
    Sorted indices of training, validation and test cells.

    Raises
    ------
    ValueError
        The shares are out of range, or there are not enough groups to hold one out.

    Examples
    --------
    >>> import numpy as np
    >>> groups = np.repeat(["a", "b", "c"], 10)
    >>> train, validation, test = split_groups(groups, np.random.default_rng(0), train_size=0.7)
    >>> len(train), len(validation), len(test)
    (20, 10, 0)
    """
    shares = held_out_shares(train_size, validation_size)
    n = len(groups)
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    free = np.ones(len(names), dtype=bool) if keep is None else ~np.isin(names, keep)
    wanted = [max(round(share * n), share > 1e-9) for share in shares]
    order = list(rng.permutation(np.flatnonzero(free)))
    if sum(w > 0 for w in wanted) > len(order) - bool(free.all()):
        raise ValueError(
            f"{len(names)} {name}s, of which {len(order)} can be held out: too few to hold out whole ones and to train "
            f"on the others. Split by cell, or pass train_size=1 and early_stopping=False."
        )
    part = np.zeros(len(names), dtype=int)
    for i, share in enumerate(wanted, start=1):
        later = sum(w > 0 for w in wanted[i:]) + bool(free.all())  # groups that must be left
        taken = 0
        while taken < share and len(order) > later:
            group = order.pop()
            part[group], taken = i, taken + sizes[group]
    return tuple(np.flatnonzero(part[codes] == i) for i in range(3))
