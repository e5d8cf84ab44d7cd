"""Mixtures: every cell has a gene of its own here, so that counts tell which cells were drawn."""

import numpy as np
import pytest
from scipy.stats import kstest

from hpvade.simulate import ChunkSums, PlatformNoise, assign_chunks, cells_as_chunks, draw_mixtures, sample_proportions

cell_types, cell_donors = np.repeat(np.arange(3), 40), np.tile(np.arange(4), 30)
SIZE = np.random.default_rng(0).integers(1, 50, 120)
QUIET = {"platform_sd": (0, 0), "type_sd": 0, "size_sd": 0, "sample_sd": 0, "dispersion": (1e-8, 1e-8)}


@pytest.fixture(scope="module")
def cells():
    return cells_as_chunks(np.diag(SIZE), cell_types, cell_donors, 3)


def mix(chunks, n_samples=200, seed=0, proportions=None, **kwargs):
    rng = np.random.default_rng(seed)
    if proportions is None:
        proportions = sample_proportions(n_samples, chunks.n_types, rng, alpha=0.5)
    return draw_mixtures(chunks, proportions, rng, **kwargs)


def grouped(per_cell, codes):
    return np.stack([per_cell[:, codes == code].sum(axis=1) for code in np.unique(codes)], axis=1)


@pytest.mark.parametrize("heterogeneous", [0.0, 0.7, 1.0])
def test_hp13_labels_equal_realised_fractions_exactly(cells, heterogeneous):
    mixtures = mix(cells, n_cells=500, max_chunks=None, heterogeneous=heterogeneous)
    drawn = mixtures.counts / SIZE  # how often each cell was drawn
    np.testing.assert_array_equal(drawn, np.rint(drawn))
    np.testing.assert_array_equal(drawn.sum(axis=1), 500)
    np.testing.assert_array_equal(grouped(drawn, cell_types) / 500, mixtures.proportions)
    molecules = grouped(mixtures.counts.astype(float), cell_types)
    np.testing.assert_allclose(
        mixtures.rna_proportions, molecules / molecules.sum(axis=1, keepdims=True), rtol=1e-12, atol=0
    )


def test_realised_fractions_are_multinomial_around_the_expected_ones(cells):
    expected = np.array([0.6, 0.3, 0.1])
    realised = mix(cells, proportions=np.tile(expected, (5000, 1)), n_cells=100).proportions
    np.testing.assert_allclose(realised.mean(axis=0), expected, atol=0.005)
    np.testing.assert_allclose(realised.var(axis=0), expected * (1 - expected) / 100, rtol=0.07)


def test_hp13_same_seed_same_matrix(cells):
    for noise in (None, PlatformNoise()):
        first, again, other = (mix(cells, 20, seed, noise=noise) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.counts, again.counts)
        np.testing.assert_array_equal(first.rna_proportions, again.rna_proportions)
        assert (first.counts != other.counts).any()


@pytest.mark.parametrize("heterogeneous", [0.0, 0.7, 1.0])
def test_heterogeneous_samples_take_one_donor_per_type(cells, heterogeneous):
    even = np.full((1000, 3), 1 / 3)
    counts = mix(cells, proportions=even, n_cells=300, max_chunks=None, heterogeneous=heterogeneous).counts
    n_donors = np.stack(
        [(grouped(counts[:, cell_types == k], cell_donors[cell_types == k]) > 0).sum(axis=1) for k in range(3)]
    )
    single = (n_donors == 1).all(axis=0)
    np.testing.assert_array_equal(n_donors[:, ~single], 4)  # of 100 cells of a type, every donor has some
    assert single.mean() == pytest.approx(heterogeneous, abs=0.05)
    if single.any():
        donor = np.stack(
            [grouped(counts[single][:, cell_types == k], cell_donors[cell_types == k]).argmax(axis=1) for k in range(3)]
        )
        np.testing.assert_allclose(np.bincount(donor.ravel()) / donor.size, 0.25, atol=0.05)
        assert (donor[0] == donor[1]).mean() == pytest.approx(0.25, abs=0.06)  # independent between types


def chunked(counts, chunk_size=10):
    chunk = assign_chunks(cell_types, cell_donors, np.random.default_rng(3), chunk_size=chunk_size)
    first = np.unique(chunk, return_index=True)[1]
    sums = np.zeros((len(first), counts.shape[1]))
    np.add.at(sums, chunk, counts)
    return ChunkSums(sums, cell_types[first], cell_donors[first], np.bincount(chunk), sums.sum(axis=1), n_types=3)


def test_chunks_stand_for_the_number_of_cells_drawn():
    chunks = chunked(np.eye(3)[cell_types], chunk_size=3)  # one marker gene per type, one molecule per cell
    mixtures = mix(chunks, n_cells=1000, max_chunks=4)
    np.testing.assert_allclose(mixtures.counts, mixtures.proportions * 1000, rtol=1e-5)
    np.testing.assert_allclose(mixtures.rna_proportions, mixtures.proportions, rtol=1e-5)


def test_max_chunks_bounds_the_chunks_of_a_sample_and_type():
    of_chunk = mix(chunked(np.eye(120), 2), n_cells=1000, max_chunks=3, heterogeneous=0).counts > 0
    assert grouped(of_chunk, cell_types).max() <= 6  # three chunks of two cells
    assert grouped(mix(chunked(np.eye(120), 2), n_cells=1000, max_chunks=None).counts > 0, cell_types).max() > 6


def one_type(profile):
    return ChunkSums(
        np.asarray(profile, float)[None], np.zeros(1, int), np.zeros(1, int), np.ones(1, int), np.sum(profile)[None], 1
    )


def test_noise_counts_are_negative_binomial():
    profile = np.array([1.0, 3.0, 6.0])
    noise = PlatformNoise(**QUIET | {"dispersion": (0.2, 0.2)}, depth=(1000, 1000))
    counts = mix(one_type(profile), proportions=np.ones((40_000, 1)), noise=noise).counts.astype(float)
    mean = 1000 * profile / 10
    np.testing.assert_allclose(counts.mean(axis=0), mean, rtol=0.01)
    np.testing.assert_allclose(counts.var(axis=0), mean + 0.2 * mean**2, rtol=0.05)
    np.testing.assert_array_equal(counts, np.rint(counts))


def test_noise_depth_is_log_uniform():
    noise = PlatformNoise(**QUIET, depth=(1e5, 1e7))
    totals = mix(one_type([1.0, 2.0]), proportions=np.ones((2000, 1)), noise=noise).counts.sum(axis=1)
    assert kstest((np.log10(totals) - 5) / 2, "uniform").pvalue > 0.01


@pytest.mark.parametrize("option", ["platform_sd", "sample_sd"])
def test_noise_platform_factor_is_shared_and_sample_noise_is_not(option):
    noise = PlatformNoise(**QUIET | {option: (0.5, 0.5) if option == "platform_sd" else 0.5}, depth=(1e9, 1e9))
    profile = np.random.default_rng(1).uniform(1, 5, 3000)
    counts = mix(one_type(profile), proportions=np.ones((8, 1)), noise=noise).counts
    factor = np.log(counts / (1e9 * profile / profile.sum()))
    np.testing.assert_allclose(factor.std(axis=1), 0.5, rtol=0.06)
    np.testing.assert_allclose(factor.mean(axis=1), 0, atol=0.04)
    others = np.corrcoef(factor)[0, 1:]
    np.testing.assert_allclose(others, 1 if option == "platform_sd" else 0, atol=0.06)


def test_noise_rna_content_scales_types_alike_in_all_samples(cells):
    noise = PlatformNoise(**QUIET | {"size_sd": 0.5}, depth=(1e8, 1e8))
    kwargs = {"n_cells": 500, "proportions": np.random.default_rng(4).dirichlet([9, 9, 9], 40), "heterogeneous": 0.0}
    plain, noisy = mix(cells, **kwargs), mix(cells, **kwargs, noise=noise)
    np.testing.assert_array_equal(plain.proportions, noisy.proportions)
    ratio = np.log(noisy.rna_proportions / plain.rna_proportions)
    ratio -= ratio[:, :1]
    np.testing.assert_allclose(ratio, np.tile(ratio[0], (40, 1)), atol=1e-6)
    assert np.abs(ratio[0, 1:]).min() > 0.01
    np.testing.assert_allclose(noisy.counts.sum(axis=1), 1e8, rtol=1e-3)  # the depth, whatever the RNA content
    # the counts agree with the label: types have disjoint genes
    observed = grouped(noisy.counts.astype(float), cell_types) / noisy.counts.sum(axis=1, keepdims=True, dtype=float)
    np.testing.assert_allclose(observed, noisy.rna_proportions, rtol=2e-3)


def test_noise_unseen_states_differ_between_types_and_not_between_samples():
    profile = np.random.default_rng(2).uniform(1, 5, 3000)
    chunks = ChunkSums(
        np.stack([profile, profile]), np.arange(2), np.zeros(2, int), np.ones(2, int), np.full(2, profile.sum()), 2
    )
    noise = PlatformNoise(**QUIET | {"type_sd": 0.3}, depth=(1e9, 1e9))
    state = np.log(mix(chunks, proportions=np.tile(np.eye(2), (2, 1)), noise=noise).counts / profile)
    np.testing.assert_allclose(state.std(axis=1), 0.3, rtol=0.06)
    np.testing.assert_allclose(np.corrcoef(state), np.tile(np.eye(2), (2, 2)), atol=0.06)


@pytest.mark.parametrize("noise", [None, PlatformNoise()])
def test_sparse_chunks_give_what_dense_ones_give(cells, noise):
    dense = cells.select_genes(np.arange(120))
    np.testing.assert_allclose(mix(cells, noise=noise).counts, mix(dense, noise=noise).counts, rtol=1e-5, atol=1)


def test_type_without_cells(cells):
    lacking = cells_as_chunks(
        np.diag(SIZE)[cell_types != 1], cell_types[cell_types != 1], cell_donors[cell_types != 1], 3
    )
    mixtures = mix(lacking, proportions=np.array([[0.5, 0.0, 0.5]]))
    assert mixtures.proportions[0, 1] == 0 and mixtures.rna_proportions[0, 1] == 0
    with pytest.raises(ValueError, match="type 1 has no cells to mix but a share above zero"):
        mix(lacking, proportions=np.array([[0.5, 0.5, 0.0]]))
    only_first = cells_as_chunks(np.eye(2), np.zeros(2, int), np.zeros(2, int), 3)
    with pytest.raises(ValueError, match="type 2 has no cells to mix but a share above zero"):
        mix(only_first, proportions=np.array([[0.0, 0.0, 1.0]]))


def test_no_cells_asked_for(cells):
    with pytest.raises(ValueError, match="n_cells=0"):
        mix(cells, n_cells=0)
