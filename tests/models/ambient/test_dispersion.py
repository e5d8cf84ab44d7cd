"""Overdispersion of floor counts: none where they are ambient, that of the expressed genes where they are native."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp
from hpvade.models.ambient import _evidence
from hpvade.models.ambient._dispersion import _moments, _variance, ambient_part, interval, ratio_likelihood
from hpvade.models.ambient._evidence import TOLERANCE
from hpvade.models.ambient._native_share import native_share
from hpvade.models.ambient._profile import refine_profile

LEFT = np.array([1.0, 0.0])  # groups of the floor, and of the expression


def gamma_poisson(rng, mean, dispersion):
    return rng.poisson(mean * rng.gamma(1 / dispersion, dispersion, mean.shape)) if dispersion else rng.poisson(mean)


def two_groups(native, seed=0, dispersion=0.3, bursts=1.0, n_cells=3000, doublets=0.0):
    """Forty genes that group 1 expresses; in group 0 their floor is native by a share, the rest ambient.

    Ambient counts follow one profile, and cells have 0.2 to 3 times as many as the average.
    """
    rng = np.random.default_rng(seed)
    rate = rng.gamma(2.0, 1.0, 40)
    of_cells = rng.uniform(0.2, 3.0, (n_cells, 1))
    low = gamma_poisson(rng, np.tile(0.5 * native * rate, (n_cells, 1)), bursts * dispersion)
    low = low + rng.poisson(0.5 * (1 - native) * rate * of_cells / of_cells.mean())
    high = gamma_poisson(rng, np.tile(5.0 * rate, (n_cells, 1)), dispersion)
    low[: int(doublets * n_cells)] += high[: int(doublets * n_cells)]
    others = rng.poisson(2.0, (2 * n_cells, 60))
    X = np.hstack([np.vstack([low, high]), others]).astype(np.float32)
    place = np.repeat([0, 1], n_cells)
    sums = np.stack([X[place == k].sum(axis=0, dtype=float) for k in (0, 1)])[:, None]
    genes = np.arange(100) < 40
    return X, place, sums, LEFT[:, None, None] * genes > 0, LEFT[::-1, None] * genes > 0


@pytest.mark.parametrize("native", [0.0, 0.3, 0.6, 0.8])
def test_the_ambient_part_of_a_floor_is_found(native):
    """What is left of the overdispersion is the square of the native share; a native fifth is tolerated."""
    found, expected = [ambient_part(*two_groups(native, seed))[0][0] for seed in range(3)], native**2 - TOLERANCE**2
    expected = 1 - np.sqrt(max(expected, 0))
    assert np.median(found) == pytest.approx(expected, abs=0.1)
    assert min(found) >= expected - 0.05  # what the interval leaves open counts as ambient


@pytest.mark.parametrize("bursts", [1.0, 3.0])
def test_a_native_floor_shows_no_ambient_rna(bursts):
    """Also where low expression varies more than high expression does."""
    assert [ambient_part(*two_groups(1.0, seed, bursts=bursts))[0][0] for seed in range(5)] == [0.0] * 5


def test_doublets_do_not_make_a_floor_native():
    assert ambient_part(*two_groups(0.0, doublets=0.05))[0][0] > 0.9


def test_what_says_nothing_changes_nothing():
    """Expression without overdispersion, few cells, no pair on a floor."""
    assert ambient_part(*two_groups(1.0, dispersion=0.0))[0][0] == pytest.approx(1, abs=0.01)
    assert ambient_part(*two_groups(1.0, n_cells=4))[0][0] == pytest.approx(1, abs=0.01)
    X, place, sums, floor, expressed = two_groups(1.0, n_cells=50)
    assert ambient_part(X, place, sums, floor & False, expressed)[0][0] == 1


@pytest.mark.parametrize(("mean", "dispersion"), [(0.05, 0.0), (0.3, 1.0), (4.0, 0.0), (4.0, 0.5)])
def test_the_variance_is_that_of_draws_with_a_given_sum(mean, dispersion):
    """Residual variance, on the sum of x, of the sum of x(x - 1) over cells."""
    rng, n_cells = np.random.default_rng(0), 200
    x = gamma_poisson(rng, np.full((20_000, n_cells), mean), dispersion)
    first, second = x.sum(axis=1), (x * (x - 1.0)).sum(axis=1)
    slope, residual = np.polyfit(first, second, 1), second
    residual = second - np.polyval(slope, first)
    expected = _variance(np.array(n_cells * mean), np.array(n_cells * mean**2), dispersion)
    assert residual.var() == pytest.approx(float(expected), rel=0.05)


def test_the_interval_holds_the_truth():
    """Ratio of the moments' overdispersion where all genes share it."""
    inside = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = gamma_poisson(rng, np.tile(rng.gamma(2.0, 0.5, 30), (2000, 1)), 0.2)
        first, square = x.sum(axis=0), (x * (x - 1.0)).sum(axis=0)
        lower, upper = interval(
            ratio_likelihood(square, first**2 / 2000, first, np.full(30, 0.4), np.zeros(30), np.zeros(30))
        )
        inside.append(lower <= 0.5 <= upper)
        assert upper - lower < 0.3
    assert np.mean(inside) >= 0.9


@pytest.mark.parametrize("kind", ["csr", "csc", "hdf5"])
def test_any_matrix_gives_the_moments_of_a_dense_one(kind, tmp_path):
    X, place, sums, floor, _ = two_groups(0.5, n_cells=400, doublets=0.02)
    genes, share = np.flatnonzero(floor.any(axis=(0, 1))), (sums * floor).sum(axis=2) / sums.sum(axis=2)
    n, total = (X * floor[place, 0]).sum(axis=1), X.sum(axis=1)
    expected = share.ravel()[place] * total
    kept = n <= np.maximum(2 * expected, expected + 2 * np.sqrt(expected) + 1)
    assert kept[place == 0].mean() < 1
    with h5py.File(tmp_path / "x.h5", "w") as file:
        matrix = file.create_dataset("x", data=X) if kind == "hdf5" else getattr(sparse, f"{kind}_matrix")(X)
        first, second, of_cells = _moments(matrix, place, genes, floor[..., genes], share)
    for k in (0, 1):
        x = X[(place == k) & kept][:, genes].astype(float)
        np.testing.assert_allclose(first[k, 0], x.sum(axis=0))
        np.testing.assert_allclose(second[k, 0], (x * (x - 1)).sum(axis=0))
        own = (place == k) & kept
        pairs = [value[own].astype(float) for value in (n, total)]
        np.testing.assert_allclose(of_cells[k, 0, 1::2], [(v * (v - 1)).sum() for v in pairs])


def split(adata, batch):
    """Share removed from each batch, with the types as groups, and the levels that are found."""
    kind, n_batches = adata.obs["cell_type"].cat.codes.to_numpy(), batch.max() + 1
    sums = np.zeros((kind.max() + 1, n_batches, adata.n_vars))
    np.add.at(sums, (kind, batch), adata.X.toarray())
    cells = np.bincount(kind * n_batches + batch, minlength=sums[..., 0].size).reshape(sums.shape[:2])
    profile = refine_profile(sums, sums.sum(axis=0) / sums.sum(axis=(0, 2))[:, None], cells)
    without = native_share(sums, profile)
    found = native_share(sums, profile, (adata.X, kind * n_batches + batch))
    assert (found.lower <= found.level).all() and (found.level <= np.maximum(found.upper, 1e-12)).all()
    return 1 - (found.share * sums).sum(axis=(0, 2)) / sums.sum(axis=(0, 2)), found.level, without.level


@pytest.mark.parametrize("n_types", [4, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_types_with_the_markers_of_others_at_one_low_level_are_left_alone(n_types, seed):
    """No ambient RNA, but a floor under all markers, which sums take for it."""
    cells = hp.datasets.planted_cohort(n_types=n_types, seed=seed)[0]
    removed, _, without = split(cells, cells.obs["donor"].cat.codes.to_numpy())
    assert without.min() > 0.1 and removed.mean() <= 0.02


@pytest.mark.parametrize(("n_types", "seed"), [(4, 0), (5, 0), (4, 2)])
def test_ambient_rna_on_a_native_floor_is_found(n_types, seed):
    cells = hp.datasets.planted_cohort(n_types=n_types, seed=seed)[0]
    observed = hp.datasets.plant_ambient(cells, fractions=(0.05, 0.15, 0.4), seed=seed)
    _, level, without = split(observed, observed.obs["batch"].cat.codes.to_numpy())
    assert np.abs(level - [0.05, 0.15, 0.4]).max() < 0.09 and without[1] > 0.28 and abs(level[1] - 0.15) < 0.06


def test_ambient_rna_of_types_that_lack_genes_stays_found():
    """Nothing changes where the floor is ambient."""
    rng, kind = np.random.default_rng(0), np.arange(900) % 6
    rate = rng.gamma(1.0, 1.0, (6, 300)) * ((np.arange(300) % 9 == np.arange(6)[:, None]) | (np.arange(300) % 9 >= 6))
    mean = 800 * (rate / rate.sum(axis=1, keepdims=True))[kind]
    cells = ad.AnnData(sparse.csr_matrix(gamma_poisson(rng, mean, 0.5).astype(np.float32)))
    cells.obs["cell_type"] = pd.Categorical(kind.astype(str))
    observed = hp.datasets.plant_ambient(cells, fractions=(0.05, 0.15, 0.3))
    _, level, without = split(observed, observed.obs["batch"].cat.codes.to_numpy())
    np.testing.assert_allclose(level, [0.05, 0.15, 0.3], rtol=0.3)
    np.testing.assert_allclose(level, without, rtol=1e-9)


def test_fractions_of_counts_and_no_cells_are_taken():
    X, place, sums, floor, expressed = two_groups(0.5, n_cells=100)
    assert 0 <= ambient_part(0.3 * X, place, 0.3 * sums, floor, expressed)[0][0] <= 1
    assert ambient_part(0 * X, place, 0 * sums, floor, expressed)[0][0] == 1


@pytest.mark.parametrize("dispersion", [0.5, 0.0])
def test_a_floor_in_doubt_counts_where_cells_show_that_it_is_ambient(dispersion, monkeypatch):
    """Where expression is not overdispersed, cells cannot show it, and none is found."""
    monkeypatch.setattr(_evidence, "_SCATTER", -1.0)  # all high floors are in doubt
    rng, kind = np.random.default_rng(1), np.arange(1200) % 6
    rate = np.where(np.arange(360) % 9 == np.arange(6)[:, None], 1.0, 0.02) * rng.lognormal(0, 1.0, (6, 360))
    mean = 800 * (rate / rate.sum(axis=1, keepdims=True))[kind]
    cells = ad.AnnData(sparse.csr_matrix(gamma_poisson(rng, mean, dispersion).astype(np.float32)))
    cells.obs["cell_type"] = pd.Categorical(kind.astype(str))
    observed = hp.datasets.plant_ambient(cells, fractions=(0.05, 0.15, 0.4))
    removed, level, without = split(observed, observed.obs["batch"].cat.codes.to_numpy())
    assert without[2] == 0
    expected = 0.4 if dispersion else 0
    assert level[2] == pytest.approx(expected, abs=0.08) and removed[2] == pytest.approx(expected, abs=0.08)


def test_noise_of_the_expressed_side_is_no_evidence():
    """Poisson counts of types that share all genes: the found share stays zero though their floor is high."""
    rng, kind = np.random.default_rng(0), np.arange(1200) % 6
    rate = rng.lognormal(0, 0.3, (6, 360)) * rng.gamma(1.0, 1.0, 360)
    mean = 800 * (rate / rate.sum(axis=1, keepdims=True))[kind] * rng.lognormal(0, 0.4, (1200, 1))
    cells = ad.AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
    cells.obs["cell_type"] = pd.Categorical(kind.astype(str))
    removed, level, _ = split(cells, np.arange(1200) // 6 % 3)
    assert (level == 0).all() and (removed == 0).all()
