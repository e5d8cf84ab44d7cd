"""Which cells train, which are held out, and the loader that keeps to it."""

import numpy as np
import torch
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader

from ._cells import hold_cells

MIN_DONORS = 3  # with two donors, holding one out would cost half of the reference


def torch_rng() -> np.random.Generator:
    """NumPy generator seeded from torch's, which `scvi.settings.seed` sets."""
    return np.random.default_rng(int(torch.randint(2**62, ())))


def held_out_shares(train_size: float, validation_size: float | None) -> tuple[float, float]:
    """Shares of validation (the rest when None) and test; ValueError unless they are shares that sum to one at most."""
    validation_size = 1 - train_size if validation_size is None else validation_size
    if not 0 < train_size <= 1 or not 0 <= validation_size <= 1 or train_size + validation_size > 1 + 1e-9:
        raise ValueError(
            f"train_size={train_size} and validation_size={validation_size}; expected shares of cells, train_size "
            "above 0, that sum to at most 1."
        )
    return validation_size, max(1 - train_size - validation_size, 0.0)


def split_cells(
    types: np.ndarray,
    donors: np.ndarray,
    rng: np.random.Generator,
    *,
    train_size: float = 0.9,
    validation_size: float | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split cells into training, validation and test sets, by donor where there are enough donors.

    With three donors or more, whole donors are held out in random order until the held-out cells reach their share,
    as long as every type keeps training cells; a type seen in no held-out donor is absent from validation. With fewer
    donors, or where each has types of its own, cells are split within types, so that every type has training cells.

    Parameters
    ----------
    types, donors
        int codes (cells,).
    rng
        Source of randomness.
    train_size, validation_size
        Shares of cells; validation is the rest when None, test what remains.

    Returns
    -------
    Sorted indices of training, validation and test cells.

    Raises
    ------
    ValueError
        If the shares are not in [0, 1], sum to more than one, or leave no training cells.
    """
    n = len(types)
    wanted = [round(share * n) for share in held_out_shares(train_size, validation_size)]
    held_out = np.zeros(n, dtype=np.int64)
    if len(np.unique(donors)) >= MIN_DONORS:
        held_out = _hold_out_donors(types, donors, wanted, rng)
    if not held_out.any():
        held_out = _hold_out_cells(types, wanted, rng)
    return np.flatnonzero(held_out == 0), np.flatnonzero(held_out == 1), np.flatnonzero(held_out == 2)


def _hold_out_donors(types: np.ndarray, donors: np.ndarray, wanted: list[int], rng: np.random.Generator) -> np.ndarray:
    table = np.zeros((donors.max() + 1, types.max() + 1), dtype=np.int64)
    np.add.at(table, (donors, types), 1)
    left, of_donor = table.sum(axis=0), np.zeros(len(table), dtype=np.int64)
    for donor in rng.permutation(np.unique(donors)):
        cells = table[donor].sum()
        for part, n in enumerate(wanted, start=1):
            taken = table[of_donor == part].sum()
            # the first donor may overshoot, or small references would have no validation; never by half the cells
            fits = taken + cells <= max(n * 1.5, n if taken else len(types) / 2)
            fits &= table[of_donor > 0].sum() + cells <= max(sum(wanted) * 1.5, len(types) / 2)
            if taken < n and fits and ((left - table[donor] > 0) | (left == 0)).all():
                of_donor[donor] = part
                left = left - table[donor]
                break
    return of_donor[donors]


def _hold_out_cells(types: np.ndarray, wanted: list[int], rng: np.random.Generator) -> np.ndarray:
    held_out = np.zeros(len(types), dtype=np.int64)
    share = np.array(wanted) / len(types)
    for kind in np.unique(types):
        cells = rng.permutation(np.flatnonzero(types == kind))
        n = np.minimum(np.ceil(share * len(cells)).astype(int), [len(cells) - 1, max(len(cells) - 2, 0)])
        held_out[cells[: n[0]]] = 1
        held_out[cells[n[0] : min(n[0] + n[1], len(cells) - 1)]] = 2
    return held_out


class CellSplitter(DataSplitter):
    """`scvi.dataloaders.DataSplitter` for a given split, which checkpoints keep.

    Parameters
    ----------
    adata_manager
        Manager of the cells.
    split
        Indices of training, validation and test cells.
    batch_size
        Cells per minibatch.
    **kwargs
        Passed to the loader of cells.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        split: tuple[np.ndarray, np.ndarray, np.ndarray],
        batch_size: int,
        **kwargs,
    ):
        super().__init__(adata_manager, external_indexing=list(split), batch_size=batch_size, **kwargs)

    def train_dataloader(self) -> DataLoader:
        """Shuffled training cells."""
        return hold_cells(super().train_dataloader())

    def val_dataloader(self) -> DataLoader | None:
        """Held-out cells; None when there are none."""
        return hold_cells(super().val_dataloader())

    def state_dict(self) -> dict[str, list[int]]:
        """The split, so that a resumed run keeps it."""
        return {name: getattr(self, name).tolist() for name in ("train_idx", "val_idx", "test_idx")}

    def load_state_dict(self, state_dict: dict[str, list[int]]) -> None:
        """Restore the split of a checkpoint."""
        for name, indices in state_dict.items():
            setattr(self, name, np.array(indices, dtype=np.int64))
