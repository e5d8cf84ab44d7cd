"""The two streams of a training run."""

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

import hpvade as hp
from hpvade.models.hpvade._splitter import TwoStreamSplitter
from hpvade.models.hpvade._training_data import TrainingData
from hpvade.reference._mixtures import BulkSimulation
from hpvade.train._splitter import split_cells


@pytest.fixture(scope="module")
def manager():
    adata, _ = hp.datasets.planted_cohort(n_types=3, n_genes=40, n_donors=4, n_cells=240)
    hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor", batch_key="batch")
    return hp.HPVADE(adata).adata_manager


def splitter_of(manager, train_size=0.75, **kwargs):
    torch.manual_seed(0)
    types, donors = (
        manager.get_from_registry(key).ravel().astype(int)
        for key in (REGISTRY_KEYS.LABELS_KEY, REGISTRY_KEYS.SAMPLE_KEY)
    )
    rng = np.random.default_rng(0)
    X = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    parts = split_cells(types, donors, rng, train_size=train_size)
    genes = manager.adata.var_names.to_numpy()
    data = TrainingData(X, types, donors, 3, genes, 40, parts, rng)
    streams = data.streams(BulkSimulation(n_cells=100, noise=None, prior={"dirichlet": 1.0}), n_batches=10)
    splitter = TwoStreamSplitter(manager, split=parts, streams=streams, batch_size=64, **kwargs)
    splitter.setup()
    return splitter, parts, X.toarray(), types


def test_batches_have_both_streams(manager):
    splitter, parts, X, types = splitter_of(manager)
    batches = [batch for batch, *_ in splitter.train_dataloader()]
    assert len(batches) == 10  # the longer stream, mixtures; cells start over
    for batch in batches:
        assert set(batch) == {"cells", "bulk"}
        assert set(batch["bulk"]) == {"bulk", "proportions", "rna_proportions"}
        assert batch["bulk"]["bulk"].shape == (128, 40) and batch["bulk"]["proportions"].shape == (128, 3)
        assert {"X", "batch", "labels"} <= set(batch["cells"])
    one_pass = torch.cat([batch["cells"]["X"] for batch in batches[: -(-len(parts[0]) // 64)]]).numpy()
    np.testing.assert_array_equal(one_pass[np.lexsort(one_pass.T)], X[parts[0]][np.lexsort(X[parts[0]].T)])


def test_validation_batches_are_held_out_cells_and_the_same_every_time(manager):
    splitter, parts, X, types = splitter_of(manager)
    first, again = ([batch for batch, *_ in splitter.val_dataloader()] for _ in range(2))
    assert len(first) == 4
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a["bulk"]["bulk"], b["bulk"]["bulk"]) and torch.equal(a["cells"]["X"], b["cells"]["X"])
    np.testing.assert_array_equal(first[0]["cells"]["X"], X[parts[1]][:64])


def test_hp13_mixtures_hold_only_cells_of_their_split(manager):
    splitter, parts, X, types = splitter_of(manager)
    for name, part in zip(("train", "validation"), parts, strict=False):
        chunks = splitter.streams[name].chunks
        for kind in range(3):
            np.testing.assert_allclose(
                chunks.counts[chunks.types == kind].sum(axis=0), X[part][types[part] == kind].sum(axis=0), rtol=1e-5
            )


def test_without_validation_cells(manager):
    splitter, *_ = splitter_of(manager, train_size=1.0)
    assert splitter.val_dataloader() is None and splitter.n_val == 0
    assert set(splitter.streams) == {"train"}


def test_minibatches_of_a_large_reference_come_from_a_part_of_it(manager):
    splitter, parts, X, types = splitter_of(manager, n_cells=70)
    seen = [
        np.unique(torch.cat([batch["cells"]["X"] for batch, *_ in splitter.train_dataloader()]).numpy(), axis=0)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*seen)  # the same part every time
    train = {tuple(row) for row in X[parts[0]]}
    assert len(seen[0]) == 70 and all(tuple(row) in train for row in seen[0])
    np.testing.assert_array_equal(splitter.train_idx, parts[0])
    np.testing.assert_array_equal(splitter.val_idx, parts[1])


def test_state_dict_restores_the_split(manager):
    splitter, parts, *_ = splitter_of(manager)
    state = splitter.state_dict()
    assert {name: type(value) for name, value in state.items()} == dict.fromkeys(
        ("train_idx", "val_idx", "test_idx"), list
    )
    splitter.train_idx = splitter.val_idx = splitter.test_idx = np.arange(3)
    splitter.load_state_dict(state)
    for found, expected in zip((splitter.train_idx, splitter.val_idx, splitter.test_idx), parts, strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == np.int64


def test_options_reach_the_loader_of_cells(manager):
    splitter, parts, *_ = splitter_of(manager, drop_last=True)
    loader = splitter.train_dataloader()
    next(iter(loader))
    assert len(loader.iterables["cells"]) == len(parts[0]) // 64
