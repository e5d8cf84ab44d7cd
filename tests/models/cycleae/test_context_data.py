"""Minibatches over chunks: every row once, the right codes, the same order for a seed and epoch."""

import numpy as np
import pytest
from scipy import sparse

from hpvade.models.cycleae._context_data import Chunk, ContextDataModule, take_rows


@pytest.fixture
def data():
    X = np.arange(70 * 3, dtype=np.float32).reshape(70, 3)
    chunks = [Chunk("a", 40, lambda: sparse.csr_matrix(X[:40])), Chunk("b", 30, lambda: X[40:])]
    module = ContextDataModule(chunks, np.arange(140).reshape(70, 2), groups=np.repeat(list("abcdefg"), 10))
    module.batch_size = 16
    return module, X


def rows(stream):
    return [(batch["X"].numpy(), batch["context"].numpy(), batch["chunk_ends"]) for batch in stream]


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1, "prefetch_factor": 2, "batch_workers": 2}])
def test_every_training_row_comes_once_with_its_codes(data, workers):
    module, X = data
    module.workers |= workers
    module.train_idx = np.arange(0, 70, 2)
    for shuffle in (True, False):
        stream = module.stream(module.train_idx, shuffle=shuffle)
        batches = rows(stream)
        assert len(batches) == len(stream) == 2 + 1  # 20 rows and 15 rows in batches of 16
        assert [ends for *_, ends in batches].count(True) == 2
        x, codes = np.concatenate([b[0] for b in batches]), np.concatenate([b[1] for b in batches])
        at = (x[:, 0] / 3).astype(int)
        np.testing.assert_array_equal(np.sort(at), module.train_idx)
        np.testing.assert_array_equal(x, X[at])
        np.testing.assert_array_equal(codes, module.codes[at])
        assert (not shuffle) == bool((np.diff(at) > 0).all())


def test_order_depends_on_seed_and_epoch_only(data):
    module, _ = data

    def order(seed, epoch):
        module.seed = seed
        stream = module.stream(module.train_idx, shuffle=True)
        stream.epoch = lambda: epoch
        return np.concatenate([x[:, 0] for x, *_ in rows(stream)]).tolist()

    assert order(1, 0) == order(1, 0) != order(1, 1) != order(2, 1)


def test_split_by_group_keeps_groups_whole_and_checkpoints_keep_the_split(data):
    module, _ = data
    module.split(0.7, None, seed=5)
    assert not set(module.groups[module.train_idx]) & set(module.groups[module.val_idx])
    assert module.n_train + module.n_val == 70 and module.n_val >= 21
    state, other = module.state_dict(), ContextDataModule(module.chunks, module.codes)
    other.load_state_dict(state)
    np.testing.assert_array_equal(other.train_idx, module.train_idx)
    assert other.seed == 5
    part = ContextDataModule(module.chunks[:1], module.codes[:40])  # what a checkpoint is refused by
    assert module.fingerprint() == other.fingerprint() != part.fingerprint()


def test_rows_come_in_the_order_asked_for_from_every_kind(tmp_path):
    import h5py

    X = np.arange(20.0).reshape(10, 2)
    asked = np.array([7, 1, 1, 9])
    with h5py.File(tmp_path / "x.h5", "w") as file:
        kinds = [X, sparse.csr_matrix(X), file.create_dataset("x", data=X)]
        for kind in kinds:
            found = take_rows(kind, asked)
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, X[asked])
