"""The compiled loops against NumPy, SciPy and the steps in torch that take the cohort at once."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls as scipy_nnls

from hpvade.solvers import _cpu, _kernels, _linear, _robust, coordinate_descent, marker_genes, nnls, robust


def cohort(seed=0, n=30, n_genes=500, n_types=6, depth=5e6):
    """Samples as shares with a factor per gene and counting noise; signature; fractions."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_types))
    signature /= signature.sum(axis=0)
    truth = rng.dirichlet(np.full(n_types, 0.5), n)
    mean = truth @ signature.T * rng.lognormal(0, 0.5, n_genes)
    counts = rng.poisson(mean / mean.sum(axis=1, keepdims=True) * depth)
    bulk = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    return torch.from_numpy(bulk).float(), torch.from_numpy(signature).float(), truth


@pytest.fixture
def in_torch(monkeypatch):
    """Solve again as on a device without compiled loops."""

    def again(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            for module in (_linear, _robust):
                patch.setattr(module, "on_processor", lambda x: False)
            return function(*args, **kwargs)

    return again


def anchored(n, n_types, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(n_types), n)).float()


OPTIONS = {
    "nothing given": {},
    "no factor": {"gene_factor": False, "gene_weight": False},
    "a weak anchor": {"anchor": anchored(30, 6), "anchor_weight": 0.02},
    "a strong anchor": {"anchor": anchored(30, 6), "anchor_weight": 1.0},
    "few counts": {"depth": torch.full((30,), 2e3)},
    "depths from 200 to 5e6": {"depth": torch.logspace(2.3, 6.7, 30)},
    "two steps": {"n_iterations": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_the_regression_is_that_of_the_steps_in_torch(options, in_torch):
    bulk, signature, _ = cohort()
    genes = marker_genes(signature)
    found = robust(bulk[:, genes], signature[genes], **options)
    expected = in_torch(robust, bulk[:, genes], signature[genes], **options)
    for name, bound in {"rna_proportions": 1e-4, "gene_factor": 1e-4, "gene_weight": 1e-3, "residual": 1e-3}.items():
        assert (getattr(found, name) - getattr(expected, name)).abs().max() < bound, name


@pytest.mark.parametrize(("n_types", "n_genes"), [(2, 3), (2, 15), (3, 16), (4, 17), (5, 511), (7, 513), (25, 1200)])
def test_any_number_of_types_and_genes(n_types, n_genes, in_torch):
    bulk, signature, _ = cohort(2, n=12, n_genes=n_genes, n_types=n_types)
    found, expected = robust(bulk, signature), in_torch(robust, bulk, signature)
    assert (found.rna_proportions - expected.rna_proportions).abs().max() < 1e-4


def edge(name, bulk, signature):
    if name == "one gene":
        return bulk[:, :1], signature[:1]
    if name == "a type that is zero":
        signature[:, 1] = 0
    elif name == "genes that are zero":
        bulk[:, :40], signature[40:60] = 0, 0
    elif name == "an empty sample":
        bulk[3] = 0
    elif name == "identical types":
        signature[:, 2] = signature[:, 0]
    return bulk, signature


@pytest.mark.parametrize(
    "name", ["one gene", "a type that is zero", "genes that are zero", "an empty sample", "identical types"]
)
def test_edges_are_those_of_the_steps_in_torch(name, in_torch):
    bulk, signature = edge(name, *cohort(3)[:2])
    options = {"gene_factor": False, "gene_weight": False}
    found, expected = robust(bulk, signature, **options), in_torch(robust, bulk, signature, **options)
    assert found.rna_proportions.isfinite().all()
    assert (found.rna_proportions - expected.rna_proportions).abs().max() < 1e-4
    assert (found.residual - expected.residual).abs().max() < 1e-3


def test_samples_of_few_counts_are_those_of_the_steps_in_torch(in_torch):
    bulk, signature, _ = cohort(4, depth=300)
    depth = torch.full((30,), 300.0)
    found, expected = (f(bulk, signature, depth=depth) for f in (robust, lambda *x, **y: in_torch(robust, *x, **y)))
    assert (found.rna_proportions - expected.rna_proportions).abs().max() < 1e-4


def ten_sweeps(design, response, solution):
    solution = solution.copy()
    for k in list(range(design.shape[1])) * 10:
        others = response - design @ solution + design[:, k] * solution[k]
        solution[k] = max(design[:, k] @ others / (design[:, k] @ design[:, k]), 0)
    return solution


def test_one_step_is_weighted_least_squares_in_numpy():
    bulk, signature, _ = cohort(5)
    weight = np.random.default_rng(0).uniform(0.5, 2, 500).astype(np.float32)
    fit = robust(
        bulk,
        signature,
        gene_factor=False,
        gene_weight=torch.from_numpy(weight),
        n_iterations=1,
        depth=torch.ones(30) * 1e6,
    )
    y, s = bulk.double().numpy(), signature.double().numpy()
    start = np.full((30, 6), 1 / 6) * (y.sum(axis=1) / (s / 6).sum())[:, None]
    c, phi = 5e-5, 0.3
    for n in range(30):
        mean = start[n] @ s.T + c
        e = np.log((y[n] + c) / mean)
        limit = 1.345 * 1.4826 * np.sort(np.abs(e))[249]
        v = weight * np.minimum(limit / np.abs(e), 1) * phi / (phi + 1 / (mean * 1e6))
        root = np.sqrt(v) / mean
        expected = ten_sweeps(root[:, None] * s, root * (mean * (1 + e.clip(-2, 2)) - c), start[n])
        np.testing.assert_allclose(fit.rna_proportions[n], expected / expected.sum(), atol=1e-5)
        e = np.log((y[n] + c) / (expected @ s.T + c))
        assert fit.residual[n] == pytest.approx(1.4826 * np.sort(np.abs(e))[249], abs=1e-4)


def test_a_sample_with_nan_is_nan_and_the_others_are_not():
    bulk, signature, _ = cohort(6)
    bulk[4, 7] = torch.nan
    found = robust(bulk, signature, gene_factor=False, gene_weight=False).rna_proportions
    assert found[4].isnan().all()
    assert found[torch.arange(30) != 4].isfinite().all()


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_bits_do_not_depend_on_threads_or_blocks_nor_answers_on_other_samples(threads):
    bulk, signature, _ = cohort(7, n=100)
    options = {"gene_factor": torch.linspace(-0.3, 0.3, 500), "gene_weight": torch.linspace(0.5, 1.5, 500)}
    threads(1)
    expected = robust(bulk, signature, **options)
    baseline = nnls(bulk, signature)
    for n in (1, 2, 3):
        threads(n)
        again = robust(bulk, signature, block=7, **options)
        assert torch.equal(again.rna_proportions, expected.rna_proportions)
        assert torch.equal(again.residual, expected.residual)
        assert torch.equal(nnls(bulk, signature), baseline)
    alone = robust(bulk[30:31], signature, **options)
    np.testing.assert_allclose(alone.rna_proportions[0], expected.rna_proportions[30], atol=1e-6)


def test_cohorts_are_repeated_bit_for_bit():
    bulk, signature, _ = cohort(8)
    first, second = robust(bulk, signature), robust(bulk, signature)
    assert torch.equal(first.rna_proportions, second.rna_proportions)
    assert torch.equal(first.gene_factor, second.gene_factor)


def test_rows_that_are_views_and_inference_tensors():
    bulk, signature, _ = cohort(9)
    expected = robust(bulk, signature).rna_proportions
    wide = torch.zeros((60, 1000))
    wide[::2, ::2] = bulk
    with torch.inference_mode():
        found = robust(wide[::2, ::2], signature.T.contiguous().T).rna_proportions
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_coordinates_are_those_in_torch(shared, in_torch):
    rng = np.random.default_rng(10)
    factor = rng.standard_normal((10, 8) if shared else (5, 10, 8))
    gram = torch.from_numpy(np.swapaxes(factor, -1, -2) @ factor)
    target, start = torch.from_numpy(rng.standard_normal((5, 8))), torch.from_numpy(rng.uniform(0, 1, (5, 8)))
    for n_sweeps in (1, 3, 10):
        options = {"n_sweeps": n_sweeps, "tolerance": 0.0}
        expected = in_torch(coordinate_descent, gram, target, start, **options)
        np.testing.assert_allclose(coordinate_descent(gram, target, start, **options), expected, atol=1e-12)


def test_coordinates_in_torch_stop_when_nothing_moves(in_torch):
    gram, target = torch.eye(3, dtype=torch.float64), torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64)
    found = in_torch(coordinate_descent, gram, target, n_sweeps=10**9)
    assert found.tolist() == [[1.0, 0.0, 2.0]]


@pytest.mark.parametrize("similar", [None, 1e-2, 1e-4, 0.0])
def test_minima_are_those_in_torch_and_scipy(similar, in_torch):
    rng = np.random.default_rng(11)
    signature = rng.lognormal(0, 1, (80, 7))
    if similar is not None:
        signature[:, 5:] = signature[:, :2] * rng.lognormal(0, similar, (80, 2))
    bulk = rng.dirichlet(np.full(7, 0.5), 20) @ signature.T * rng.lognormal(0, 0.5, (20, 80))
    tensors = [torch.from_numpy(x) for x in (bulk, signature)]
    found, in_steps = nnls(*tensors).numpy(), in_torch(nnls, *tensors).numpy()
    expected = np.stack([scipy_nnls(signature, row)[0] for row in bulk])
    residuals = [np.linalg.norm(bulk - b @ signature.T, axis=1) for b in (found, in_steps, expected)]
    np.testing.assert_allclose(residuals[0], residuals[2], rtol=1e-7)
    np.testing.assert_allclose(residuals[1], residuals[2], rtol=1e-7)
    if similar != 0:
        np.testing.assert_allclose(found, expected, atol=1e-6 / (similar or 1))


@pytest.mark.parametrize("n_genes", [1, 2, 15, 16, 412])
def test_median_of_sizes(n_genes):
    values = np.random.default_rng(n_genes).standard_normal(n_genes).astype(np.float32)
    values[: n_genes // 3] = values[0]  # ties
    found = _kernels._median_size(values, n_genes, np.empty(n_genes, np.int32))
    assert found == np.sort(np.abs(values))[(n_genes - 1) // 2]
    assert _kernels._median_size(np.zeros(n_genes, np.float32), n_genes, np.empty(n_genes, np.int32)) == 0


def test_log_ratios():
    rng = np.random.default_rng(12)
    bulk, mean = (rng.lognormal(0, 8, 4000).astype(np.float32) for _ in range(2))
    bulk[:5], found = [0, 1, 1, 1, 1], np.empty(4000, np.float32)
    mean[1:5] = [1, 2, 0.5, np.float32(2**0.5)]
    _kernels._log_ratios(bulk, mean, np.float32(1e-3), found)
    expected = np.log((bulk.astype(np.float64) + np.float32(1e-3)) / mean)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=2e-7)


def test_errors_in_a_thread_are_raised(threads):
    threads(2)

    def fail(first, end):
        raise RuntimeError(f"samples {first} to {end}")

    with pytest.raises(RuntimeError, match="samples 0 to"):
        _cpu.over_samples(fail, 100)


def test_no_folder_for_the_compiled_is_no_error():
    namespace = {}
    exec("def twice(x):\n    return 2 * x", namespace)  # from no file, so that numba has no place to keep it
    assert _kernels.compiled(namespace["twice"])(21) == 42


@pytest.mark.parametrize("n_types", [1, 2, 3, 4, 5, 7, 30])
@pytest.mark.parametrize("n_genes", [16, 512, 1104])
def test_normal_equations_are_those_of_numpy(n_types, n_genes):
    rng = np.random.default_rng(0)
    signature, weight, response = (
        rng.random(shape).astype(np.float32) for shape in ((n_types, n_genes), n_genes, n_genes)
    )
    scaled, gram = np.full((n_types + 3, 512), np.nan, np.float32), np.full((n_types + 3, n_types + 3), np.nan)
    scaled[n_types:] = 0
    target = np.empty(n_types)
    _kernels._normal_equations(signature, weight, response, scaled, gram, target)
    weighted = signature.astype(np.float64) * weight
    np.testing.assert_allclose(gram[:n_types, :n_types], weighted @ signature.T, rtol=1e-6)
    np.testing.assert_allclose(target, weighted @ response, rtol=1e-6)
