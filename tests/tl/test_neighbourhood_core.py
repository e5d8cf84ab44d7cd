"""Neighbourhood metrics on arrays against numpy.corrcoef and simulation."""

import numpy as np
import pytest
from scipy import sparse

from hpvade.tl._neighbourhood_core import (
    average_correlation,
    isolation,
    neighbour_masks,
    overlap,
    pairwise_summary,
    qualifying_share,
    random_graph,
    standardised,
    weighted_mean,
)

N = 40


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    W = rng.random((N, N)) * (rng.random((N, N)) < 0.2)
    W[5] = 0
    library = np.arange(N) % 4
    return {
        "W": sparse.csr_matrix(W + np.eye(N)),
        "library": library,
        "dataset": library // 2,
        "technical": {"kit": np.arange(N) % 3},
        "profiles": rng.gamma(1.0, size=(N, 12)),
    }


def test_rv_21_masks_partition_the_neighbours(case):
    masks = neighbour_masks(case["W"], case["library"], case["dataset"], case["technical"])
    every = masks["all_neighbours"].toarray()
    assert (np.diag(every) == 0).all()
    parts = [
        ("same_library", "between_libraries"),
        ("same_library", "cross_library", "cross_dataset"),
        ("within_kit", "between_kit"),
    ]
    for names in parts:
        np.testing.assert_allclose(sum(masks[name].toarray() for name in names), every)
        assert (sum((masks[name].toarray() > 0).astype(int) for name in names) <= 1).all()
    np.testing.assert_array_equal(masks["cross_technical"].toarray(), masks["between_kit"].toarray())


def test_rv_22_cells_with_missing_keys_are_in_no_mask(case):
    case["library"] = np.where(np.arange(N) < 3, -1, case["library"])
    masks = neighbour_masks(case["W"], case["library"], case["dataset"], {})
    for name in ("same_library", "between_libraries", "cross_library"):
        assert masks[name][:3].nnz == 0 and masks[name][:, :3].nnz == 0
    assert masks["cross_dataset"][:3].nnz > 0


def test_rv_21_average_correlation_is_corrcoef(case):
    masks = neighbour_masks(case["W"], case["library"], case["dataset"], case["technical"])
    for mask in masks.values():
        found, dense = average_correlation(case["profiles"], mask), mask.toarray()
        for n in range(N):
            if dense[n].sum() == 0:
                assert np.isnan(found[n])
            else:
                mean = dense[n] @ case["profiles"] / dense[n].sum()
                assert found[n] == pytest.approx(np.corrcoef(case["profiles"][n], mean)[0, 1])


def test_rv_21_pairwise_summaries(case):
    mask = neighbour_masks(case["W"], case["library"], None, {})["between_libraries"]
    found, R = pairwise_summary(case["profiles"], mask), np.corrcoef(case["profiles"])
    for n in (0, 7, 20):
        js = mask[n].indices
        r, w = R[n, js], mask[n].data
        expected = {"mean": r.mean(), "median": np.median(r), "weighted_mean": np.average(r, weights=w), "std": r.std()}
        expected["cv"] = r.std() / r.mean()
        for name, value in expected.items():
            assert found[name][n] == pytest.approx(value), name
        middle = found["weighted_median"][n]
        below, above = w[r < middle - 1e-9].sum(), w[r > middle + 1e-9].sum()
        assert below <= w.sum() / 2 and above <= w.sum() / 2
    assert np.isnan(found["mean"][5])


def test_constant_profiles_have_no_correlation(case):
    case["profiles"][3] = 2.0
    assert np.isnan(standardised(case["profiles"])[3]).all()
    mask = neighbour_masks(case["W"], case["library"], None, {})["all_neighbours"]
    assert np.isnan(average_correlation(case["profiles"], mask)[3])
    assert np.isfinite(pairwise_summary(case["profiles"], mask)["mean"][0])


def test_rv_21_expected_isolation_equals_simulation():
    rng = np.random.default_rng(1)
    library = np.repeat([0, 1, 2], [30, 8, 2])
    n, k = len(library), 6
    shares = qualifying_share(library, np.array([0] * 30 + [1] * 10), {})
    simulated = {name: [] for name in shares}
    for _ in range(400):
        picks = rng.integers(0, n - 1, (n, k))  # with replacement, as the formula has it
        picks += picks >= np.arange(n)[:, None]
        same = library[picks] == library[:, None]
        own = np.array([0] * 30 + [1] * 10)[picks] == np.array([0] * 30 + [1] * 10)[:, None]
        inside = {"same_library": same, "between_libraries": ~same, "cross_library": ~same & own, "cross_dataset": ~own}
        for name, hits in inside.items():
            simulated[name].append((~hits.any(1)).mean())
    for name, share in shares.items():
        _, expected = isolation(share, np.full(n, k), np.ones(n))
        error = np.std(simulated[name]) / np.sqrt(400)
        assert abs(np.mean(simulated[name]) - expected) < 4 * error + 1e-12, name


def test_overlap_of_histograms():
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, 4000)
    assert overlap(a, a) == pytest.approx(1) and overlap(np.full(5, -0.9), np.full(5, 0.9)) == 0
    halves = overlap(rng.uniform(-1, 0, 4000), rng.uniform(-0.5, 0.5, 4000))
    assert halves == pytest.approx(0.5, abs=0.05)
    assert np.isnan(overlap(a, np.array([np.nan])))


def test_weighted_mean_skips_what_is_missing():
    assert weighted_mean([(0.4, 0.5), (0.3, np.nan), (0.3, 1.0)]) == pytest.approx((0.4 * 0.5 + 0.3) / 0.7)
    assert np.isnan(weighted_mean([(1.0, np.nan)]))


def test_random_graph_keeps_degrees_and_draws_no_cell_itself(case):
    W = neighbour_masks(case["W"], case["library"], None, {})["all_neighbours"]
    graph = random_graph(W, np.random.default_rng(0))
    np.testing.assert_array_equal(np.diff(graph.indptr), np.diff(W.indptr))
    assert (graph.diagonal() == 0).all() and (graph != W).nnz > 0
    np.testing.assert_allclose(np.sort(graph.data), np.sort(W.data))
