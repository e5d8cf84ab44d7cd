"""The ambient profile from sums over groups: planted mixtures come back, without evidence the model's stays."""

import numpy as np
import pytest

from hpvade.models.ambient import _profile
from hpvade.models.ambient._profile import refine_profile

N_TYPES, N_GENES = 5, 300


def drawn(shares, seed, concentration=2.0, depth=2e5):
    """Sums (types, batches, genes) with ambient RNA, expected sums, planted profiles, their mixtures, cells, totals."""
    rng = np.random.default_rng(seed)
    owner = np.arange(N_GENES) % (N_TYPES + 2)  # two parts in seven are in all types, the others in one each
    profiles = rng.gamma(1.0, 1.0, (N_TYPES, N_GENES)) * ((owner == np.arange(N_TYPES)[:, None]) | (owner >= N_TYPES))
    profiles /= profiles.sum(axis=1, keepdims=True)
    mixtures = rng.dirichlet(np.full(N_TYPES, concentration), len(shares))
    cells = np.full((N_TYPES, len(shares)), 50.0)
    totals = depth * rng.lognormal(0, 0.3, cells.shape)
    share = np.asarray(shares)
    expected = totals[..., None] * ((1 - share)[:, None] * profiles[:, None] + share[:, None] * (mixtures @ profiles))
    return rng.poisson(expected).astype(float), expected, profiles, mixtures, cells, totals


def mean_of(counts):
    return counts.sum(axis=0) / counts.sum(axis=(0, 2))[:, None]


@pytest.mark.parametrize("shares", [(0.05, 0.15, 0.4), (0.1, 0.1, 0.2), (0.4, 0.25, 0.1)])
@pytest.mark.parametrize("concentration", [2.0, 5.0, 20.0])
def test_what_deviates_from_the_mean_of_the_batch_is_found(shares, concentration):
    found = []
    for seed in range(3):
        counts, _, profiles, mixtures, cells, _ = drawn(shares, seed, concentration)
        mean, truth = mean_of(counts), mixtures @ profiles
        refined = refine_profile(counts, mean, cells)
        np.testing.assert_allclose(refined.sum(axis=1), 1)
        found += [np.corrcoef(p - m, t - m)[0, 1] for p, m, t in zip(refined, mean, truth, strict=True)]
    found = np.array(found).reshape(3, -1)[:, np.array(shares) >= 0.1]
    assert found.min() > 0.5 and np.median(found) > 0.9


def test_the_truth_is_a_fixed_point():
    shares = np.array([0.1, 0.3])
    _, expected, profiles, mixtures, _, totals = drawn(shares, 0)
    weights, rates = _profile._maximise(expected, totals * (1 - shares), totals * shares, mixtures)
    np.testing.assert_array_equal(weights, mixtures)
    np.testing.assert_allclose(rates, profiles, atol=2e-4)
    np.testing.assert_allclose(
        _profile._mixture(expected, totals * (1 - shares), totals * shares, mixtures, 0 * mixtures),
        mixtures @ profiles,
        atol=2e-4,
    )


def test_genes_in_blocks_give_the_same_profile(monkeypatch):
    counts, _, _, _, cells, _ = drawn((0.1, 0.3), 1)
    whole = refine_profile(counts, mean_of(counts), cells)
    monkeypatch.setattr(_profile, "_VALUES", 200 * N_TYPES * 2)  # 200 of the 300 genes
    assert np.abs(refine_profile(counts, mean_of(counts), cells) - whole).sum() < 0.1


@pytest.mark.parametrize("part", [np.s_[:1], np.s_[:, :1]])
def test_one_group_or_one_batch_keeps_the_profile_of_the_model(part):
    counts, _, _, _, cells, _ = drawn((0.1, 0.3), 2)
    learned = mean_of(counts[part]) ** 0.5
    assert refine_profile(counts[part], learned, cells[part]) is learned


def test_a_batch_and_a_group_without_counts_do_no_harm():
    counts, _, _, _, cells, _ = drawn((0.2, 0.3, 0.1), 4)
    counts[:, 2], counts[0], cells[0] = 0, 0, 0
    learned = np.vstack([mean_of(counts[:, :2]), np.full((1, N_GENES), 1 / N_GENES)])
    found = refine_profile(counts, learned, cells)
    alone = refine_profile(counts[1:, :2], learned[:2], cells[1:, :2])
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[:2], alone, atol=1e-3)


@pytest.mark.parametrize(
    ("floors", "kept"),  # of the model's profile, of the mixture, of both together
    [
        ([(1, 1), (0, 1), (1, 1)], [True, False]),
        ([(0, 1), (0, 0), (0, 1)], [False, True]),
        ([(0, 0), (0, 0), (0, 0)], [False, False]),
        ([(1, 1), (0, 1), (0, 0)], [True, True]),
    ],
)
def test_the_profile_of_the_model_stays_where_only_it_shows_a_floor(monkeypatch, floors, kept):
    counts, _, _, _, cells, _ = drawn((0.1, 0.3), 3)
    learned, mixture = mean_of(counts), np.full((2, N_GENES), 1 / N_GENES)
    answers = iter([(None, None)] * _profile._ROUNDS + floors)
    monkeypatch.setattr(_profile, "_mixture", lambda *_: mixture)
    monkeypatch.setattr(_profile, "_floors", lambda *_: (np.full(2, 0.1), np.array(next(answers), dtype=object) == 1))
    found = refine_profile(counts, learned, cells)
    np.testing.assert_array_equal(found, np.where(np.array(kept)[:, None], learned, mixture))


def test_rna_of_types_whose_cells_a_batch_lacks_is_found():
    """As in donors that were sequenced together and told apart afterwards; a profile that is not sought scores 0."""
    found = []
    for seed in range(6):
        counts, _, profiles, mixtures, cells, _ = drawn((0.15, 0.3, 0.4), seed)
        for b in range(3):
            counts[b, b], cells[b, b] = 0, 0
        mean, truth = mean_of(counts), mixtures @ profiles
        for p, m, t in zip(refine_profile(counts, mean, cells), mean, truth, strict=True):
            found.append(0.0 if np.array_equal(p, m) else np.corrcoef(p - m, t - m)[0, 1])
    assert np.median(found) > 0.9
