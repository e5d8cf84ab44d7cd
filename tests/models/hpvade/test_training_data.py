"""What a training run reads from the reference."""

import numpy as np
import pytest
import torch
from scipy import sparse

from hpvade.models.hpvade._training_data import TrainingData
from hpvade.reference._mixtures import BulkSimulation
from hpvade.reference._signature import gene_scores, reference_signature, sum_chunks
from hpvade.train._splitter import torch_rng

RNG = np.random.default_rng(0)
types, donors = RNG.integers(0, 3, 400), RNG.integers(0, 4, 400)
counts = RNG.poisson(RNG.lognormal(0, 1, (3, 30))[types]).astype(np.float32)
genes = np.array([f"gene_{g}" for g in range(28)] + ["MT-CO1", "RPL3"])
SPLIT = tuple(np.flatnonzero(np.isin(donors, part)) for part in ([0, 1], [2], [3]))


def data(n_genes=10, split=SPLIT, X=counts):
    return TrainingData(X, types, donors, 3, genes, n_genes, split, np.random.default_rng(1))


def test_hp13_chunks_and_signature_for_training_are_those_of_training_cells():
    training = data()
    chunks = training.train_chunks
    assert set(chunks.donors) == {0, 1} and chunks.n_cells.sum() == len(SPLIT[0])
    np.testing.assert_array_equal(chunks.counts.sum(axis=0), counts[SPLIT[0]].sum(axis=0))
    assert training.chunks is training.chunks  # read once
    np.testing.assert_allclose(training.signature.composition, np.bincount(types[SPLIT[0]]) / len(SPLIT[0]))


def test_the_whole_signature_is_that_of_training_and_validation_cells():
    cells = np.concatenate(SPLIT[:2])
    expected = reference_signature(sum_chunks(counts, types, donors, 3, np.random.default_rng(0), indices=cells))
    found, studies = data().whole
    assert studies is None
    np.testing.assert_allclose(found.mean_counts, expected.mean_counts, rtol=1e-6)
    np.testing.assert_allclose(found.composition, np.bincount(types[cells]) / len(cells))


def test_the_cells_are_read_once():
    reads = []

    class Counted(sparse.csr_matrix):
        def __getitem__(self, key):
            reads.append(key)
            return super().__getitem__(key)

    training = data(X=Counted(counts))
    training.streams(BulkSimulation(), 5), list(training.folds()), training.some_cells(), training.whole
    assert len(reads) == 1


def test_genes_of_the_networks_tell_types_apart_best():
    training = data()
    score = gene_scores(training.signature.mean_counts, genes)
    chosen = training.gene_index
    assert len(chosen) == 10 and (np.diff(chosen) > 0).all()
    assert score[chosen].min() >= np.delete(score, chosen).max()
    assert not {28, 29} & set(chosen)
    for n_genes in (30, 100):
        np.testing.assert_array_equal(data(n_genes).gene_index, np.arange(30))


def test_streams_are_mixtures_of_their_own_cells_on_the_chosen_genes():
    training = data()
    simulation = BulkSimulation(n_cells=50)
    streams = training.streams(simulation, n_batches=25)
    assert {name: len(stream) for name, stream in streams.items()} == {"train": 25, "validation": 4}
    for name, part in (("train", SPLIT[0]), ("validation", SPLIT[1])):
        stream = streams[name]
        assert stream.simulation is simulation
        np.testing.assert_allclose(stream.chunks.counts.sum(axis=0), counts[part][:, training.gene_index].sum(axis=0))
        np.testing.assert_allclose(stream.chunks.totals.sum(), counts[part].sum())  # RNA of all genes
        np.testing.assert_array_equal(stream.composition, training.signature.composition)
    assert streams["train"].seed is None and streams["validation"].seed is not None


def test_no_validation_stream_without_validation_cells():
    nobody = np.array([], dtype=int)
    assert set(data(split=(np.arange(400), nobody, nobody)).streams(BulkSimulation(), 3)) == {"train"}


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_some_cells_are_training_cells_on_all_genes(kind, monkeypatch):
    monkeypatch.setattr("hpvade.models.hpvade._training_data._STATISTICS_CELLS", 50)
    cells = data(X=kind(counts)).some_cells()
    assert cells.shape == (50, 30) and cells.dtype == torch.float32
    rows = {row.tobytes() for row in counts[SPLIT[0]]}
    assert all(row.tobytes() in rows for row in cells.numpy())
    monkeypatch.undo()
    np.testing.assert_array_equal(data(X=kind(counts)).some_cells(), counts[SPLIT[0]])


def test_torch_seed_decides_the_generator():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(torch_rng().random())
    assert draws[0] == draws[1] != draws[2]
