"""IV-14, and what comes with scvi-tools' methods for RNA."""

import inspect

import anndata as ad
import numpy as np
import pytest
from scvi.model.base import RNASeqMixin

import hpvade as hp


@pytest.mark.parametrize("from_bottleneck", [False, True])
@pytest.mark.parametrize("library_size", [1, 1e4])
def test_iv_14_rows_sum_to_the_library_size(embedded, from_bottleneck, library_size):
    table = embedded.model.get_normalized_expression(library_size=library_size, from_bottleneck=from_bottleneck)
    assert table.shape == (400, 150) and (table >= 0).all(axis=None)
    assert list(table.columns) == list(embedded.adata.var_names) and list(table.index) == list(embedded.adata.obs_names)
    np.testing.assert_allclose(table.sum(axis=1), library_size, rtol=1e-4)


def test_iv_14_latent_library_is_the_cells_own(embedded):
    table = embedded.model.get_normalized_expression(library_size="latent", from_bottleneck=True)
    np.testing.assert_allclose(table.sum(axis=1), np.asarray(embedded.adata.X.sum(axis=1)).ravel(), rtol=1e-4)


def test_expression_is_denoised_and_the_bottleneck_keeps_part_of_it(embedded):
    """Closer to the planted profile of the type than the counts; the full latent vector explains more of them."""
    model, adata = embedded.model, embedded.adata
    profile = (adata.varm["signature"] / adata.varm["signature"].sum()).to_numpy().T[adata.obs["cell_type"].cat.codes]
    counts = adata.X.toarray() / adata.X.sum(axis=1)
    error = lambda table: np.abs(np.asarray(table) - profile).mean()  # noqa: E731
    latent, through = (error(model.get_normalized_expression(from_bottleneck=flag)) for flag in (False, True))
    assert max(latent, through) < error(counts) / 2
    last = {name: float(model.history[f"{name}_train"].iloc[-1, 0]) for name in ("reconstruction", "irecon")}
    assert last["reconstruction"] < last["irecon"]


def test_order_subsets_and_repeats(embedded, tmp_path):
    model, every = embedded.model, embedded.model.get_normalized_expression()
    np.testing.assert_array_equal(every, model.get_normalized_expression())
    for indices in ([7, 2, 300, 2], np.arange(400) % 7 == 3):
        found = model.get_normalized_expression(indices=np.flatnonzero(indices) if len(indices) == 400 else indices)
        np.testing.assert_allclose(found, every.iloc[np.arange(400)[indices]], rtol=1e-4, atol=1e-8)
    genes = list(embedded.adata.var_names[[9, 3]])
    np.testing.assert_allclose(model.get_normalized_expression(gene_list=genes), every[sorted(genes)], rtol=1e-5)
    with pytest.raises(ValueError, match="gene_list names .*'no such gene'"):
        model.get_normalized_expression(gene_list=["no such gene"])


def test_backed_cells_come_in_the_order_asked_for(embedded, cells, tmp_path):
    cells().write_h5ad(tmp_path / "cells.h5ad")
    backed, model, indices = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r"), embedded.model, [300, 7, 350, 7, 2]
    found = model.get_normalized_expression(backed, indices)
    assert list(found.index) == list(backed.obs_names[indices])
    np.testing.assert_allclose(found, model.get_normalized_expression(indices=indices), rtol=1e-4, atol=1e-8)
    apart = model.get_normalized_expression(backed, indices, n_samples=3, return_mean=False)
    assert apart.shape == (3, 5, 150)
    error = model.get_reconstruction_error(backed, indices, return_mean=False)["reconstruction_loss"]
    expected = model.get_reconstruction_error(indices=indices, return_mean=False)["reconstruction_loss"]
    np.testing.assert_allclose(error, expected, rtol=0.1)
    assert model.get_elbo(backed, indices, return_mean=False).shape == (5,)


def test_batches(embedded):
    model, batch = embedded.model, embedded.adata.obs["batch"].to_numpy()
    plain = model.get_normalized_expression()
    names = list(np.unique(batch))
    tables = [model.get_normalized_expression(transform_batch=name) for name in names]
    for name, table in zip(names, tables, strict=True):
        np.testing.assert_allclose(table[batch == name], plain[batch == name], rtol=1e-4, atol=1e-8)
        assert np.abs(table[batch != name] - plain[batch != name]).to_numpy().max() > 1e-5
    both = model.get_normalized_expression(transform_batch=names)
    np.testing.assert_allclose(both, sum(tables) / 2, rtol=1e-4, atol=1e-8)
    with pytest.raises(ValueError, match="not a valid batch category"):
        model.get_normalized_expression(transform_batch="batch_9")


def test_samples_spread_around_the_mean(embedded):
    model = embedded.model
    samples = model.get_normalized_expression(indices=range(20), n_samples=200, return_mean=False)
    assert samples.shape == (200, 20, 150) and samples.std(axis=0).max() > 1e-4
    averaged = model.get_normalized_expression(indices=range(20), n_samples=200)
    np.testing.assert_allclose(averaged.sum(axis=1), 1, rtol=1e-4)


def test_differential_expression_finds_the_planted_genes(embedded, unchanged):
    model, adata = embedded.model, embedded.adata
    names = list(adata.obs["cell_type"].cat.categories[:2])
    with unchanged(adata):
        table = model.differential_expression(groupby="cell_type", group1=names[0], group2=names[1], silent=True)
    planted = adata.varm["signature"] / adata.varm["signature"].sum()
    expected = np.log2(planted[names[0]] / planted[names[1]])
    found = np.log2(table["scale1"] / table["scale2"]).loc[expected.index]
    top = (table["raw_mean1"] + table["raw_mean2"]).loc[expected.index] > 1
    assert np.corrcoef(found[top], expected[top])[0, 1] > 0.8


def test_the_rest_of_scvis_methods(embedded):
    model = embedded.model
    counts = model.posterior_predictive_sample(indices=range(50), n_samples=3)
    assert counts.shape == (50, 150, 3)
    parameters = model.get_likelihood_parameters(indices=range(50))
    assert parameters["mean"].shape == parameters["dispersions"].shape == (50, 150)
    genes = model.get_feature_correlation_matrix(indices=range(50), n_samples=2)
    np.testing.assert_allclose(np.diag(genes), 1)
    with pytest.raises(NotImplementedError, match="library_size='latent'"):
        model.get_latent_library_size()
    with pytest.raises(NotImplementedError, match="get_elbo"):
        model.get_normalized_expression(n_samples_overall=10, weights="importance")


def test_positions_and_names_of_scvis_arguments():
    ours, theirs = (list(inspect.signature(cls.get_normalized_expression).parameters) for cls in (hp.IVAE, RNASeqMixin))
    shared = [name for name in ours if name in theirs and name != "kwargs"]
    assert shared == theirs[: len(shared)] and ours[-2] == "from_bottleneck"
