"""Two streams from one reference: minibatches of cells, and bulk simulated from the same cells."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from lightning.pytorch.utilities import CombinedLoader
from scvi.data import AnnDataManager
from torch.utils.data import DataLoader

from ...reference._mixtures import BulkStream
from ...train._splitter import CellSplitter

_VALIDATION_CELLS = 2000
_SEED = 20150521


class TwoStreamSplitter(CellSplitter):
    """Splitter whose loaders yield ``{"cells": minibatch, "bulk": simulated bulk}``.

    Parameters
    ----------
    adata_manager
        Manager of the reference.
    split
        Indices of training, validation and test cells.
    streams
        Streams of simulated bulk, ``"train"`` and, with validation cells, ``"validation"``.
    batch_size
        Cells per minibatch.
    n_cells
        Most training cells that minibatches are drawn from, a random part of all; cells on disk are then read once.
    **kwargs
        Passed to the loader of cells.
    """

    def __init__(
        self,
        adata_manager: AnnDataManager,
        *,
        split: tuple[np.ndarray, np.ndarray, np.ndarray],
        streams: dict[str, BulkStream],
        batch_size: int,
        n_cells: int | None = None,
        **kwargs,
    ):
        super().__init__(adata_manager, split=split, batch_size=batch_size, **kwargs)
        self.streams, self._n_cells = streams, n_cells

    def train_dataloader(self) -> CombinedLoader:
        """Shuffled cells and new mixtures; the shorter stream starts over."""
        train = self.train_idx
        if self._n_cells is not None and self._n_cells < len(train):
            train = np.sort(np.random.default_rng(_SEED).choice(train, self._n_cells, replace=False))
        with self._only("train_idx", train):
            return self._combine(super().train_dataloader(), self.streams["train"])

    def val_dataloader(self) -> CombinedLoader | None:
        """Held-out cells, up to 2,000 spread over all of them, and fixed mixtures, drawn once; None without cells."""
        with self._only("val_idx", self.val_idx[:: -(-len(self.val_idx) // _VALIDATION_CELLS) or 1]):
            cells = super().val_dataloader()
        return None if cells is None else self._combine(cells, list(self.streams["validation"]))

    @contextmanager
    def _only(self, name: str, cells: np.ndarray) -> Iterator[None]:
        """Make a loader of some cells of a part; checkpoints keep the whole split."""
        whole = getattr(self, name)
        try:
            setattr(self, name, cells)
            yield
        finally:
            setattr(self, name, whole)

    @staticmethod
    def _combine(cells, bulk) -> CombinedLoader:
        return CombinedLoader({"cells": cells, "bulk": DataLoader(bulk, batch_size=None)}, "max_size_cycle")
