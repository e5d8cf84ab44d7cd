"""Bulk samples as sums of cells, with the noise of another platform."""

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from scipy import sparse

from ._chunks import ChunkSums

_MANY = 10  # counts


@dataclass(frozen=True)
class Mixtures:
    """Simulated bulk samples.

    Attributes
    ----------
    counts
        float32 (samples x genes).
    proportions
        float64 (samples x types): realised fractions of cells, exactly `n_k / n_cells`.
    rna_proportions
        float64 (samples x types): realised fractions of RNA over all genes, before platform and depth noise.
    """

    counts: np.ndarray
    proportions: np.ndarray
    rna_proportions: np.ndarray


@dataclass(frozen=True)
class PlatformNoise:
    """How bulk from another platform differs from summed cells; one draw of the shared parts makes a pseudo-cohort.

    The mean of gene g in sample n is the sum over types of molecules times exp(d_gk), times the platform factor
    exp(a_g), times exp(N(0, sample_sd^2)), scaled to the depth; counts are negative binomial around it.

    Parameters
    ----------
    platform_sd
        Range of the standard deviation of a_g, drawn per pseudo-cohort.
    type_sd
        Standard deviation of d_gk, states of types that the reference has not seen, per pseudo-cohort.
    size_sd
        Standard deviation of the log RNA content per cell of a type, per pseudo-cohort.
    sample_sd
        Standard deviation of what is left per gene and sample.
    depth
        Range of the total counts of a sample, log-uniform.
    dispersion
        Range of the negative binomial's phi (variance = mean + phi mean^2), drawn per pseudo-cohort.
    """

    platform_sd: tuple[float, float] = (0.2, 1.0)
    type_sd: float = 0.15
    size_sd: float = 0.25
    sample_sd: float = 0.1
    depth: tuple[float, float] = (5e6, 3e7)
    dispersion: tuple[float, float] = (0.01, 0.1)


def draw_mixtures(
    chunks: ChunkSums,
    proportions: np.ndarray,
    rng: np.random.Generator,
    *,
    n_cells: int = 1000,
    heterogeneous: float = 0.7,
    max_chunks: int | None = 8,
    noise: PlatformNoise | None = None,
) -> Mixtures:
    """Mix cells into bulk samples.

    Cells per type are multinomial in `proportions`; their counts come from randomly drawn chunks, so that the cost
    does not depend on the number of cells. Each type of a heterogeneous sample comes from one donor, drawn
    independently of the other types' donors, which gives mixtures the variance of real bulk (Hu and Chikina, Genome
    Biology 2024); the other samples take all donors together.

    Parameters
    ----------
    chunks
        Cells to mix. Chunks of one cell give exact sums of cells drawn with replacement.
    proportions
        (samples x types): expected fractions of cells; zero for types without cells in `chunks`.
    rng
        Source of randomness.
    n_cells
        Cells per sample.
    heterogeneous
        Share of heterogeneous samples.
    max_chunks
        Most chunks drawn per sample and type; None for as many as the cells need.
    noise
        Platform noise of one pseudo-cohort; plain sums when None.

    Raises
    ------
    ValueError
        If `n_cells` is below one, or a type without cells is asked for.
    """
    n_drawn, weights = draw_weights(
        chunks, proportions, rng, n_cells=n_cells, heterogeneous=heterogeneous, max_chunks=max_chunks
    )
    molecules = sum_by_type(chunks, weights)
    if noise is None:
        counts = weights @ chunks.counts
        counts = counts.toarray() if sparse.issparse(counts) else counts
    else:
        log_size = rng.normal(0, noise.size_sd, chunks.n_types)
        molecules = molecules * np.exp(log_size)
        weights = weights.toarray()
        expected = np.zeros((len(weights), chunks.counts.shape[1]), dtype=np.float32)
        for kind, effect in enumerate(_type_effects(chunks, log_size, noise, rng)):
            own = slice(*np.searchsorted(chunks.types, [kind, kind + 1]))  # chunks are sorted by type
            mixed = weights[:, own] @ chunks.counts[own]
            mixed *= effect
            expected += mixed
        counts = _sequence(expected, molecules.sum(axis=1), noise, rng)
    return Mixtures(
        np.asarray(counts, dtype=np.float32), n_drawn / n_cells, molecules / molecules.sum(axis=1, keepdims=True)
    )


def draw_weights(
    chunks: ChunkSums,
    proportions: np.ndarray,
    rng: np.random.Generator,
    *,
    n_cells: int = 1000,
    heterogeneous: float = 0.7,
    max_chunks: int | None = 8,
) -> tuple[np.ndarray, sparse.csr_matrix]:
    """How many cells of each type (samples x types), and what of each chunk (samples x chunks), make the samples.

    Counts are not read, so that `chunks` may come without; arguments as in :func:`draw_mixtures`.
    """
    if not isinstance(n_cells, Integral) or n_cells < 1:
        raise ValueError(f"n_cells={n_cells!r}; expected a whole number of at least 1.")
    n_drawn = rng.multinomial(n_cells, proportions)
    return n_drawn, _chunk_weights(chunks, n_drawn, rng, heterogeneous, max_chunks)


def sum_by_type(chunks: ChunkSums, weights: sparse.csr_matrix) -> np.ndarray:
    """Molecules (samples x types) of weighted chunks, over all genes."""
    type_of = sparse.csr_matrix(
        (chunks.totals, chunks.types, np.arange(len(chunks.types) + 1)), shape=(len(chunks.types), chunks.n_types)
    )
    return (weights @ type_of).toarray()


def _chunk_weights(
    chunks: ChunkSums, n_drawn: np.ndarray, rng: np.random.Generator, heterogeneous: float, max_chunks: int | None
) -> sparse.csr_matrix:
    """Weights (samples x chunks) with which `n_drawn` cells (samples x types) are made of chunks."""
    group_types, _, group_start, group_length = chunks.groups
    first_group = np.searchsorted(group_types, np.arange(chunks.n_types))
    n_groups = np.searchsorted(group_types, np.arange(chunks.n_types), side="right") - first_group
    sample, kind = np.nonzero(n_drawn)
    if (n_groups[kind] == 0).any():
        raise ValueError(f"type {kind[n_groups[kind] == 0][0]} has no cells to mix but a share above zero")
    group = first_group[kind] + (rng.random(len(kind)) * n_groups[kind]).astype(np.int64)
    pooled = (rng.random(len(n_drawn)) >= heterogeneous)[sample]
    type_length = np.bincount(chunks.types, minlength=chunks.n_types)[kind]
    start = np.where(pooled, group_start[first_group[kind]], group_start[group])
    length = np.where(pooled, type_length, group_length[group])
    cells = n_drawn[sample, kind]
    mean_size = chunks.n_cells.mean()
    draws = np.ceil(cells / mean_size).astype(np.int64)
    if max_chunks is not None:
        draws = np.minimum(draws, max_chunks)
    entry = np.repeat(np.arange(len(kind)), draws)
    chunk = start[entry] + (rng.random(len(entry)) * length[entry]).astype(np.int64)
    drawn_cells = np.bincount(entry, weights=chunks.n_cells[chunk], minlength=len(kind))
    weights = sparse.csr_matrix(
        ((cells / drawn_cells)[entry].astype(np.float32), (sample[entry], chunk)),
        shape=(len(n_drawn), len(chunks.types)),
    )
    return weights  # repeated draws of a chunk add up


def _type_effects(
    chunks: ChunkSums, log_size: np.ndarray, noise: PlatformNoise, rng: np.random.Generator
) -> np.ndarray:
    """Factors (types x genes): RNA content of a type times its unseen state."""
    n_genes = chunks.counts.shape[1]
    state = rng.standard_normal((chunks.n_types, n_genes), dtype=np.float32) * np.float32(noise.type_sd)
    return np.exp(state + log_size[:, None].astype(np.float32))


def _sequence(
    expected: np.ndarray, molecules: np.ndarray, noise: PlatformNoise, rng: np.random.Generator
) -> np.ndarray:
    """Negative binomial counts of `expected` molecules on another platform, at a random depth."""
    n_samples, n_genes = expected.shape
    platform = rng.standard_normal(n_genes, dtype=np.float32) * np.float32(rng.uniform(*noise.platform_sd))
    phi = rng.uniform(*noise.dispersion)
    depth = np.exp(rng.uniform(*np.log(noise.depth), size=n_samples)) / molecules
    residual = rng.standard_normal((n_samples, n_genes), dtype=np.float32) * np.float32(noise.sample_sd)
    residual += platform
    np.exp(residual, out=residual)
    residual *= expected
    residual *= depth[:, None].astype(np.float32)
    return _negative_binomial(residual, phi, rng)


def _negative_binomial(mean: np.ndarray, phi: float, rng: np.random.Generator) -> np.ndarray:
    """Counts of variance mean + phi mean^2; where they are many, by the cube of a normal variable.

    The cube has the mean and variance of a gamma variable (Wilson and Hilferty, PNAS 17, 1931), and few whole numbers
    separate that from the counts.
    """
    few = mean <= (_MANY if phi <= 0.1 else np.inf)
    variance = np.float32(phi) + 1 / np.maximum(mean, 1)  # of counts / mean
    counts = rng.standard_normal(mean.shape, dtype=np.float32)
    counts *= np.sqrt(variance) / 3
    counts += 1 - variance / 9
    counts = np.rint(mean * counts * counts * counts)
    counts[few] = rng.poisson(mean[few] * rng.standard_gamma(1 / phi, few.sum(), dtype=np.float32) * phi)
    return counts
