"""Expression by type: sums, the posterior's formula, planted changes, flags."""

import numpy as np
import pytest
import torch

from hpvade.models.hpvade._expression import _Cohort, _posterior


def cube(table, layer=None):
    values = table.X if layer is None else table.layers[layer]
    return np.asarray(values, dtype=float).reshape(table.obs["sample"].nunique(), -1, table.n_vars)


def test_hp16_rows_of_a_sample_sum_to_its_fit(trained):
    table = trained.model.get_cell_type_expression(trained.bulk)
    assert table.obs_names[0] == f"{trained.bulk.obs_names[0]}|{trained.model.cell_types[0]}"
    observed = np.asarray(trained.bulk[:, table.var_names].X, dtype=float)
    fitted = cube(table).sum(axis=1)
    np.testing.assert_allclose(fitted.sum(axis=1), observed.sum(axis=1), rtol=0.15)
    correlation = [np.corrcoef(np.log(a + 10), np.log(b + 10))[0, 1] for a, b in zip(fitted, observed, strict=True)]
    assert min(correlation) > 0.98
    expected = trained.model.deconvolve(trained.bulk.copy())
    np.testing.assert_allclose(
        table.obs["proportion"].to_numpy().reshape(expected.shape), expected.to_numpy(), atol=1e-6
    )


def test_hp16_signature_of_every_type(trained):
    table = trained.model.get_cell_type_expression(trained.bulk)
    mean = cube(table, "expression").mean(axis=0).T
    reference = trained.model.get_signature_matrix(normalize="cpm").loc[table.var_names].to_numpy()
    for k in range(reference.shape[1]):
        assert np.corrcoef(np.log(mean[:, k] + 10), np.log(reference[:, k] + 10))[0, 1] > 0.95


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


class Found:
    """The part of an `Estimate` that the posterior reads."""

    def __init__(self, bulk, rna):
        self.shares = torch.from_numpy(bulk / bulk.sum(axis=1, keepdims=True))
        self.rna, self.depth = torch.from_numpy(rna), torch.full((len(bulk),), 1e8, dtype=torch.float64)


def test_planted_changes_are_given_to_the_type_that_made_them():
    signature, rna, profiles, bulk = planted_cohort()
    genes = torch.arange(len(signature))
    expression, variance, resolved, _ = _posterior(torch.from_numpy(signature), Found(bulk, rna), genes, genes)
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
    found, genes = Found(bulk, rna), torch.arange(len(signature))
    s = torch.from_numpy(signature)
    expression, variance, _, _ = _posterior(s, found, genes, genes)
    cohort = _Cohort.of(found.shares, s, found.rna, found.depth)
    n, g = 3, 7
    prior = float(cohort.between[g]) * np.diag(signature[g] ** 2)
    p = rna[n]
    noise = float(cohort.noise[n, g]) * (signature[g] @ p + 1e-6) ** 2
    x = float(found.shares[n, g] / cohort.scale[n] / cohort.factor[g])
    gain = prior @ p / (p @ prior @ p + noise)
    np.testing.assert_allclose(expression[n, :, g], np.maximum(signature[g] + gain * (x - signature[g] @ p), 0))
    np.testing.assert_allclose(variance[n, :, g], np.diag(prior - np.outer(gain, p @ prior)), atol=1e-18)


def test_some_genes_have_the_values_they_have_among_all(trained):
    genes = list(trained.bulk.var_names[[40, 7, 200]])
    few = trained.model.get_cell_type_expression(trained.bulk, genes=genes)
    every = trained.model.get_cell_type_expression(trained.bulk)
    assert list(few.var_names) == genes
    for layer in ("expression", "variance"):
        np.testing.assert_allclose(few.layers[layer], every[:, genes].layers[layer], rtol=1e-5)


def test_flags_follow_the_threshold(trained):
    table = trained.model.get_cell_type_expression(trained.bulk, min_resolved=0.2)
    assert table.varm["is_resolved"].equals(table.varm["resolved"] >= 0.2)
    assert ((table.varm["resolved"] >= 0) & (table.varm["resolved"] <= 1)).all(axis=None)


def test_one_sample_keeps_the_reference_and_says_so(trained):
    with pytest.warns(UserWarning, match="One sample"):
        table = trained.model.get_cell_type_expression(trained.bulk[:1].copy())
    reference = trained.model.get_signature_matrix(normalize="cpm").loc[table.var_names].to_numpy()
    np.testing.assert_allclose(cube(table, "expression")[0].T, reference, rtol=1e-4)
    assert not table.varm["is_resolved"].to_numpy().any()


def test_bulk_is_unchanged_and_bad_arguments_are_named(trained, literal, unchanged):
    with unchanged(trained.bulk):
        trained.model.get_cell_type_expression(trained.bulk)
        with pytest.raises(KeyError, match="nogene"):
            trained.model.get_cell_type_expression(trained.bulk, genes=["nogene"])
        with pytest.raises(ValueError, match="min_resolved"):
            trained.model.get_cell_type_expression(trained.bulk, min_resolved=2)
    with pytest.raises(NotImplementedError, match="preset='default'"):
        literal.model.get_cell_type_expression(literal.bulk)
