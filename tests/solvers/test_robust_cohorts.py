"""What a cohort may change and what not: replicates, duplicates, few samples, platforms, the anchor."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import hpvade as hp
from hpvade.solvers import marker_genes, nnls, robust
from hpvade.solvers._robust import count_distinct, shrunk_factor


def planted(seed=0, n=12, n_types=5, n_genes=400):
    """Fractions of RNA and a signature with columns that sum to one."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 0.8, (n_genes, n_types))
    return rng.dirichlet(np.ones(n_types), n), signature / signature.sum(axis=0)


def reads(expression, seed=0, depth=2e6):
    counts = np.random.default_rng(seed).poisson(depth * expression / expression.sum(axis=1, keepdims=True))
    return counts / counts.sum(axis=1, keepdims=True)


def fit(bulk, signature, **kwargs):
    kwargs = {key: torch.as_tensor(v).float() if isinstance(v, np.ndarray) else v for key, v in kwargs.items()}
    return robust(torch.from_numpy(bulk), torch.from_numpy(signature), depth=torch.full((len(bulk),), 2e6), **kwargs)


def fractions(*args, **kwargs):
    return fit(*args, **kwargs).rna_proportions.numpy()


def rmse(x, truth):
    return float(np.sqrt(np.mean((np.asarray(x) - truth) ** 2)))


@pytest.fixture(scope="module")
def blood():
    """Markers, profiles of all genes and of half of the cells of each type, from the reference that is shipped."""
    reference = hp.datasets.pbmc_reference()
    labels = reference.obs["cell_type"].astype("category").cat.codes.to_numpy()
    counts = reference.X.toarray()
    sums = np.stack([counts[labels == k].sum(axis=0) for k in range(labels.max() + 1)])
    signature = (sums / sums.sum(axis=1, keepdims=True)).T
    return marker_genes(torch.from_numpy(signature)).numpy(), signature


def pull_to_equal(n, n_types):
    return {"anchor": np.full((n, n_types), 1 / n_types), "anchor_weight": 0.1}


def test_pure_samples_of_every_type_alone_replicated_and_among_others(blood):
    genes, signature = blood
    n_types = signature.shape[1]
    rng = np.random.default_rng(0)
    mixed = rng.dirichlet(np.ones(n_types), 10)
    for k in range(n_types):
        pure = np.eye(n_types)[[k]]
        cohorts = {
            "one": pure,
            "two": np.repeat(pure, 2, axis=0),
            "twenty": np.repeat(pure, 20, axis=0),
            "mixed": np.concatenate([pure, mixed]),
            "one of each": np.roll(np.eye(n_types), -k, axis=0),
        }
        seen = {}
        for name, of_rna in cohorts.items():
            bulk = reads(of_rna @ signature.T, seed=k)
            baseline = nnls(torch.from_numpy(bulk), torch.from_numpy(signature))[0]
            assert baseline[k] / baseline.sum() > 0.98  # well determined
            seen[name] = fractions(bulk[:, genes], signature[genes], **pull_to_equal(len(bulk), n_types))[0, k]
        assert min(seen.values()) > 0.95, seen
        assert seen["one"] - seen["twenty"] < 0.02, seen


@pytest.mark.parametrize("times", [2, 5])
def test_duplicated_samples_change_nothing(blood, times):
    genes, signature = blood
    truth, toy = planted(n=8)
    platform = np.exp(np.random.default_rng(1).normal(0, 0.7, len(toy)))
    bulk, names = hp.datasets.pbmc_bulk(), hp.datasets.pbmc_reference().var_names[genes]
    known = names.isin(bulk.var_names)
    real = bulk[:, names[known]].to_df().to_numpy(float) / bulk.to_df().to_numpy(float).sum(axis=1, keepdims=True)
    for samples, profiles in ((reads(truth @ toy.T * platform), toy), (real, signature[genes[known]])):
        once = fit(samples, profiles)
        more = fit(np.concatenate([samples] * times), profiles)
        np.testing.assert_allclose(more.rna_proportions[: len(samples)], once.rna_proportions, atol=5e-4)
        np.testing.assert_allclose(more.gene_factor, once.gene_factor, atol=5e-3)


@pytest.mark.parametrize("sd", [0.4, 0.8])
def test_replicates_of_a_mixture_on_another_platform_answer_like_one(sd):
    """What replicates share is composition or platform: no more of them tell which, so none of it may move."""
    for seed in range(3):
        truth, signature = planted(seed, n=1)
        platform = np.exp(np.random.default_rng(seed).normal(0, sd, len(signature)))
        bulk = reads(np.repeat(truth, 20, axis=0) @ signature.T * platform, seed)
        alone, together = fractions(bulk[:1], signature), fractions(bulk, signature)
        assert np.abs(together - alone).max() < 0.02


def test_factor_is_none_for_the_references_own_platform_and_whole_for_another():
    truth, signature = planted(n=30)
    own = fit(reads(truth @ signature.T), signature).gene_factor
    assert own.square().mean().sqrt() < 0.02
    factor = np.random.default_rng(2).normal(0, 0.7, len(signature))
    other = fit(reads(truth @ signature.T * np.exp(factor)), signature)
    assert np.corrcoef(other.gene_factor, factor)[0, 1] > 0.98
    assert np.polyfit(factor, other.gene_factor.numpy(), 1)[0] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("n", [2, 3])
def test_two_or_three_samples_are_solved_no_worse_than_each_alone(n):
    alone, together, baseline = [], [], []
    for seed in range(8):
        truth, signature = planted(seed, n=n)
        platform = np.exp(np.random.default_rng(seed).normal(0, 0.6, len(signature)))
        bulk = reads(truth @ signature.T * platform, seed)
        alone.append(rmse(np.concatenate([fractions(bulk[i : i + 1], signature) for i in range(n)]), truth))
        together.append(rmse(fractions(bulk, signature), truth))
        found = nnls(torch.from_numpy(bulk), torch.from_numpy(signature)).numpy()
        baseline.append(rmse(found / found.sum(axis=1, keepdims=True), truth))
    assert np.mean(together) <= np.mean(alone)
    assert np.mean(together) < 0.5 * np.mean(baseline)


def test_given_factor_that_is_known_in_part():
    truth, signature = planted(n=1)
    error = {"none": [], "half": [], "all": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        factor = rng.normal(0, 0.7, len(signature))
        bulk = reads(truth @ signature.T * np.exp(factor), seed)
        part = np.where(rng.random(len(factor)) < 0.5, factor, np.nan)
        zero = np.nan_to_num(part)
        for name, given in (("none", 0 * factor), ("half", part), ("all", factor)):
            error[name].append(rmse(fractions(bulk, signature, gene_factor=given), truth))
        np.testing.assert_array_equal(
            fractions(bulk, signature, gene_factor=part), fractions(bulk, signature, gene_factor=zero)
        )
        weight = rng.uniform(0.5, 2, len(factor))
        np.testing.assert_array_equal(
            fractions(bulk, signature, gene_weight=np.where(weight < 1, np.nan, weight)),
            fractions(bulk, signature, gene_weight=np.where(weight < 1, 1, weight)),
        )
    assert np.mean(error["all"]) < np.mean(error["half"]) < np.mean(error["none"])


def test_distinct_samples_are_counted():
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(10, 20_000)))
    assert float(count_distinct(noise)) == pytest.approx(10, rel=0.01)
    assert float(count_distinct(noise.repeat(7, 1))) == pytest.approx(10, rel=0.01)
    assert float(count_distinct(noise[:1].repeat(7, 1))) == pytest.approx(1)
    assert float(count_distinct(noise[[0] * 9 + [1]])) == pytest.approx(2, rel=0.01)


def test_shrinkage_is_the_posterior_mean_of_normal_factors():
    rng = np.random.default_rng(1)
    tau, sigma, n = 0.3, 0.6, 8
    factor = rng.normal(0, tau, 20_000)
    residual = torch.from_numpy(factor + rng.normal(0, sigma, (n, len(factor))))
    found = shrunk_factor(residual, torch.ones_like(residual), torch.tensor(float(n)), 1.0).numpy()
    expected = residual.mean(dim=0).numpy() * n / (n + sigma**2 / tau**2)
    np.testing.assert_allclose(found, expected - expected.mean(), atol=0.02)


def test_anchor_is_a_normal_prior_in_units_of_the_scatter():
    """Direct minimisation of squared log residuals with kappa V sigma^2 per squared fraction beside them."""
    truth, signature = planted(n=1, n_types=3, n_genes=200)
    bulk = truth @ signature.T * np.exp(0.3 * np.random.default_rng(3).choice([-1, 1], (1, 200)))  # no outliers
    anchor = np.array([[0.7, 0.2, 0.1]])
    options = {"gene_factor": False, "n_iterations": 60, "offset": 1e-9}
    for weight in (0.0, 1.0, 10.0):
        found = robust(
            *(torch.from_numpy(x) for x in (bulk, signature)),
            depth=torch.full((1,), 1e12),
            anchor=torch.from_numpy(anchor),
            anchor_weight=weight,
            **options,
        )
        sigma, total = float(found.residual[0]), 1.0
        for _ in range(20):

            def loss(x, total=total, weight=weight, sigma=sigma):
                error = np.log(bulk[0]) - np.log(signature @ np.exp(x))
                off = np.exp(x) / total - anchor[0]
                return error @ error + weight * 200 * sigma**2 * off @ off

            amounts = np.exp(minimize(loss, np.log(np.full(3, total / 3)), method="BFGS").x)
            total = amounts.sum()
        np.testing.assert_allclose(found.rna_proportions[0], amounts / total, atol=5e-3)


def test_anchor_decides_between_types_that_no_gene_tells_apart_and_leaves_the_others():
    rng = np.random.default_rng(4)
    _, signature = planted(n_types=4)
    signature[:, 3] = signature[:, 2]
    truth = np.tile([0.2, 0.2, 0.3, 0.3], (6, 1))
    bulk = reads(truth @ signature.T * rng.lognormal(0, 0.5, (6, len(signature))))
    free = fractions(bulk, signature)
    for wanted in (0.0, 0.2, 0.4):  # of the fourth minus the third type
        anchor = np.tile([0.25, 0.25, 0.25 - wanted / 2, 0.25 + wanted / 2], (6, 1))
        drawn = fractions(bulk, signature, anchor=anchor, anchor_weight=0.1)
        np.testing.assert_allclose(drawn[:, :2], free[:, :2], atol=0.02)
        np.testing.assert_allclose(drawn[:, 3] - drawn[:, 2], wanted, atol=0.03)
