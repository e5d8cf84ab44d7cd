"""Two streams from one reference: minibatches of cells, and bulk simulated from the same cells."""

import numpy as np
from lightning.pytorch.utilities import CombinedLoader
from scvi.data import AnnDataManager
from torch.utils.data import DataLoader

from ...reference._mixtures import BulkStream
from ...train._splitter import CellSplitter

_VALIDATION_CELLS = 2000


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
        **kwargs,
    ):
        super().__init__(adata_manager, split=split, batch_size=batch_size, **kwargs)
        self.streams = streams

    def train_dataloader(self) -> CombinedLoader:
        """Shuffled cells and new mixtures; the shorter stream starts over."""
        return self._combine(super().train_dataloader(), self.streams["train"])

    def val_dataloader(self) -> CombinedLoader | None:
        """Held-out cells, up to 2,000 spread over all of them, and fixed mixtures, drawn once; None without cells."""
        held_out = self.val_idx
        try:
            self.val_idx = held_out[:: -(-len(held_out) // _VALIDATION_CELLS) or 1]
            cells = super().val_dataloader()
        finally:
            self.val_idx = held_out
        return None if cells is None else self._combine(cells, list(self.streams["validation"]))

    @staticmethod
    def _combine(cells, bulk) -> CombinedLoader:
        return CombinedLoader({"cells": cells, "bulk": DataLoader(bulk, batch_size=None)}, "max_size_cycle")
