"""The posterior of the types' profiles: planted changes, the joint normal, moments of the cohort, types that vary."""

import numpy as np
import pytest
import torch

from hpvade.models.hpvade._profile_posterior import Cohort, posterior


def planted_cohort(seed=0, n=60, n_genes=400):
    """Two types; the first fifty genes of type 0 change between samples, alone."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1, (n_genes, 2))
    signature[:50, 1] *= 0.05  # type 0 makes nearly all of these genes
    signature /= signature.sum(axis=0)
    rna = rng.dirichlet([3, 3], n)
    profiles = np.repeat(signature.T[None], n, axis=0)
    profiles[:, 0, :50] *= np.exp(0.7 * rng.standard_normal((n, 50)))
    bulk = (rna[:, :, None] * profiles).sum(axis=1) * np.exp(0.02 * rng.standard_normal((n, n_genes)))
    return signature, rna, profiles, bulk


def solved(signature, rna, bulk, size=1000, **variable):
    """Cohort and posterior of all genes, from blocks of `size` samples."""
    signature, rna, bulk = (torch.from_numpy(x) for x in (signature, rna, bulk / bulk.sum(axis=1, keepdims=True)))
    depth = torch.full((len(bulk),), 1e8, dtype=torch.float64)
    rows = [slice(begin, min(begin + size, len(bulk))) for begin in range(0, len(bulk), size)]
    cohort = Cohort.of([(part, bulk[part]) for part in rows], signature, rna, depth, **variable)
    genes = torch.arange(len(signature))
    parts = [posterior(signature, bulk[part], rna[part], depth[part], cohort, genes) for part in rows]
    return cohort, [torch.cat(x) for x in list(zip(*parts, strict=True))[:3]]


def test_planted_changes_are_given_to_the_type_that_made_them():
    signature, rna, profiles, bulk = planted_cohort()
    _, (expression, variance, explained) = solved(signature, rna, bulk)
    resolved = explained.mean(dim=0).T
    r = [np.corrcoef(expression[:, 0, g], profiles[:, 0, g])[0, 1] for g in range(50)]
    assert np.median(r) > 0.9
    assert (resolved[:50, 0] > 0.5).float().mean() > 0.9
    assert (resolved[50:] > 0.5).float().mean() < 0.1
    assert (resolved[:50, 1] < resolved[:50, 0]).float().mean() > 0.9
    # the variance is that of the errors, within the order of magnitude a plug-in prior allows
    error = (expression[:, 0, :50] - torch.from_numpy(profiles[:, 0, :50])).square().mean(dim=0)
    ratio = (error / variance[:, 0, :50].mean(dim=0)).median()
    assert 0.2 < ratio < 5


def test_posterior_is_the_conditional_normal():
    """Against numpy's solve of the joint normal of one sample's profiles and its bulk."""
    signature, rna, _, bulk = planted_cohort(n=12)
    cohort, (expression, variance, _) = solved(signature, rna, bulk)
    n, g = 3, 7
    p, shares = rna[n], bulk[n] / bulk[n].sum()
    fitted = signature @ p
    prior = float(cohort.between[g]) * np.diag(signature[g] ** 2)
    noise = (float(cohort.quiet) + 1 / (1e8 * (fitted[g] + 1e-6))) * (fitted[g] + 1e-6) ** 2
    x = shares[g] / (shares.sum() / fitted.sum()) / float(cohort.factor[g])
    gain = prior @ p / (p @ prior @ p + noise)
    np.testing.assert_allclose(expression[n, :, g], np.maximum(signature[g] + gain * (x - fitted[g]), 0))
    np.testing.assert_allclose(variance[n, :, g], np.diag(prior - np.outer(gain, p @ prior)), atol=1e-18)


@pytest.mark.parametrize("size", [1, 7, 60])
def test_moments_of_the_cohort_from_blocks(size):
    """Against NumPy on the whole cohort."""
    signature, rna, _, bulk = planted_cohort()
    cohort, _ = solved(signature, rna, bulk, size)
    n, shares, fitted = len(bulk), bulk / bulk.sum(axis=1, keepdims=True), rna @ signature.T
    scaled = shares / (shares.sum(axis=1) / fitted.sum(axis=1))[:, None]
    residual = np.clip(np.log(scaled + 1e-6) - np.log(fitted + 1e-6), -3, 3)
    shift = residual.sum(axis=0) / (n + 1)
    scatter = ((residual - shift) ** 2).sum(axis=0) / (n - 1) - (1 / (1e8 * (fitted + 1e-6))).mean(axis=0)
    quiet = max(np.quantile(scatter[fitted.mean(axis=0) > 1e-6], 0.2), 1e-4)
    parts = ((rna[:, None, :] * signature / fitted[:, :, None]) ** 2).sum(axis=2).mean(axis=0)
    np.testing.assert_allclose(cohort.factor, np.exp(shift), rtol=1e-9)
    np.testing.assert_allclose(cohort.quiet, quiet, rtol=1e-9)
    np.testing.assert_allclose(cohort.between, np.clip((scatter - quiet) / parts, 0, 1), rtol=1e-7, atol=1e-12)


def quadrature(share, tau, n=60):
    """Mean and variance of log(1 - w + w exp(tau z)), from more nodes than the package takes."""
    z, p = np.polynomial.hermite_e.hermegauss(n)
    value = np.log1p(share[..., None] * np.expm1(tau * z))
    mean = value @ (p / p.sum())
    return mean, (value - mean[..., None]) ** 2 @ (p / p.sum())


@pytest.mark.parametrize("size", [7, 60])
def test_what_a_variable_type_does_is_taken_off_the_moments(size):
    """Against NumPy on the whole cohort."""
    signature, rna, _, bulk = planted_cohort()
    tau, noise = 0.6, 0.2
    variation = torch.tensor([0.0, tau], dtype=torch.float64)
    cohort, _ = solved(signature, rna, bulk, size, variation=variation, noise=noise)
    n, shares, fitted = len(bulk), bulk / bulk.sum(axis=1, keepdims=True), rna @ signature.T
    usual = rna * [1, np.exp(-(tau**2) / 2)] @ signature.T  # every gene at its median
    own = rna[:, 1:] * np.exp(-(tau**2) / 2) * signature[:, 1] / (usual + 1e-6)
    moved, extra = quadrature(own, tau)
    scaled = shares / (shares.sum(axis=1) / fitted.sum(axis=1))[:, None]
    residual = np.clip(np.log(scaled + 1e-6) - np.log(usual + 1e-6) - moved, -3, 3)
    weight = 1 / (1 + extra / noise**2)
    mean, size = np.average(residual, axis=0, weights=weight), weight.sum(axis=0)
    expressed = fitted.mean(axis=0) > 1e-6
    beyond = (size * mean**2)[expressed].sum() / size[expressed].sum() - noise**2 * expressed.sum() / size[
        expressed
    ].sum()
    shift = mean * size / (size + min(noise**2 / beyond, 1))
    np.testing.assert_allclose(cohort.factor, np.exp(shift), rtol=1e-3)
    counting = 1 / (1e8 * (fitted + 1e-6)) + extra
    scatter = np.average((residual - shift) ** 2, axis=0, weights=weight) * n / (n - 1)
    scatter = scatter - np.average(counting, axis=0, weights=weight)
    quiet = max(np.quantile(scatter[expressed & (size >= n / 2)], 0.2), 1e-4)
    parts = np.average(((rna[:, None, :] * signature / fitted[:, :, None]) ** 2).sum(axis=2), axis=0, weights=weight)
    np.testing.assert_allclose(cohort.quiet, quiet, rtol=1e-2)
    np.testing.assert_allclose(cohort.between, np.clip((scatter - quiet) / parts, 0, 1), atol=2e-3)
    np.testing.assert_allclose(cohort.own, [0, np.expm1(tau**2)])


def test_posterior_of_a_variable_type_is_the_conditional_normal():
    signature, rna, _, bulk = planted_cohort(n=12)
    variation = torch.tensor([0.0, 0.5], dtype=torch.float64)
    cohort, (expression, variance, _) = solved(signature, rna, bulk, variation=variation, noise=0.2)
    n, g = 3, 7
    p, shares = rna[n], bulk[n] / bulk[n].sum()
    fitted = signature @ p
    prior = np.diag((float(cohort.between[g]) + np.array([0, np.expm1(0.25)])) * signature[g] ** 2)
    noise = (float(cohort.quiet) + 1 / (1e8 * (fitted[g] + 1e-6))) * (fitted[g] + 1e-6) ** 2
    x = shares[g] / (shares.sum() / fitted.sum()) / float(cohort.factor[g])
    gain = prior @ p / (p @ prior @ p + noise)
    np.testing.assert_allclose(expression[n, :, g], np.maximum(signature[g] + gain * (x - fitted[g]), 0))
    np.testing.assert_allclose(variance[n, :, g], np.diag(prior - np.outer(gain, p @ prior)), atol=1e-18)


def test_no_variation_is_the_plain_cohort():
    signature, rna, _, bulk = planted_cohort()
    nothing = torch.zeros(2, dtype=torch.float64)
    (plain, _), (found, _) = (solved(signature, rna, bulk, **x) for x in ({}, {"variation": nothing, "noise": 0.2}))
    np.testing.assert_allclose(found.between, plain.between, atol=1e-3)
    np.testing.assert_allclose(found.factor, plain.factor, rtol=0.02)
