"""Simulated bulk as a stream of training batches."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ..simulate import TRAINING_PRIOR, ChunkSums, PlatformNoise, draw_mixtures, sample_proportions


@dataclass(frozen=True)
class BulkSimulation:
    """How training mixtures are drawn.

    Parameters
    ----------
    n_cells
        Cells per mixture.
    alpha
        Dirichlet concentration per type.
    prior
        Shares of composition priors, see `hpvade.simulate.sample_proportions`.
    noise
        Platform noise; plain sums of cells when None.
    heterogeneous
        Share of mixtures whose types come from different donors.
    cohort_size
        Mixtures that share one draw of platform and RNA content.
    """

    n_cells: int = 1000
    alpha: float = 1.0
    prior: Mapping[str, float] = field(default_factory=lambda: TRAINING_PRIOR)
    noise: PlatformNoise | None = field(default_factory=PlatformNoise)
    heterogeneous: float = 0.7
    cohort_size: int = 32

    def draw(
        self, chunks: ChunkSums, composition: np.ndarray, n_samples: int, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """One batch: ``bulk`` counts (samples x genes), ``proportions`` and ``rna_proportions`` (samples x types)."""
        available = np.bincount(chunks.types, minlength=chunks.n_types) > 0
        proportions = np.zeros((n_samples, chunks.n_types))
        proportions[:, available] = sample_proportions(
            n_samples, available.sum(), rng, alpha=self.alpha, reference=composition[available], prior=self.prior
        )
        cohorts = [
            draw_mixtures(
                chunks,
                proportions[i : i + self.cohort_size],
                rng,
                n_cells=self.n_cells,
                heterogeneous=self.heterogeneous,
                noise=self.noise,
            )
            for i in range(0, n_samples, self.cohort_size)
        ]
        names = {"bulk": "counts", "proportions": "proportions", "rna_proportions": "rna_proportions"}
        return {
            key: torch.from_numpy(np.concatenate([getattr(c, name) for c in cohorts]).astype(np.float32))
            for key, name in names.items()
        }


class BulkStream(IterableDataset):
    """Batches of simulated bulk, new ones at every pass, or the same ones when a seed is given.

    Without a seed each pass draws one from torch's generator, so that torch's seed decides the run. Workers and
    processes draw different batches and share their number.

    Parameters
    ----------
    chunks
        Cells to mix, on the model's genes.
    composition
        Fractions of cells in the reference (types,).
    simulation
        How mixtures are drawn.
    n_batches, batch_size
        Batches per pass and mixtures per batch.
    seed
        Fixed seed (validation).
    """

    def __init__(
        self,
        chunks: ChunkSums,
        composition: np.ndarray,
        simulation: BulkSimulation,
        *,
        n_batches: int,
        batch_size: int,
        seed: int | None = None,
    ):
        self.chunks, self.composition, self.simulation = chunks, composition, simulation
        self.n_batches, self.batch_size, self.seed = n_batches, batch_size, seed

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        seed = int(torch.randint(2**62, ())) if self.seed is None else self.seed
        worker = get_worker_info()
        worker_id, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None and self.seed is None:
            seed = worker.seed - worker.id  # torch's base seed, equal in all workers of this pass
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        rng = np.random.default_rng([seed, rank, worker_id])
        for _ in range(worker_id, self.n_batches, n_workers):
            yield self.simulation.draw(self.chunks, self.composition, self.batch_size, rng)
