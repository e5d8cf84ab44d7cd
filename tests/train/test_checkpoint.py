"""Checkpoints: sealed, bound to their reference, and resumed to the bits of an uninterrupted run in every family."""

import os
import pickle

import lightning.pytorch as lp
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from scipy import sparse

import hpvade as hp
from hpvade.train._checkpoint import SealedCheckpoints, fingerprint, read_checkpoint, read_own_checkpoint

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": False}


class Cut(lp.Callback):
    """Raise at the start of the third epoch."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise RuntimeError("cut")


@pytest.fixture(scope="module")
def cells():
    return hp.datasets.planted_contexts(150, 30, seed=0)


def cut_run(family, adata, folder):
    scvi.settings.seed = 0
    model = family(adata)
    with pytest.raises(RuntimeError, match="cut"):
        model.train(4, checkpoint_dir=folder, callbacks=[Cut()], **QUIET)
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def saved(cells, families, tmp_path_factory):
    """A checkpoint of every family."""
    return {f: cut_run(f, cells.copy(), tmp_path_factory.mktemp(name)) for name, f in families.items()}


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(family, cells, saved):
    scvi.settings.seed = 0
    whole = family(cells.copy())
    whole.train(4, **QUIET)
    scvi.settings.seed = 77
    resumed = family(cells.copy())
    resumed.train(4, ckpt_path=saved[family], **QUIET)
    expected, found = whole.module.state_dict(), resumed.module.state_dict()
    assert [name for name in expected if not expected[name].equal(found[name])] == []
    np.testing.assert_array_equal(whole.validation_indices, resumed.validation_indices)
    assert whole.history.keys() == resumed.history.keys()
    for name, table in whole.history.items():
        pd.testing.assert_frame_equal(table, resumed.history[name], check_exact=True)


def other_genes(adata):
    return adata[:, ::-1].copy()


def other_cells(adata):
    return adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()


def fewer_cells(adata):
    return adata[10:].copy()


def other_counts(adata):
    adata = adata.copy()
    adata.X = adata.X * 2
    return adata


def other_contexts(adata):
    adata = adata.copy()
    for name in ("cell_type", "condition", "tissue"):
        adata.obs[name] = np.roll(adata.obs[name].astype(str), 1)
    return adata


def renamed_contexts(adata):
    adata = adata.copy()
    for name in ("cell_type", "condition", "tissue"):
        adata.obs[name] = adata.obs[name].astype(str).replace({"condition_1": "condition_9"}) + "_" * (
            name != "condition"
        )
    return adata


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (other_genes, "genes.* in another order"),
        (other_cells, "cells in another order"),
        (fewer_cells, "150 cells, this reference has 140"),
        (other_counts, "other counts"),
        (other_contexts, "of the cells"),
        (renamed_contexts, "other (cell types|batches|donors|contexts|context)"),
    ],
)
def test_another_reference_is_refused_and_the_difference_named(family, families, change, difference, cells, saved):
    model = family(change(cells))
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    if family is families["ivae"] and change in (other_contexts, renamed_contexts):
        return  # labels are not part of its training
    with pytest.raises(ValueError, match=difference) as error:
        model.train(4, ckpt_path=saved[family], **QUIET)
    assert str(saved[family]) in str(error.value)
    assert not model.is_trained_
    assert all(value.equal(before[name]) for name, value in model.module.state_dict().items())


def test_types_in_another_order_are_refused(cells, families, saved):
    hpvade = families["hpvade"]
    adata = cells.copy()
    labels = adata.obs["cell_type"].astype("category")
    adata.obs["cell_type"] = labels.cat.reorder_categories(list(labels.cat.categories)[::-1])
    with pytest.raises(ValueError, match="cell types in another order"):
        hpvade(adata).train(4, ckpt_path=saved[hpvade], **QUIET)


def test_other_options_and_other_models_are_named(cells, families, saved):
    hpvade, ivae = families["hpvade"], families["ivae"]
    with pytest.raises(ValueError, match=r"other options \(n_hidden=8, not 16\)"):
        hpvade(cells.copy(), n_hidden=16).train(4, ckpt_path=saved[hpvade], **QUIET)
    with pytest.raises(ValueError, match="a IVAE, not a HPVADE"):
        hpvade(cells.copy()).train(4, ckpt_path=saved[ivae], **QUIET)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_the_kind_of_matrix_does_not_matter(kind, cells, families):
    hpvade = families["hpvade"]
    X = cells.X.toarray() if sparse.issparse(cells.X) else cells.X
    adata = cells.copy()
    adata.X = kind(X)
    assert fingerprint(hpvade(adata)) == fingerprint(hpvade(cells.copy()))


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def damages(raw):
    rng = np.random.default_rng(0)
    yield from (raw[: len(raw) // 2], raw[:-1], raw[:-100], b"", b"hello", raw + b"x", raw[1:])
    for at in rng.integers(len(raw), size=40):
        changed = bytearray(raw)
        changed[at] ^= 1 << rng.integers(8)
        yield bytes(changed)


def test_damaged_files_are_refused_by_name(family, cells, saved, tmp_path):
    model, path = family(cells.copy()), tmp_path / "damaged.ckpt"
    for payload in damages(saved[family].read_bytes()):
        path.write_bytes(payload)
        with pytest.raises(ValueError, match=r"damaged\.ckpt"):
            model.train(4, ckpt_path=path, **QUIET)
    assert not model.is_trained_


@pytest.mark.parametrize("name", ["hpvade", "cycleae"])
def test_foreign_files_are_refused_and_run_nothing(name, cells, families, tmp_path):
    family = families[name]
    model, path, touched = family(cells.copy()), tmp_path / "foreign.ckpt", tmp_path / "touched"

    def refused():
        with pytest.raises(ValueError, match=r"foreign\.ckpt"):
            model.train(4, ckpt_path=path, **QUIET)
        assert not touched.exists()

    for value in ([1], {"state_dict": {}}, Evil(touched)):
        torch.save(value, path)
        refused()
        SealedCheckpoints().save_checkpoint(value, path)  # even with a checksum
        refused()
    path.write_bytes(pickle.dumps(Evil(touched)))
    refused()


def test_a_checkpoint_without_fingerprint_is_refused(tmp_path):
    SealedCheckpoints().save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt") == {"epoch": 1}
    with pytest.raises(ValueError, match="does not say which reference"):
        read_own_checkpoint(tmp_path / "a.ckpt", {"model": "HPVADE"})
    with pytest.raises(FileNotFoundError, match=r"b\.ckpt"):
        read_checkpoint(tmp_path / "b.ckpt")


def test_others_can_read_the_tensors(families, saved):
    assert torch.load(saved[families["hpvade"]], weights_only=True)["epoch"] == 1


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    SealedCheckpoints().save_checkpoint({"epoch": 1}, path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        SealedCheckpoints().save_checkpoint({"epoch": 2}, path)
    monkeypatch.undo()
    assert read_checkpoint(path) == {"epoch": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["last.ckpt"]
