"""Minibatches of expression and context codes, from memory or from chunks on disk, the same way for both."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import lightning.pytorch as lp
import numpy as np
import torch
from scipy import sparse
from torch.utils.data import DataLoader, IterableDataset

from ...train._checkpoint import digest, listed
from ...train._group_split import split_groups
from ...train._splitter import split_cells
from ._prefetch import prefetched


@dataclass(frozen=True)
class Chunk:
    """Rows that are loaded together: name, number of rows, and a function that returns the matrix."""

    name: str
    n_rows: int
    load: Callable[[], object]


def take_rows(X, rows: np.ndarray) -> np.ndarray:
    """Rows of any matrix an AnnData can hold, in the order asked for, dense float32."""
    if isinstance(X, np.ndarray) or sparse.issparse(X):
        block = X[rows]
    else:  # on disk, rows are read in the order of the file
        unique, position = np.unique(rows, return_inverse=True)
        block = X[unique]
        block = (block.compute() if hasattr(block, "compute") else block)[position]
    return np.ascontiguousarray(block.toarray() if sparse.issparse(block) else block, dtype=np.float32)


class ContextStream(IterableDataset):
    """Minibatches ``{"X": (B, G), "context": (B, F), "chunk_ends": bool}``, one chunk after the other.

    Parameters
    ----------
    chunks
        Where the rows come from.
    rows
        Rows to take of each chunk.
    codes
        Context codes of all rows of all chunks, in order.
    batch_size
        Rows per minibatch; the last of a chunk may be smaller.
    seed
        Order of chunks and rows, new in every epoch; None keeps them as they are.
    epoch
        Tells the epoch.
    workers
        `num_workers`, `prefetch_factor`, `batch_workers`, `batch_prefetch_factor`, see `ChunkDataModule`.
    """

    def __init__(
        self,
        chunks: list[Chunk],
        rows: list[np.ndarray],
        codes: np.ndarray,
        *,
        batch_size: int,
        seed: int | None,
        epoch: Callable[[], int],
        workers: dict[str, int],
    ):
        self.chunks, self.rows, self.codes, self.batch_size = chunks, rows, codes, batch_size
        self.seed, self.epoch, self.workers = seed, epoch, workers
        self.first = np.cumsum([0, *(chunk.n_rows for chunk in chunks)])

    def __len__(self) -> int:
        return sum(-(-len(rows) // self.batch_size) for rows in self.rows)

    def __iter__(self) -> Iterator[dict]:
        order = [i for i, rows in enumerate(self.rows) if len(rows)]
        epoch = self.epoch()
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)
        loads = (self.chunks[i].load for i in order)
        matrices = prefetched(loads, workers=self.workers["num_workers"], ahead=self.workers["prefetch_factor"])
        for i, matrix in zip(order, matrices, strict=True):
            rows = self.rows[i]
            if self.seed is not None:
                rows = np.random.default_rng([self.seed, epoch, int(i)]).permutation(rows)
            starts = range(0, len(rows), self.batch_size)
            tasks = (partial(self._batch, matrix, i, rows[a : a + self.batch_size]) for a in starts)
            batches = prefetched(
                tasks, workers=self.workers["batch_workers"], ahead=self.workers["batch_prefetch_factor"]
            )
            for a, batch in zip(starts, batches, strict=True):
                yield batch | {"chunk_ends": a + self.batch_size >= len(rows)}

    def _batch(self, matrix, chunk: int, rows: np.ndarray) -> dict:
        context = self.codes[self.first[chunk] + rows]
        return {"X": torch.from_numpy(take_rows(matrix, rows)), "context": torch.from_numpy(context)}


class ContextDataModule(lp.LightningDataModule):
    """Loaders of training and validation minibatches over some chunks.

    Parameters
    ----------
    chunks
        Where the rows come from.
    codes
        Context codes (all rows, fields).
    groups
        Group of each row, when validation holds out whole groups.
    **workers
        See `ChunkDataModule`; without prefetching by default.
    """

    def __init__(self, chunks: list[Chunk], codes: np.ndarray, *, groups: np.ndarray | None = None, **workers: int):
        super().__init__()
        self.chunks, self.codes, self.groups = chunks, codes, groups
        none = {"num_workers": 0, "prefetch_factor": 1, "batch_workers": 0, "batch_prefetch_factor": 1}
        self.workers = none | workers
        self.batch_size, self.seed = 128, 0
        self.train_idx, self.val_idx, self.test_idx = np.arange(len(codes)), np.arange(0), np.arange(0)

    @property
    def n_train(self) -> int:
        """Number of training rows."""
        return len(self.train_idx)

    @property
    def n_val(self) -> int:
        """Number of validation rows."""
        return len(self.val_idx)

    def split(self, train_size: float, validation_size: float | None, seed: int) -> None:
        """Split the rows, by group where there are groups, and seed the order of the minibatches."""
        self.seed, rng, n = seed, np.random.default_rng(seed), len(self.codes)
        sizes = {"train_size": train_size, "validation_size": validation_size}
        if self.groups is None:
            one = np.zeros(n, dtype=np.int64)
            parts = split_cells(one, one, rng, **sizes)
        else:
            parts = split_groups(self.groups, rng, name="split_by", **sizes)
        self.train_idx, self.val_idx, self.test_idx = parts

    def stream(self, indices: np.ndarray, *, shuffle: bool) -> ContextStream:
        """Minibatches of some rows (sorted indices over all chunks)."""
        bounds = np.cumsum([0, *(chunk.n_rows for chunk in self.chunks)])
        at = np.searchsorted(indices, bounds)
        rows = [indices[a:b] - first for a, b, first in zip(at[:-1], at[1:], bounds[:-1], strict=True)]
        return ContextStream(
            self.chunks,
            rows,
            self.codes,
            batch_size=self.batch_size,
            seed=self.seed if shuffle else None,
            epoch=lambda: self.trainer.current_epoch if self.trainer is not None else 0,
            workers=self.workers,
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled minibatches."""
        return self._loader(self.train_idx, shuffle=True)

    def val_dataloader(self) -> DataLoader | None:
        """Held-out minibatches in order; None without validation rows."""
        return self._loader(self.val_idx, shuffle=False) if self.n_val else None

    def _loader(self, indices: np.ndarray, shuffle: bool) -> DataLoader:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return DataLoader(self.stream(indices, shuffle=shuffle), batch_size=None, pin_memory=on_gpu)

    @property
    def in_memory(self) -> bool:
        """Whether the cells are those of the model's AnnData."""
        return type(self) is ContextDataModule

    def fingerprint(self) -> dict:
        """What says that cells in files are the same: chunks, their sizes, and the contexts of the cells."""
        names = [f"{chunk.name} {chunk.n_rows}" for chunk in self.chunks]
        return {
            "chunks": listed(names),
            "cells": listed(self.codes.sum(axis=1)),
            "contexts of the cells": digest(self.codes),
        }

    def state_dict(self) -> dict:
        """Split and seed, so that a resumed run goes on with the same minibatches."""
        return {name: getattr(self, name).tolist() for name in ("train_idx", "val_idx", "test_idx")} | {
            "seed": self.seed
        }

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore split and seed of a checkpoint."""
        parts = [np.array(state_dict[name], dtype=np.int64) for name in ("train_idx", "val_idx", "test_idx")]
        self.train_idx, self.val_idx, self.test_idx = parts
        self.seed = state_dict["seed"]
