"""Denoised expression with scvi's arguments: each against the plain call or the posterior it draws from."""

import numpy as np
import pytest

import hpvade as hp


def test_genes_come_in_the_order_asked_for(trained):
    every = trained.model.get_normalized_expression()
    genes = list(every.columns[[5, 2, 40]])
    some = trained.model.get_normalized_expression(gene_list=genes, indices=[3, 1, 3])
    assert list(some.columns) == genes
    np.testing.assert_allclose(some, every[genes].iloc[[3, 1, 3]], rtol=1e-5)


def test_a_gene_that_no_network_sees_is_named(trained):
    with pytest.raises(ValueError, match=r"gene_list names nobody, which are none of the \d+ genes"):
        trained.model.get_normalized_expression(gene_list=["nobody"])


def test_draws_are_those_of_the_posterior(trained):
    """Mean over many draws, beside a decoding of draws made here."""
    model, cells = trained.model, [0, 100, 200]
    draws = model.get_normalized_expression(indices=cells, n_samples=400, return_mean=False)
    assert draws.shape == (400, 3, len(model.module.gene_index))
    np.testing.assert_allclose(draws.sum(axis=2), 1, rtol=1e-4)
    mean, variance = model.get_latent_representation(indices=cells, return_dist=True)
    rng, module = np.random.default_rng(1), model.module.cpu()
    import torch

    z = torch.from_numpy(mean + np.sqrt(variance) * rng.standard_normal((400, *mean.shape))).float()
    codes = trained.reference.obs["batch"].astype("category").cat.codes.to_numpy()[cells]
    with torch.no_grad():
        expected = module.generative(z, torch.ones(3, 1), torch.from_numpy(codes.astype("int64"))[:, None])["px"].mu
    expected = expected.numpy()
    error = 4 * np.sqrt((draws.var(axis=0) + expected.var(axis=0)) / 400)
    assert (np.abs(draws.mean(axis=0) - expected.mean(axis=0)) <= error + 1e-7).mean() > 0.99


def test_the_mean_of_draws_is_their_mean_at_every_call(trained):
    options = {"indices": [4, 2], "n_samples": 5}
    draws = trained.model.get_normalized_expression(**options, return_mean=False)
    table = trained.model.get_normalized_expression(**options)
    np.testing.assert_allclose(table, draws.mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(trained.model.get_normalized_expression(**options, return_numpy=True), table)


def test_several_batches_are_averaged(trained):
    one, two, both = (
        trained.model.get_normalized_expression(transform_batch=names)
        for names in ("batch_0", "batch_1", ["batch_0", "batch_1"])
    )
    np.testing.assert_allclose(both, (one + two) / 2, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("n_samples", [0, -1])
def test_no_draws_are_refused(trained, n_samples):
    with pytest.raises(ValueError, match="expected at least 1"):
        trained.model.get_normalized_expression(n_samples=n_samples)


def test_loading_gives_the_signatures_back(saved, planted):
    adata, _ = planted()
    model = hp.HPVADE.load(saved, adata, accelerator="cpu")
    expected = model.get_signature_matrix()
    np.testing.assert_array_equal(adata.varm["hpvade_signatures"], expected)
    assert list(adata.varm["hpvade_signatures"].columns) == list(expected.columns)
    assert list(adata.varm["hpvade_signatures"].index) == list(adata.var_names)
