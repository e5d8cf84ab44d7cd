"""Non-negative least squares against SciPy and the optimality conditions."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls as scipy_nnls

from hpvade.solvers import coordinate_descent, nnls


def problem(seed, n=6, n_genes=80, n_types=5):
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1, (n_genes, n_types)) * rng.lognormal(0, 1.5, n_types)
    bulk = rng.dirichlet(np.full(n_types, 0.5), n) @ signature.T * rng.lognormal(0, 0.5, (n, n_genes))
    return bulk, signature


def reference(bulk, signature):
    return np.stack([scipy_nnls(signature, row)[0] for row in bulk])


def solve(bulk, signature):
    return nnls(torch.from_numpy(bulk), torch.from_numpy(signature)).numpy()


@pytest.mark.parametrize("seed", range(10))
def test_nnls_equals_scipy(seed):
    bulk, signature = problem(seed, n_types=2 + 3 * (seed % 5))
    expected = reference(bulk, signature)
    np.testing.assert_allclose(solve(bulk, signature), expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_nnls_of_unrelated_data_equals_scipy_with_many_zeros():
    rng = np.random.default_rng(0)
    bulk, signature = rng.standard_normal((20, 40)), rng.standard_normal((40, 12))
    expected = reference(bulk, signature)
    assert (expected == 0).mean() > 0.3
    np.testing.assert_allclose(solve(bulk, signature), expected, atol=1e-7)


@pytest.mark.parametrize("similar", [0.1, 0.01, 0.001])
def test_nnls_of_similar_types_equals_scipy(similar):
    rng = np.random.default_rng(1)
    bulk, signature = problem(0, n=20, n_types=6)
    signature[:, 4:] = signature[:, 3:4] * rng.lognormal(0, similar, (80, 2))
    expected = reference(bulk, signature)
    np.testing.assert_allclose(solve(bulk, signature), expected, atol=1e-6 * expected.max() / similar)


def test_nnls_of_identical_columns_has_the_minimal_residual():
    bulk, signature = problem(3)
    signature[:, 4] = 2 * signature[:, 1]
    found, expected = solve(bulk, signature), reference(bulk, signature)
    assert (found >= 0).all()
    residuals = [np.linalg.norm(bulk - b @ signature.T, axis=1) for b in (found, expected)]
    np.testing.assert_allclose(residuals[0], residuals[1], rtol=1e-6)


def test_nnls_of_zeros():
    bulk, signature = problem(4)
    bulk[1] = 0
    signature[:, 2] = 0
    found = solve(bulk, signature)
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_array_equal(found[:, 2], 0)
    expected = reference(bulk, np.delete(signature, 2, axis=1))
    np.testing.assert_allclose(np.delete(found, 2, axis=1), expected, atol=1e-6 * expected.max())


def test_nnls_scales_with_bulk_and_against_columns():
    bulk, signature = problem(5)
    rows, columns = np.array([[1e-6], [1], [10], [1e6], [3], [7]]), np.array([1e-8, 1, 1e3, 5, 1e8])
    np.testing.assert_allclose(
        solve(bulk * rows, signature * columns), solve(bulk, signature) * rows / columns, rtol=1e-4
    )


def test_nnls_takes_float32_and_returns_float64():
    bulk, signature = problem(6)
    found = nnls(torch.from_numpy(bulk).float(), torch.from_numpy(signature).float())
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, reference(bulk, signature), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_coordinate_descent_meets_the_optimality_conditions(shared):
    rng = np.random.default_rng(7)
    factor = rng.standard_normal((10, 8) if shared else (5, 10, 8))
    gram = torch.from_numpy(np.swapaxes(factor, -1, -2) @ factor)
    target = torch.from_numpy(rng.standard_normal((5, 8)))
    solution = coordinate_descent(gram, target, n_sweeps=20_000, tolerance=1e-13)
    gradient = (gram.expand(5, 8, 8) @ solution[:, :, None])[:, :, 0] - target
    assert (solution >= 0).all() and (solution > 0).any() and (solution == 0).any()
    assert gradient[solution > 0].abs().max() < 1e-7
    assert gradient[solution == 0].min() > -1e-7


def test_coordinate_descent_keeps_the_start_unchanged_and_does_not_depend_on_it():
    rng = np.random.default_rng(8)
    factor = rng.standard_normal((20, 4))
    gram, target = torch.from_numpy(factor.T @ factor), torch.from_numpy(rng.standard_normal((3, 4)))
    start = torch.from_numpy(rng.uniform(0, 5, (3, 4)))
    before = start.clone()
    warm = coordinate_descent(gram, target, start)
    assert torch.equal(start, before)
    np.testing.assert_allclose(warm, coordinate_descent(gram, target), atol=1e-8)


@pytest.mark.parametrize("shapes", [((3, 10), (11, 2)), ((10,), (10, 2)), ((3, 10), (10,))])
def test_shapes_that_do_not_match(shapes):
    with pytest.raises(ValueError, match=r"expected \(samples x genes\) and \(genes x types\)"):
        nnls(*(torch.ones(shape) for shape in shapes))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("similar", [None, 0.01])
def test_weighted_nnls_equals_scipy(seed, similar):
    rng = np.random.default_rng(seed)
    bulk, signature = problem(seed)
    if similar:
        signature[:, 4] = signature[:, 3] * rng.lognormal(0, similar, 80)
    weight = rng.lognormal(0, 3, bulk.shape)
    root = np.sqrt(weight)
    expected = np.stack([scipy_nnls(r[:, None] * signature, r * y)[0] for r, y in zip(root, bulk, strict=True)])
    found = nnls(*(torch.from_numpy(x) for x in (bulk, signature, weight))).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.max() / (similar or 1))


def test_weights_shared_by_all_samples():
    bulk, signature = problem(9)
    weight = np.random.default_rng(0).lognormal(0, 1, 80)
    each, shared = (
        nnls(*(torch.from_numpy(x) for x in (bulk, signature, w))) for w in (np.tile(weight, (6, 1)), weight)
    )
    np.testing.assert_allclose(shared, each, rtol=1e-10)
    np.testing.assert_allclose(
        nnls(torch.from_numpy(bulk), torch.from_numpy(signature), torch.ones(80)), solve(bulk, signature), rtol=1e-6
    )
