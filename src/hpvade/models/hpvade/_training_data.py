"""Everything a training run reads from the reference: the split, the chunk sums, the signature, the streams."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ...io._rows import iter_rows
from ...reference._folds import Fold, folds
from ...reference._mixtures import BulkSimulation, BulkStream
from ...reference._signature import Signature, gene_scores, reference_signature, sum_chunks
from ...simulate import ChunkSums

_VALIDATION_SEED = 20150521
_BULK_BATCH, _VALIDATION_BATCHES, _MIN_BATCHES = 128, 4, 10
_STATISTICS_CELLS = 2000


@dataclass(eq=False)
class TrainingData:
    """Reference of one training run.

    Parameters
    ----------
    X
        Counts (cells x genes), any kind of matrix that `iter_rows` reads.
    types, donors
        int codes (cells,).
    n_types
        Number of types.
    genes
        Names of the genes.
    n_genes
        Genes that the networks see: all, or the ones that tell types apart best.
    split
        Indices of training, validation and test cells.
    rng
        Source of randomness for the grouping of cells.
    """

    X: object
    types: np.ndarray
    donors: np.ndarray
    n_types: int
    genes: np.ndarray
    n_genes: int
    split: tuple[np.ndarray, np.ndarray, np.ndarray]
    rng: np.random.Generator

    @cached_property
    def train_chunks(self) -> ChunkSums:
        """Chunk sums of the training cells on all genes."""
        return self._chunks(self.split[0])

    @cached_property
    def signature(self) -> Signature:
        """Donor-averaged signature of the training cells."""
        return reference_signature(self.train_chunks)

    @cached_property
    def gene_score(self) -> np.ndarray:
        """How much each gene tells types apart; see `gene_scores`."""
        return gene_scores(self.signature.mean_counts, self.genes)

    @cached_property
    def gene_index(self) -> np.ndarray:
        """Genes of the networks, in the order of the data."""
        if self.n_genes >= len(self.genes):
            return np.arange(len(self.genes))
        return np.sort(np.argsort(-self.gene_score, kind="stable")[: self.n_genes])

    def streams(self, simulation: BulkSimulation, n_cell_batches: int) -> dict[str, BulkStream]:
        """Streams of simulated bulk, new mixtures of training cells and fixed ones of validation cells."""
        options = {"composition": self.signature.composition, "simulation": simulation, "batch_size": _BULK_BATCH}
        train = self.train_chunks.select_genes(self.gene_index)
        streams = {"train": BulkStream(train, n_batches=max(n_cell_batches, _MIN_BATCHES), **options)}
        if len(self.split[1]):
            held_out = self._chunks(self.split[1]).select_genes(self.gene_index)
            streams["validation"] = BulkStream(
                held_out, n_batches=_VALIDATION_BATCHES, seed=_VALIDATION_SEED, **options
            )
        return streams

    def folds(self) -> Iterator[Fold]:
        """Parts of the training and validation cells against the others; see `folds`."""
        return folds(self.X, self.types, self.donors, self.n_types, np.concatenate(self.split[:2]))

    def some_cells(self) -> torch.Tensor:
        """Counts of up to 2,000 training cells (cells x all genes), for input statistics."""
        train = self.split[0]
        chosen = np.zeros(len(self.types), dtype=bool)
        chosen[self.rng.choice(train, min(len(train), _STATISTICS_CELLS), replace=False)] = True
        blocks = [block[chosen[rows]].toarray() for rows, block in iter_rows(self.X)]
        return torch.from_numpy(np.concatenate(blocks).astype(np.float32))

    def _chunks(self, indices: np.ndarray) -> ChunkSums:
        return sum_chunks(self.X, self.types, self.donors, self.n_types, self.rng, indices=indices)
