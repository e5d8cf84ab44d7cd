"""Everything a training run reads from the reference: the split, the chunk sums, the signature, the streams."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from scipy import sparse

from ..._text import listed
from ...reference._folds import N_CODES, NEVER, Fold, assign_folds, folds
from ...reference._mixtures import BulkSimulation, BulkStream
from ...reference._signature import Signature, gene_scores, reference_signature, sum_chunks
from ...reference._studies import Studies, combine_studies, warn_of_few_genes
from ...simulate import ChunkSums
from ...train._splitter import MIN_DONORS

_VALIDATION_SEED = 20150521
_BULK_BATCH, _VALIDATION_BATCHES = 128, 4
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
    study_of_donor, study_names
        int (donors,), study of each donor, and the studies' names; one study when None.
    n_cells
        Cells in each row of `X` (rows,), where rows are sums of cells.
    """

    X: object
    types: np.ndarray
    donors: np.ndarray
    n_types: int
    genes: np.ndarray
    n_genes: int
    split: tuple[np.ndarray, np.ndarray, np.ndarray]
    rng: np.random.Generator
    study_of_donor: np.ndarray | None = None
    study_names: list[str] | None = None
    n_cells: np.ndarray | None = None

    def __post_init__(self):
        if self.study_of_donor is not None:
            used = self.study_of_donor[self.donors[np.concatenate(self.split[:2])]]
            if absent := [name for s, name in enumerate(self.study_names) if s not in used]:
                raise ValueError(
                    f"all cells of {listed(absent)} are test cells, of which nothing is learned. Pass a larger "
                    "train_size or validation_size, or leave these studies out of the reference."
                )

    @cached_property
    def _read(self) -> tuple[ChunkSums, np.ndarray, np.ndarray, sparse.csr_matrix]:
        """All that is read from the cells, in one pass: sums of chunks, their fold and whether held out, some cells."""
        train, validation, _ = self.split
        cells = np.concatenate([train, validation])
        fold, held_out = np.zeros(len(self.types), dtype=np.int64), np.zeros(len(self.types), dtype=np.int64)
        fold[cells] = self._folds_of(cells)
        held_out[validation] = 1
        chosen = np.zeros(len(self.types), dtype=bool)
        chosen[self.rng.choice(train, min(len(train), _STATISTICS_CELLS), replace=False)] = True
        kept = []
        chunks = sum_chunks(
            self.X,
            self.types,
            (self.donors * N_CODES + fold) * 2 + held_out,  # no chunk crosses folds or the split
            self.n_types,
            self.rng,
            indices=cells,
            n_cells=self.n_cells,
            chunk_size=10 if self.n_cells is None else 1,  # sums are chunks already
            within=self._within(fold * 2 + held_out),
            also=lambda rows, block: kept.append(block[chosen[rows]]),
        )
        part, held_out = np.divmod(chunks.donors, 2)
        donors, fold = np.divmod(part, N_CODES)
        some = sparse.vstack(kept, format="csr", dtype=np.float32)
        return replace(chunks, donors=donors), fold, held_out == 1, some

    def _folds_of(self, cells: np.ndarray) -> np.ndarray:
        """Fold of some cells, within each study: how far studies are from each other is seen in their answers.

        Sums of a type may differ in more than chance, so that they are held out by donor or not at all.
        """
        types, donors, fold = self.types[cells], self.donors[cells], np.zeros(len(cells), dtype=np.int64)
        study = np.zeros(len(cells), dtype=np.int64) if self.study_of_donor is None else self.study_of_donor[donors]
        for s in np.unique(study):
            own = study == s
            by_donor = self.n_cells is None or len(np.unique(donors[own])) >= MIN_DONORS
            fold[own] = assign_folds(types[own], donors[own]) if by_donor else NEVER
        return fold

    def _within(self, part: np.ndarray) -> np.ndarray:
        """Cells whose donors may be merged where they are many: of one part, and of one study."""
        return part if self.study_of_donor is None else part * len(self.study_names) + self.study_of_donor[self.donors]

    @property
    def chunks(self) -> ChunkSums:
        """Chunk sums of the training and validation cells on all genes."""
        return self._read[0]

    @property
    def train_chunks(self) -> ChunkSums:
        """Chunk sums of the training cells on all genes."""
        chunks, _, held_out, _ = self._read
        return chunks.select_chunks(~held_out)

    @cached_property
    def signature(self) -> Signature:
        """Donor-averaged signature of the training cells."""
        return self._describe(self.train_chunks)[0]

    @cached_property
    def whole(self) -> tuple[Signature, Studies | None]:
        """Donor-averaged signature of the training and validation cells, and of each study where there are several."""
        signature, studies = self._describe(self.chunks)
        if studies is not None:
            present = np.unique(self.study_of_donor[self.chunks.donors])
            warn_of_few_genes(studies, [self.study_names[s] for s in present])
        return signature, studies

    def _describe(self, chunks: ChunkSums) -> tuple[Signature, Studies | None]:
        if self.study_of_donor is None:
            return reference_signature(chunks), None
        present, study = np.unique(self.study_of_donor[chunks.donors], return_inverse=True)  # whole ones are held out
        studies = combine_studies(chunks, study, [self.study_names[s] for s in present])
        return studies.combined, studies

    @cached_property
    def gene_index(self) -> np.ndarray:
        """Genes of the networks, in the order of the data."""
        if self.n_genes >= len(self.genes):
            return np.arange(len(self.genes))
        score = gene_scores(self.signature.mean_counts, self.genes)
        return np.sort(np.argsort(-score, kind="stable")[: self.n_genes])

    def streams(self, simulation: BulkSimulation, n_batches: int) -> dict[str, BulkStream]:
        """Streams of simulated bulk, new mixtures of training cells and fixed ones of validation cells."""
        options = {"composition": self.signature.composition, "simulation": simulation, "batch_size": _BULK_BATCH}
        train = self.train_chunks.select_genes(self.gene_index)
        streams = {"train": BulkStream(train, n_batches=n_batches, **options)}
        if len(self.split[1]):
            chunks, _, held_out, _ = self._read
            streams["validation"] = BulkStream(
                chunks.select_chunks(held_out).select_genes(self.gene_index),
                n_batches=_VALIDATION_BATCHES,
                seed=_VALIDATION_SEED,
                **options,
            )
        return streams

    def folds(self) -> Iterator[Fold]:
        """Parts of the training and validation cells against the others; see `folds`."""
        chunks, fold, *_ = self._read
        return folds(chunks, fold)

    def some_cells(self) -> torch.Tensor:
        """Counts of up to 2,000 training cells (cells x all genes), for input statistics."""
        return torch.from_numpy(self._read[3].toarray())
