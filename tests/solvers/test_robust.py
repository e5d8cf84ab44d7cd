"""Robust regression against planted truths and a direct minimisation of its objective."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from hpvade.solvers import nnls, robust


def problem(seed=0, n=12, n_genes=400, n_types=5):
    """Fractions of RNA, signature with columns that sum to one, and their noiseless product."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 0.8, (n_genes, n_types))
    signature /= signature.sum(axis=0)
    truth = rng.dirichlet(np.ones(n_types), n)
    return truth, signature, truth @ signature.T


def solve(bulk, signature, **kwargs):
    kwargs = {key: torch.as_tensor(v).float() if isinstance(v, np.ndarray) else v for key, v in kwargs.items()}
    return robust(torch.from_numpy(bulk), torch.from_numpy(signature), **kwargs)


def rmse(fractions, truth):
    return float(np.sqrt(np.mean((np.asarray(fractions) - truth) ** 2)))


def nnls_fractions(bulk, signature):
    found = nnls(torch.from_numpy(bulk), torch.from_numpy(signature)).numpy()
    return found / found.sum(axis=1, keepdims=True)


def test_noiseless_mixtures_are_recovered():
    truth, signature, bulk = problem()
    fit = solve(bulk, signature, gene_factor=False)
    np.testing.assert_allclose(fit.rna_proportions, truth, atol=1e-4)
    np.testing.assert_allclose(fit.rna_proportions.sum(dim=1), 1, atol=1e-6)
    assert (fit.gene_factor == 0).all()
    assert fit.residual.max() < 1e-4


def test_residual_is_the_robust_deviation_of_log_residuals():
    _, signature, bulk = problem(n_genes=3000)
    noisy = bulk * np.random.default_rng(1).lognormal(0, 0.3, bulk.shape)
    fit = solve(noisy, signature, gene_factor=False, offset=1e-9, depth=np.full(12, 1e12))
    np.testing.assert_allclose(fit.residual, 0.3, rtol=0.1)


def test_platform_factor_of_a_cohort_is_recovered_and_helps():
    truth, signature, bulk = problem(n=40)
    rng = np.random.default_rng(2)
    factor = rng.normal(0, 0.7, len(signature))
    seen = bulk * np.exp(factor) * rng.lognormal(0, 0.1, bulk.shape)
    fit, without = solve(seen, signature), solve(seen, signature, gene_factor=False)
    assert np.corrcoef(fit.gene_factor, factor)[0, 1] > 0.9
    assert np.polyfit(factor, fit.gene_factor.numpy(), 1)[0] == pytest.approx(1, abs=0.1)
    assert rmse(fit.rna_proportions, truth) < rmse(without.rna_proportions, truth)
    assert rmse(fit.rna_proportions, truth) < 0.5 * rmse(nnls_fractions(seen, signature), truth)


def test_given_factor_is_used_as_it_is():
    truth, signature, bulk = problem(n=1)
    factor = np.random.default_rng(3).normal(0, 0.7, len(signature))
    fit = solve(bulk * np.exp(factor), signature, gene_factor=factor)
    np.testing.assert_allclose(fit.rna_proportions, truth, atol=1e-3)
    np.testing.assert_allclose(fit.gene_factor, factor, rtol=1e-6)


def test_outlier_genes_do_little():
    truth, signature, bulk = problem()
    rng = np.random.default_rng(4)
    noisy = bulk * rng.lognormal(0, 0.1, bulk.shape)
    wild = noisy.copy()
    wild[:, rng.permutation(400)[:20]] *= 20
    clean, hit = (solve(x, signature, gene_factor=False).rna_proportions for x in (noisy, wild))
    assert rmse(hit, truth) < rmse(clean, truth) + 0.02
    assert rmse(hit, truth) < 0.2 * rmse(nnls_fractions(wild, signature), truth)


def noisy_problem(**kwargs):
    truth, signature, bulk = problem(**kwargs)
    noisy = bulk * np.random.default_rng(5).lognormal(0, 0.3, bulk.shape)
    return truth, signature, noisy / noisy.sum(axis=1, keepdims=True)


def test_order_of_genes_types_and_samples_does_not_matter():
    _, signature, bulk = noisy_problem()
    rng = np.random.default_rng(6)
    genes, types, samples = (rng.permutation(n) for n in (400, 5, 12))
    plain, shuffled = solve(bulk, signature), solve(bulk[samples][:, genes], signature[genes][:, types])
    np.testing.assert_allclose(shuffled.rna_proportions, plain.rna_proportions[samples][:, types], atol=1e-4)
    np.testing.assert_allclose(shuffled.gene_factor, plain.gene_factor[genes], atol=1e-3)


@pytest.mark.parametrize("anchor_weight", [0.0, 1.0])
def test_hp07_scale_of_the_data_changes_nothing_when_offset_and_depth_go_with_it(anchor_weight):
    truth, signature, bulk = noisy_problem()
    options = {"anchor": np.roll(truth, 1, axis=1), "anchor_weight": anchor_weight}
    plain = solve(bulk, signature, **options)
    for scale in (1e-3, 1e3):
        scaled = solve(bulk * scale, signature, depth=np.full(12, 5e6 / scale), offset=5e-5 * scale, **options)
        np.testing.assert_allclose(scaled.rna_proportions, plain.rna_proportions, atol=2e-5)


def test_scale_of_each_sample_changes_nothing_without_an_offset():
    _, signature, bulk = noisy_problem()
    scale = np.geomspace(1e-2, 1e2, 12)
    plain = solve(bulk, signature, offset=1e-12, depth=np.full(12, 1e12))
    scaled = solve(bulk * scale[:, None], signature, offset=1e-12, depth=1e12 / scale)
    np.testing.assert_allclose(scaled.rna_proportions, plain.rna_proportions, atol=1e-4)


def test_block_size_does_not_change_the_result():
    _, signature, bulk = noisy_problem()
    whole = solve(bulk, signature)
    for block in (1, 5):
        parts = solve(bulk, signature, block=block)
        np.testing.assert_allclose(parts.rna_proportions, whole.rna_proportions, atol=1e-5)
        np.testing.assert_allclose(parts.residual, whole.residual, atol=1e-5)


def test_large_cohorts_estimate_the_factor_from_some_samples():
    _, signature, bulk = noisy_problem(n=9)
    some = solve(bulk, signature, factor_samples=3).gene_factor
    np.testing.assert_allclose(some, solve(bulk[[0, 4, 8]], signature).gene_factor, atol=1e-4)


def test_one_sample_has_no_factor():
    _, signature, bulk = noisy_problem(n=1)
    fit = solve(bulk, signature)
    assert (fit.gene_factor == 0).all()
    np.testing.assert_array_equal(fit.rna_proportions, solve(bulk, signature, gene_factor=False).rna_proportions)


def test_anchor_pulls():
    truth, signature, bulk = noisy_problem()
    anchor = np.roll(truth, 1, axis=1)
    distance = [
        rmse(solve(bulk, signature, anchor=anchor, anchor_weight=weight, gene_factor=False).rna_proportions, anchor)
        for weight in (0.0, 0.1, 1.0, 10.0, 1e4)
    ]
    assert distance == sorted(distance, reverse=True)
    assert distance[-1] < 1e-3
    # without weight it is only where the search starts
    plain = solve(bulk, signature, gene_factor=False).rna_proportions
    started = solve(bulk, signature, anchor=anchor, gene_factor=False).rna_proportions
    np.testing.assert_allclose(started, plain, atol=2e-3)


def even_residuals(seed, n=6, n_genes=60):
    """Log residuals of one size and random sign: no gene is an outlier, so that Huber's loss is the square."""
    truth, signature, bulk = problem(seed, n, n_genes, 3)
    return truth, signature, bulk * np.exp(0.3 * np.random.default_rng(seed).choice([-1, 1], bulk.shape))


def objective(amounts, factor, bulk, signature, offset):
    return np.log(bulk + offset) - np.log(amounts @ (signature * np.exp(factor)[:, None]).T + offset)


@pytest.mark.parametrize("seed", range(4))
def test_equals_direct_minimisation_of_squared_log_residuals(seed):
    _, signature, bulk = even_residuals(seed)
    fit = solve(bulk, signature, gene_factor=False, gene_weight=False, depth=np.full(6, 1e12), n_iterations=60)
    for row, found in zip(bulk, fit.rna_proportions.numpy(), strict=True):

        def loss(log_amounts, row=row):
            return np.sum(objective(np.exp(log_amounts)[None], np.zeros(60), row[None], signature, 5e-5) ** 2)

        expected = np.exp(
            minimize(loss, np.log(np.full(3, 1 / 3)), method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}).x
        )
        np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-2)


def test_weights_fade_genes_of_few_counts():
    """The fit solves the objective with v = phi / (phi + 1 / (N (mu + c))) held fixed, not the one with v = 1."""
    rng = np.random.default_rng(1)
    signature = rng.lognormal(0, 0.7, (200, 3))
    signature /= signature.sum(axis=0)
    depth = 1500.0
    offset = 0.5 / depth
    mean = np.array([[0.2, 0.3, 0.5]]) @ signature.T + offset
    bulk = mean * np.exp(0.3 * rng.choice([-1, 1], mean.shape)) - offset  # no outliers
    assert bulk.min() > 0
    found = solve(bulk, signature, gene_factor=False, depth=np.array([depth])).rna_proportions.numpy()

    def loss(log_amounts, weight):
        return np.sum(weight * objective(np.exp(log_amounts)[None], np.zeros(200), bulk, signature, offset) ** 2)

    def minimum(weigh):
        x = np.log(np.full(3, 1 / 3))
        for _ in range(20):
            x = minimize(loss, x, weigh(np.exp(x) @ signature.T + offset), method="L-BFGS-B").x
        return np.exp(x) / np.exp(x).sum()

    weighted = minimum(lambda mean: 0.3 / (0.3 + 1 / (depth * mean)))
    np.testing.assert_allclose(found[0], weighted, atol=1e-3)
    assert np.abs(weighted - minimum(np.ones_like)).max() > 4e-3


def test_genes_that_scatter_over_the_cohort_count_less():
    truth, signature, bulk = problem(n=30)
    rng = np.random.default_rng(3)
    scatter = np.where(rng.random(len(signature)) < 0.5, 1.0, 0.1)
    seen = bulk * np.exp(scatter * rng.standard_normal(bulk.shape))
    fit, equal = solve(seen, signature), solve(seen, signature, gene_weight=False)
    weight = fit.gene_weight.numpy()
    assert np.median(weight[scatter == 1]) < 0.2 * np.median(weight[scatter == 0.1])
    assert (equal.gene_weight == 1).all()
    assert rmse(fit.rna_proportions, truth) < 0.8 * rmse(equal.rna_proportions, truth)
    given = solve(seen, signature, gene_weight=weight, gene_factor=fit.gene_factor)
    np.testing.assert_allclose(given.rna_proportions, fit.rna_proportions, atol=1e-3)


def test_covariance_is_that_of_repeated_draws_of_the_genes_errors():
    rng = np.random.default_rng(4)
    truth, signature, _ = problem(n=1, n_genes=800, n_types=3)
    bulk = (truth @ signature.T) * np.exp(rng.normal(0, 0.3, (400, 800)))
    fit = solve(bulk, signature, gene_factor=False, gene_weight=False, depth=np.full(400, 1e9), covariance=True)
    estimated = fit.covariance.mean(dim=0).numpy()
    # amounts over their total: the same up to the total, whose error is shared by the types
    amounts = np.stack([fit.rna_proportions.numpy()[:, k] for k in range(3)])
    centre = np.eye(3) - np.outer(amounts.mean(axis=1), np.ones(3))
    np.testing.assert_allclose(np.diag(centre @ estimated @ centre.T), amounts.var(axis=1), rtol=0.2)


def test_covariance_grows_for_similar_types():
    rng = np.random.default_rng(5)
    _, signature, _ = problem(n_types=3)
    signature[:, 2] = signature[:, 1] * rng.lognormal(0, 0.1, len(signature))
    signature /= signature.sum(axis=0)
    bulk = (np.full((1, 3), 1 / 3) @ signature.T) * rng.lognormal(0, 0.2, (1, len(signature)))
    sd = solve(bulk, signature, covariance=True).covariance[0].diagonal().sqrt()
    assert sd[1] > 3 * sd[0] and sd[2] > 3 * sd[0]


def test_zero_samples_and_absent_types_stay_finite():
    _, signature, bulk = noisy_problem()
    bulk[0] = 0
    signature[:, 2] = 0
    fit = solve(bulk, signature)
    assert all(torch.isfinite(x).all() for x in (fit.rna_proportions, fit.gene_factor, fit.residual))
    np.testing.assert_allclose(fit.rna_proportions.sum(dim=1), 1, atol=1e-5)


def test_shapes_that_do_not_match():
    with pytest.raises(ValueError, match=r"bulk has shape \(3, 10\) and signature \(11, 2\)"):
        robust(torch.ones(3, 10), torch.ones(11, 2))


def test_samples_of_one_gene_have_fractions_and_no_nan():
    """No gene has a residual or a weight to learn a factor from."""
    signature = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).double()
    bulk = torch.zeros(4, 4).double()
    bulk[:, 0] = 1
    fit = robust(bulk, signature / signature.sum(dim=0))
    assert torch.isfinite(fit.gene_factor).all() and torch.isfinite(fit.gene_weight).all()
    torch.testing.assert_close(fit.rna_proportions.sum(dim=1), torch.ones(4))
