"""Which cells a method is asked for."""

import numpy as np


def cell_positions(n_cells: int, indices) -> np.ndarray:
    """Positions that `indices` choose out of `n_cells`: positions, a mask or a slice; all when None.

    Raises
    ------
    ValueError
        They choose no cell.
    IndexError
        They are no positions of these cells.

    Examples
    --------
    >>> cell_positions(3, [2, -3]).tolist(), cell_positions(3, [True, False, True]).tolist()
    ([2, 0], [0, 2])
    """
    try:
        chosen = np.atleast_1d(np.arange(n_cells)[slice(None) if indices is None else indices])
    except IndexError as error:
        raise IndexError(
            f"indices do not fit {n_cells} cells: {error}. Expected positions from 0 to {n_cells - 1}, or a mask of "
            "that length; names become positions by `adata.obs_names.get_indexer(names)`."
        ) from None
    if not len(chosen):
        raise ValueError(f"indices choose none of {n_cells} cells; expected one or more.")
    return chosen
