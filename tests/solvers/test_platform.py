"""The factor of a platform for all genes, against planted factors and the cohort's own fit."""

import numpy as np
import pytest
import torch

from hpvade.solvers import marker_genes, platform_factor, robust


def cohort(seed=0, n=30, n_genes=2000, n_types=5, sd=0.6):
    """Fractions of RNA, signature with some silent genes, planted factor, reads as shares of each sample."""
    rng = np.random.default_rng(seed)
    signature = rng.lognormal(0, 1.5, (n_genes, 1)) * rng.lognormal(0, 0.8, (n_genes, n_types))
    signature[:50] = 0
    signature /= signature.sum(axis=0)
    truth, factor = rng.dirichlet(np.ones(n_types), n), rng.normal(0, sd, n_genes)
    seen = truth @ signature.T * np.exp(factor) * rng.lognormal(0, 0.1, (n, n_genes))
    reads = rng.poisson(5e6 * seen / seen.sum(axis=1, keepdims=True))
    bulk = reads / reads.sum(axis=1, keepdims=True)
    return truth, torch.from_numpy(signature), factor, torch.from_numpy(bulk)


def rmse(x, truth):
    return float(np.sqrt(np.mean((np.asarray(x) - truth) ** 2)))


def test_planted_factor_is_found_for_all_expressed_genes():
    truth, signature, factor, bulk = cohort()
    genes = marker_genes(signature)
    fit = robust(bulk[:, genes], signature[genes])
    found = platform_factor(bulk, signature, fit.rna_proportions)
    known = found.gene_factor.isfinite().numpy()
    assert not known[:50].any()
    assert known[(signature.mean(dim=1) > 2e-4).numpy()].all()
    assert np.array_equal(known, found.gene_weight.isfinite().numpy())
    high = (signature.mean(dim=1) > 5e-4).numpy()  # well above the offset, which holds low genes back
    assert np.corrcoef(found.gene_factor[high], factor[high])[0, 1] > 0.98
    assert np.polyfit(factor[high], found.gene_factor.numpy()[high], 1)[0] == pytest.approx(1, abs=0.1)
    own, both = fit.gene_factor.numpy(), known[genes]
    assert np.corrcoef(found.gene_factor[genes].numpy()[both], own[both])[0, 1] > 0.99


def test_one_sample_with_the_stored_factor_is_solved_like_one_of_the_cohort():
    error = {"alone": [], "stored": [], "half stored": [], "cohort": []}
    for seed in range(4):
        truth, signature, _, bulk = cohort(seed)
        genes = marker_genes(signature)
        some = robust(bulk[:20, genes], signature[genes]).rna_proportions
        found = platform_factor(bulk[:20], signature, some)
        error["cohort"].append(rmse(robust(bulk[:, genes], signature[genes]).rna_proportions[20:], truth[20:]))
        part = torch.from_numpy(np.random.default_rng(seed).random(len(signature)) < 0.5)
        # genes that the first cohort did not measure: others are markers, too
        stored = {
            "alone": {},
            "stored": {"gene_factor": found.gene_factor[genes], "gene_weight": found.gene_weight[genes]},
            "half stored": {
                "gene_factor": found.gene_factor.masked_fill(part, torch.nan)[genes],
                "gene_weight": found.gene_weight.masked_fill(part, torch.nan)[genes],
            },
        }
        for name, options in stored.items():
            single = [robust(bulk[i : i + 1, genes], signature[genes], **options) for i in range(20, 30)]
            error[name].append(rmse(torch.cat([fit.rna_proportions for fit in single]), truth[20:]))
    error = {name: np.mean(x) for name, x in error.items()}
    assert error["stored"] < 1.1 * error["cohort"]
    assert error["stored"] < 0.7 * error["alone"]
    assert error["stored"] < error["half stored"] < error["alone"]


def test_own_platform_has_next_to_none_and_duplicates_change_nothing():
    truth, signature, _, bulk = cohort(sd=0.0)
    found = platform_factor(bulk, signature, torch.from_numpy(truth))
    known = found.gene_factor.isfinite()
    assert found.gene_factor[known].square().mean().sqrt() < 0.05
    truth, signature, _, bulk = cohort(n=6)
    once = platform_factor(bulk, signature, torch.from_numpy(truth))
    more = platform_factor(bulk.repeat(3, 1), signature, torch.from_numpy(truth).repeat(3, 1))
    torch.testing.assert_close(more.gene_factor, once.gene_factor, atol=1e-3, rtol=0, equal_nan=True)
    torch.testing.assert_close(more.gene_weight, once.gene_weight, atol=0, rtol=1e-2, equal_nan=True)


def test_scale_and_order_of_the_samples_do_not_matter():
    truth, signature, _, bulk = cohort(n=8)
    rna = torch.from_numpy(truth)
    order = np.random.default_rng(1).permutation(8)
    plain = platform_factor(bulk, signature, rna)
    moved = platform_factor(bulk[order], signature, rna[order])
    torch.testing.assert_close(moved.gene_factor, plain.gene_factor, atol=1e-4, rtol=0, equal_nan=True)


def test_bad_input():
    truth, signature, _, bulk = cohort(n=3)
    rna = torch.from_numpy(truth)
    with pytest.raises(ValueError, match=r"rna_proportions has shape \(2, 5\); expected \(3, 5\)"):
        platform_factor(bulk, signature, rna[:2])
    with pytest.raises(ValueError, match="found 1 sample, expected two or more"):
        platform_factor(bulk[:1], signature, rna[:1])
    with pytest.raises(ValueError, match="no gene has 5e-05 of the total"):
        platform_factor(bulk * 1e-6, signature * 1e-6, rna)
    with pytest.raises(ValueError, match="bulk has shape"):
        platform_factor(bulk[:, :9], signature, rna)
