"""Types that differ from sample to sample, against planted profiles and closed forms."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from hpvade.solvers import marker_genes, robust, robust_variable, variable_profiles
from hpvade.solvers._variable_problem import log_moments


def cohort(sd=0.6, n=24, seed=0, platform=0.0, n_genes=1500, n_types=5, noise=0.05):
    """Signature, bulk, true fractions and log factors of the last type (samples x genes), which is closed to one."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1, (n_genes, 1)) * rng.lognormal(0, 1, (n_genes, n_types))
    signature /= signature.sum(axis=0)
    share = rng.uniform(0.1, 0.9, n)
    truth = np.column_stack([rng.dirichlet(np.ones(n_types - 1), n) * (1 - share)[:, None], share])
    delta = sd * rng.standard_normal((n, n_genes))
    own = signature[:, -1] * np.exp(delta)
    total = own.sum(axis=1, keepdims=True)
    bulk = truth[:, :-1] @ signature[:, :-1].T + truth[:, -1:] * own / total
    bulk = bulk * np.exp(platform * rng.standard_normal(n_genes) + noise * rng.standard_normal(bulk.shape))
    bulk = bulk / bulk.sum(axis=1, keepdims=True)
    return torch.from_numpy(signature), torch.from_numpy(bulk), truth, delta


def rmse(found, truth):
    return float(np.sqrt(np.mean((np.asarray(found) - truth) ** 2)))


@pytest.mark.parametrize(("share", "sd"), [(0.1, 0.6), (0.5, 1.0), (0.9, 0.3), (1.0, 0.6), (0.0, 1.0)])
def test_moments_are_those_of_the_integral(share, sd):
    def expected(power):
        return integrate.quad(lambda z: np.log1p(share * np.expm1(sd * z)) ** power * stats.norm.pdf(z), -9, 9)[0]

    mean, variance = log_moments(torch.tensor(share, dtype=torch.float64), torch.tensor(sd, dtype=torch.float64))
    assert float(mean) == pytest.approx(expected(1), abs=3e-4)
    assert float(variance) == pytest.approx(expected(2) - expected(1) ** 2, rel=0.01, abs=1e-6)


@pytest.mark.parametrize(
    ("sd", "platform", "most"), [(0.6, 0.0, 0.5), (1.0, 0.0, 0.5), (0.6, 0.5, 0.7), (0.3, 0.0, 0.9)]
)
def test_other_types_do_not_pay_for_what_varies(sd, platform, most):
    ratios, bias, r, found = [], [], [], []
    for seed in range(3):
        signature, bulk, truth, _ = cohort(sd, seed=seed, platform=platform)
        genes = marker_genes(signature)
        plain = robust(bulk[:, genes], signature[genes]).rna_proportions.numpy()
        fit = robust_variable(bulk[:, genes], signature[genes], [4])
        answer = fit.rna_proportions.numpy()
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
        ratios.append(rmse(answer[:, :4], truth[:, :4]) / rmse(plain[:, :4], truth[:, :4]))
        bias.append(np.mean(answer[:, 4] - truth[:, 4]))
        r.append(np.corrcoef(answer[:, 4], truth[:, 4])[0, 1])
        found.append(float(fit.variation[4]))
        assert fit.variable == (4,) and not fit.variation[:4].any()
    assert np.median(ratios) < most
    assert abs(np.median(bias)) < 0.03
    assert min(r) > 0.99
    assert np.median(found) == pytest.approx(sd, abs=0.1)


@pytest.mark.parametrize("platform", [0.0, 0.5])
def test_nothing_changes_where_nothing_varies(platform):
    signature, bulk, truth, _ = cohort(0.0, platform=platform, noise=0.2)
    genes = marker_genes(signature)
    plain = robust(bulk[:, genes], signature[genes])
    fit = robust_variable(bulk[:, genes], signature[genes], [4])
    assert float(fit.variation[4]) < 0.1  # half of the noise that all genes have
    assert rmse(fit.rna_proportions, truth) < 1.03 * rmse(plain.rna_proportions, truth)
    np.testing.assert_allclose(fit.rna_proportions, plain.rna_proportions, atol=0.01)


def test_two_types_may_vary():
    rng = np.random.default_rng(3)
    signature, _, truth, _ = cohort(n_genes=2000)
    own = signature.numpy() * np.exp(np.array([0, 0, 0, 0.4, 0.8]) * rng.standard_normal((len(truth), 2000, 5)))
    own /= own.sum(axis=1, keepdims=True)
    bulk = torch.from_numpy(np.einsum("nk,ngk->ng", truth, own))
    genes = marker_genes(signature)
    fit = robust_variable(bulk[:, genes], signature[genes], [4, 3])
    plain = robust(bulk[:, genes], signature[genes])
    assert fit.variable == (3, 4)
    assert float(fit.variation[3]) == pytest.approx(0.4, abs=0.15)
    assert float(fit.variation[4]) == pytest.approx(0.8, abs=0.15)
    assert rmse(fit.rna_proportions, truth) < 0.5 * rmse(plain.rna_proportions, truth)


def test_one_sample_is_enough():
    signature, bulk, truth, _ = cohort(0.8, n=8)
    genes = marker_genes(signature)
    alone = [robust_variable(bulk[[i]][:, genes], signature[genes], [4]) for i in range(8)]
    answers = np.concatenate([fit.rna_proportions.numpy() for fit in alone])
    plain = [robust(bulk[[i]][:, genes], signature[genes]).rna_proportions.numpy() for i in range(8)]
    assert rmse(answers, truth) < 0.6 * rmse(np.concatenate(plain), truth)
    assert np.median([float(fit.variation[4]) for fit in alone]) == pytest.approx(0.8, abs=0.2)


def test_what_is_given_is_taken_and_samples_are_then_their_own():
    signature, bulk, *_ = cohort(platform=0.3)
    genes = marker_genes(signature)
    bulk, signature = bulk[:, genes], signature[genes]
    fit = robust_variable(bulk, signature, [4])
    given = {"gene_factor": fit.gene_factor, "gene_weight": fit.gene_weight, "variation": fit.variation}
    again = robust_variable(bulk[3:5], signature, [4], **given)
    torch.testing.assert_close(again.rna_proportions, fit.rna_proportions[3:5], atol=1e-5, rtol=0)
    torch.testing.assert_close(again.variation, fit.variation)


def test_the_unit_and_the_order_of_the_samples_do_not_matter():
    signature, bulk, *_ = cohort()
    genes = marker_genes(signature)
    bulk, signature = bulk[:, genes], signature[genes]
    fit = robust_variable(bulk, signature, [4]).rna_proportions
    torch.testing.assert_close(
        robust_variable(bulk.flip(0), signature, [4]).rna_proportions.flip(0), fit, atol=1e-4, rtol=0
    )
    assert torch.equal(robust_variable(bulk, signature, [4]).rna_proportions, fit)


def test_the_covariance_covers_the_truth():
    signature, bulk, truth, _ = cohort(0.6, n=40, n_genes=4000, noise=0.1)
    genes = marker_genes(signature)
    fit = robust_variable(bulk[:, genes], signature[genes], [4], covariance=True)
    centre = torch.eye(5, dtype=torch.float64) - fit.rna_proportions.double()[:, :, None]
    variance = torch.diagonal(centre @ fit.covariance @ centre.transpose(1, 2), dim1=1, dim2=2)
    z = (fit.rna_proportions - torch.from_numpy(truth)).abs() / variance.sqrt()
    assert float((z[:, :4] < 1.96).double().mean()) > 0.8
    assert float(z.median()) > 0.2  # and is no safe side of an order of magnitude


def test_the_covariance_is_that_of_robust_where_nothing_varies():
    signature, bulk, _, _ = cohort(0.0, platform=0.3)
    genes = marker_genes(signature)
    same = {"gene_weight": False, "anchor_weight": 0.0, "n_iterations": 40, "covariance": True}
    plain = robust(bulk[:, genes], signature[genes], **same)
    fit = robust_variable(
        bulk[:, genes], signature[genes], [4], variation=torch.zeros(5), **same | {"gene_factor": plain.gene_factor}
    )
    sd = torch.diagonal(plain.covariance, dim1=1, dim2=2).sqrt()
    apart = ((fit.covariance - plain.covariance) / (sd[:, :, None] * sd[:, None, :])).abs().amax(dim=(1, 2))
    # of some samples a gene lies on the other side of Huber's limit, where curvature ends
    assert float(apart.median()) < 1e-3 and float(apart.max()) < 0.1
    scale = float(plain.influence.score.abs().max())
    np.testing.assert_allclose(fit.influence.score / scale, plain.influence.score / scale, atol=1e-3)


def test_profiles_are_those_planted():
    signature, bulk, truth, log_ratio = cohort(0.6)
    genes = marker_genes(signature)
    fit = robust_variable(bulk[:, genes], signature[genes], [4])
    found = variable_profiles(bulk, signature, fit, 4)
    assert found.log_ratio.shape == bulk.shape
    assert ((found.resolved >= 0) & (found.resolved <= 1)).all()
    resolved, error = found.resolved.numpy(), found.log_ratio.numpy() - log_ratio
    for low, high in ((0.1, 0.5), (0.5, 0.8), (0.8, 1.0)):  # what is said to be explained is
        some = (resolved > low) & (resolved <= high)
        assert some.mean() > 0.03
        explained = 1 - np.mean(error[some] ** 2) / 0.6**2
        assert explained == pytest.approx(resolved[some].mean(), abs=0.1)
    parts = torch.from_numpy(truth)[:, None] * signature
    dark = (parts[..., 4] / parts.sum(dim=2) < 0.01).numpy()
    assert np.abs(found.log_ratio.numpy()[dark]).mean() < 0.1  # nothing is known: the reference's
    # the posterior mean of the ratio is above the ratio of the mean log
    assert (found.ratio >= torch.exp(found.log_ratio) - 1e-4).all()


@pytest.mark.parametrize("variable", [[], [5], [-1], [0, 1, 2, 3, 4]])
def test_columns_that_cannot_vary_are_refused(variable):
    signature, bulk, *_ = cohort(n=3)
    with pytest.raises(ValueError, match="but not all"):
        robust_variable(bulk, signature, variable)


def test_a_type_that_did_not_vary_has_no_profiles():
    signature, bulk, *_ = cohort(n=6)
    fit = robust_variable(bulk, signature, [4])
    with pytest.raises(ValueError, match="may vary"):
        variable_profiles(bulk, signature, fit, 2)


def test_a_sample_of_one_gene_spoils_no_other():
    g = torch.Generator().manual_seed(0)
    signature = torch.rand(60, 3, generator=g) ** 6
    signature = signature / signature.sum(dim=0)
    own = signature[:, 2] * (0.6 * torch.randn(8, 60, generator=g)).exp()
    bulk = 0.2 * signature[:, 0] + 0.3 * signature[:, 1] + 0.5 * own / own.sum(dim=1, keepdim=True)
    bulk[3] = torch.eye(60)[5]
    fit = robust_variable(bulk, signature, [2], depth=torch.full((8,), 1e5))
    assert torch.allclose(fit.rna_proportions.sum(dim=1), torch.ones(8), atol=1e-5)
    assert 0 <= fit.variation[2] < 3
