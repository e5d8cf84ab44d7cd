"""Minibatches of another size in validation."""

import anndata as ad
import numpy as np
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField

from hpvade.models.ambient._sized_splitter import SizedSplitter


def test_validation_has_its_own_batch_size():
    manager = AnnDataManager(fields=[LayerField("X", None)], setup_method_args={"model_name": "M", "setup_args": {}})
    manager.register_fields(ad.AnnData(np.ones((60, 3), dtype=np.float32)))
    split = (np.arange(40), np.arange(40, 60), np.arange(0))
    splitter = SizedSplitter(manager, split=split, batch_size=8, validation_batch_size=20)
    splitter.setup()
    assert {len(batch["X"]) for batch in splitter.train_dataloader()} == {8}
    assert [len(batch["X"]) for batch in splitter.val_dataloader()] == [20]
    assert {len(batch["X"]) for batch in splitter.train_dataloader()} == {8}
    same = SizedSplitter(manager, split=split, batch_size=10)
    same.setup()
    assert {len(batch["X"]) for batch in same.val_dataloader()} == {10}
