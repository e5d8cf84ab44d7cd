"""Parts of the loss against the loss itself, and counts per modality against the module's own distributions."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import torch
from torch.distributions import Normal, kl_divergence


def outputs(model, data):
    """Inference and generation at posterior means, of all cells at once."""
    (found,) = model._posterior_means(data, np.arange(data.n_obs), data.n_obs)
    return found


def test_divergence_by_axis(single, multi):
    with torch.inference_mode():
        for fixture in (single, multi):
            data = fixture.model._validate_anndata(None)
            kl = kl_divergence(outputs(fixture.model, data)[0]["qz"], Normal(0.0, 1.0)).mean(dim=0)
            np.testing.assert_allclose(fixture.model.get_per_dim_kl(batch_size=17), kl, rtol=1e-4)
    assert list(single.model.get_per_dim_kl().index[:2]) == ["latent_0", "latent_1"]
    blocks = multi.model.module.latent_blocks()
    assert list(multi.model.get_per_dim_kl().index[blocks["rna"]])[:2] == ["rna_0", "rna_1"]


def test_loss_by_feature_sums_to_the_reconstruction_loss(single, multi):
    for fixture, names in ((single, [None]), (multi, ["rna", "atac"])):
        model = fixture.model
        data = model._validate_anndata(None)
        for name in names:
            found = model.get_per_feature_reconstruction_loss(modality=name, batch_size=17)
            with torch.inference_mode():
                inferred, generated = outputs(model, data)
                (tensors,) = model._make_data_loader(data, np.arange(data.n_obs), data.n_obs)
                module, key = model.module, name or model.module.modality_names[0]
                px, present = module.unpack(generated["px"])[key], inferred["present"][key]
                loss = -module.log_likelihood(px, module.counts(tensors)[key])[present].mean()
            assert found.sum() == pytest.approx(float(loss), rel=1e-4)
            assert list(found.index) == list(model._features(key))


def test_counts_and_parameters_per_modality(multi):
    model, some = multi.model, [7, 3, 3]
    parameters = model.get_likelihood_parameters(indices=some, modality="atac")
    with torch.inference_mode():
        px = model.module.unpack(outputs(model, model._validate_anndata(None))[1]["px"])["atac"]
    np.testing.assert_allclose(parameters["mean"], px.mu[some], rtol=1e-4)
    np.testing.assert_allclose(parameters["dispersions"], px.theta.expand_as(px.mu)[some], rtol=1e-4)
    assert set(model.get_likelihood_parameters()) == {"rna", "atac"}
    drawn = model.posterior_predictive_sample(modality="rna", n_samples=3, indices=some)
    assert drawn.shape == (3, 40, 3) and (drawn >= 0).all() and (drawn == np.rint(drawn)).all()
    np.testing.assert_array_equal(drawn[1], drawn[2])  # the same cell twice
    again = model.posterior_predictive_sample(n_samples=3, indices=some)
    np.testing.assert_array_equal(again["rna"], drawn)
    many = model.posterior_predictive_sample(modality="rna", n_samples=300).mean(axis=(0, 2))
    expected = model.get_likelihood_parameters(modality="rna")["mean"].mean(axis=0)
    assert np.corrcoef(many, expected)[0, 1] > 0.98
    sizes = model.get_latent_library_size(indices=some)
    np.testing.assert_array_equal(sizes["rna"].ravel(), model.get_library_size(indices=some, modality="rna"))


def test_attribution_umap_and_its_message(multi, make):
    adata = make.rna()
    multi.model.compute_attribution_umap(adata)
    found = multi.model.get_modality_attribution()
    for name in ("rna", "atac"):
        np.testing.assert_allclose(adata.obsm[f"X_latent_attr_{name}"], found[name]["weighted_z"], rtol=1e-4)
        assert adata.obsm[f"X_umap_attr_{name}"].shape == (90, 2)
    with pytest.raises(ValueError, match="attribution_method='numeric' is unknown; expected 'h2b' or 'jacfwd'"):
        multi.model.get_modality_attribution(attribution_method="numeric")


def test_leiden_needs_igraph(multi, make, unchanged, monkeypatch):
    adata = make.rna()
    monkeypatch.setattr("hpvade.models.ambient._umap.find_spec", lambda _: None)
    with unchanged(adata), pytest.raises(ImportError, match="pip install igraph"):
        multi.model.compute_latent_umap(adata, add_leiden=True)


def test_leiden_clusters_are_those_of_scanpy(single, multi, make):
    pytest.importorskip("igraph")
    adata = make.rna()
    multi.model.compute_latent_umap(adata, add_leiden=True)
    single.model.compute_latent_umap(adata, add_leiden=True)
    for name in ("_joint", "_rna", "_atac", ""):
        own = ad.AnnData(obsm={"z": adata.obsm[f"X_latent{name}"]}, shape=(adata.n_obs, 0))
        sc.pp.neighbors(own, use_rep="z", n_neighbors=15)
        sc.tl.leiden(own, flavor="igraph", n_iterations=2, directed=False)
        found = adata.obs[f"leiden{name}"]
        np.testing.assert_array_equal(found, own.obs["leiden"])
        assert list(found.cat.categories) == [str(k) for k in range(found.nunique())]


def test_penalties_are_logged_as_they_enter_the_loss(build, make):
    model = build(make.rna(), {"batch_key": "batch"}, epochs=1, decoder_weight_l2=0.1)
    weights = model.module.decoder.weights()
    expected = 0.1 * float(sum(w.square().sum() for w in weights)) / len(model.train_indices)
    logged = float(model.history["decoder_weight_penalty_train"].iloc[-1, 0])
    assert logged == pytest.approx(expected, rel=0.1)  # the weights of the last epoch move while it is logged
    assert model.module.dispersion_hyper_prior_mean == pytest.approx(1 / 3)
