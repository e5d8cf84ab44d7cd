"""Cells split for training, with minibatches of another size in validation."""

from ...train._splitter import CellSplitter


class SizedSplitter(CellSplitter):
    """:class:`CellSplitter` with minibatches of another size in validation."""

    def __init__(self, *args, validation_batch_size: int | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.validation_batch_size = validation_batch_size

    def val_dataloader(self):
        """Loader of the held-out cells."""
        size = self.data_loader_kwargs["batch_size"]
        self.data_loader_kwargs["batch_size"] = self.validation_batch_size or size
        try:
            return super().val_dataloader()
        finally:
            self.data_loader_kwargs["batch_size"] = size
