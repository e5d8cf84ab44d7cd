"""`AmbientRegularizedSCVI` on AnnData: starting values, methods, files, seeds."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import softplus

import hpvade as hp

Model = hp.AmbientRegularizedSCVI
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_rv_02_starting_values_from_data(build, rna):
    keys = {"ambient_covariate_keys": ["batch", "site"], "dispersion_key": "batch", "library_size_key": "donor"}
    m = build(rna, keys).module
    X, totals = rna.X, rna.X.sum(1)
    scaled = X / totals[:, None] * totals.mean()
    bias = softplus(m.decoder.px_scale_decoder[0].bias).detach().numpy()
    np.testing.assert_allclose(bias, np.maximum(scaled.mean(0), 0.01), rtol=1e-4)
    site = (rna.obs["site"] == "s1").to_numpy()
    background = m.additive_background.exp()[:, 4].detach().numpy()
    np.testing.assert_allclose(background, np.maximum(0.2 * scaled[site].mean(0), 1e-8) / 2, rtol=0.06)
    logs = pd.Series(np.log(totals)).groupby(rna.obs["donor"].to_numpy(), observed=True)
    np.testing.assert_allclose(m.library_log_means[0], logs.mean() - logs.mean().mean(), atol=1e-5)
    np.testing.assert_allclose(m.library_log_vars[0], logs.var(ddof=0) * 0.5, rtol=1e-4)
    assert m.library_global_log_mean.item() == pytest.approx(logs.mean().mean(), rel=1e-5)
    assert m.median_total.item() == pytest.approx(np.median(totals))
    assert m.n_dispersion_cats == 3 and m.n_library_cats == 4 and m.n_obs_training == 90


def test_rv_02_other_starts(build, make):
    top = build(make.rna(), init_decoder_bias="topN").module.decoder.px_scale_decoder[0].bias
    mean = build(make.rna()).module.decoder.px_scale_decoder[0].bias
    assert (top > mean).all()
    m = build(make.rna(), bg_init_gene_fraction=None, additive_bg_prior_alpha=2.0, additive_bg_prior_beta=50.0).module
    assert m.additive_background.exp().mean().item() == pytest.approx(0.04, rel=0.02)
    m = build(make.rna(), px_r_init_mean=0.5, px_r_init_std=0.0, dispersion_hyper_prior_mean=0.2).module
    assert (m.px_r_mu == 0.5).all()
    torch.testing.assert_close(softplus(m.dispersion_prior_rate_raw), torch.full((3,), 5.0))


def test_rv_15_dispersion_from_data(build, make):
    from hpvade.train._count_statistics import dispersion_start

    adata = make.rna()
    m = build(adata, dispersion_init="data").module
    theta = dispersion_start(adata.X, adata.X.sum(1))
    np.testing.assert_allclose(m.px_r_mu.exp()[:, 1].detach(), theta, rtol=1e-4)
    mean = (1 / np.sqrt(theta)).mean()
    assert m.dispersion_prior_mean.item() == pytest.approx(mean, rel=1e-4)
    np.testing.assert_allclose(softplus(m.dispersion_prior_rate_raw).detach(), 1 / mean, rtol=1e-4)
    with pytest.warns(UserWarning, match="dispersion_hyper_prior_mean=0.5 is not used"):
        build(make.rna(), dispersion_init="data", dispersion_hyper_prior_mean=0.5)


def test_rv_08_normalised_expression(single):
    model, adata = single.model, single.adata
    table = model.get_normalized_expression(library_size=50)
    np.testing.assert_allclose(table.sum(1), 50, rtol=1e-4)
    assert list(table.index) == list(adata.obs_names) and list(table.columns) == list(adata.var_names)
    with torch.no_grad():
        before = model.module.additive_background.clone()
        model.module.additive_background.add_(3.0)
        pd.testing.assert_frame_equal(model.get_normalized_expression(library_size=50), table)  # no ambient in it
        model.module.additive_background.copy_(before)
    picked = model.get_normalized_expression(indices=[7, 2, 7], gene_list=["g3", "g1"], library_size=50)
    np.testing.assert_allclose(picked, table.iloc[[7, 2, 7]][["g1", "g3"]], rtol=1e-5)
    scaled = model.get_normalized_expression(include_feature_scaling=True)
    y = model.get_feature_scaling()[adata.obs["site"]].to_numpy().T
    expected = model.get_normalized_expression(library_size="latent") * y
    np.testing.assert_allclose(scaled, expected.div(expected.sum(1), axis=0), rtol=1e-4)


def test_rv_08_every_get_is_the_same_twice(single):
    model = single.model
    calls = {
        "get_latent_representation": {},
        "get_normalized_expression": {"n_samples": 3},
        "get_ambient_profile": {},
        "get_ambient_fraction": {},
        "get_library_size": {},
        "get_latent_library_size": {},
        "get_feature_scaling": {},
        "get_dispersion": {},
        "get_elbo": {},
        "get_reconstruction_error": {},
        "get_marginal_ll": {"n_mc_samples": 3},
        "get_likelihood_parameters": {},
    }
    for name, kwargs in calls.items():
        first, second = getattr(model, name)(**kwargs), getattr(model, name)(**kwargs)
        if isinstance(first, dict):
            first, second = (np.concatenate([np.ravel(v) for v in d.values()]) for d in (first, second))
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second), err_msg=name)


def test_transform_batch_changes_the_groups_of_the_batch_only(build, rna):
    model = build(rna, epochs=1, use_batch_in_decoder=True)
    own = model.get_normalized_expression()
    moved = model.get_normalized_expression(transform_batch="b1")
    is_b1 = (rna.obs["batch"] == "b1").to_numpy()
    np.testing.assert_allclose(moved[is_b1], own[is_b1], rtol=1e-5)
    assert np.abs(moved[~is_b1] - own[~is_b1]).to_numpy().max() > 1e-5
    both = model.get_normalized_expression(transform_batch=["b1", "b2"])
    other = model.get_normalized_expression(transform_batch="b2")
    np.testing.assert_allclose(both, (moved + other) / 2, rtol=1e-5)
    with pytest.raises(ValueError, match=r"transform_batch=\['b9'\] are not batches; expected some of \['b0'"):
        model.get_normalized_expression(transform_batch="b9")


def test_relevance_factors_are_part_of_the_latent_representation(build, rna):
    model = build(rna, epochs=1, use_ard_z_sigma_scale=True)
    scaled, variance = model.get_latent_representation(return_dist=True)
    model.module.ard_loc.data.add_(np.log(2.0))
    doubled, four_times = model.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(doubled, 2 * scaled, rtol=1e-5)
    np.testing.assert_allclose(four_times, 4 * variance, rtol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(), doubled, rtol=1e-5)


def test_size_factors_replace_the_learned_library(build, make):
    adata = make.rna()
    adata.obs["size"] = adata.X.sum(1)
    model = build(adata, {"batch_key": "batch", "size_factor_key": "size"}, epochs=1)
    expected = adata.obs["size"] / np.exp(np.log(adata.obs["size"]).mean())
    np.testing.assert_allclose(model.get_library_size(), expected, rtol=1e-4)
    assert model.get_elbo().isfinite()


def test_rv_18_history_and_n_obs(single):
    history = single.model.history
    keys = ("z_var", "n_active_dims", "theta_mean", "dispersion_kl", "decoder_weight_penalty", "library_obs_w")
    for mode in ("train", "validation"):
        assert {f"{key}_{mode}" for key in (*keys, "pearson_gene", "pearson_cell", "elbo")} <= history.keys()
    assert {"train_loss", "validation_loss"} <= history.keys()


def test_rv_18_tensorboard_receives_the_metrics(build, rna, tmp_path):
    from lightning.pytorch.loggers import TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    build(rna, epochs=1, train={"logger": TensorBoardLogger(tmp_path)})
    (log,) = {path.parent for path in tmp_path.rglob("events*")}
    events = EventAccumulator(str(log))
    events.Reload()
    assert {"z_var_train", "theta_mean_validation"} <= set(events.Tags()["scalars"])


def test_rv_03_scvi_injects_n_obs_in_training_and_validation(build, rna, monkeypatch):
    seen = []
    loss = hp.RegularizedVAE.loss

    def watched(self, tensors, inferred, generated, kl_weight=1.0, n_obs=1, skip_n_obs_check=False):
        seen.append((self.training, n_obs, skip_n_obs_check))
        return loss(self, tensors, inferred, generated, kl_weight, n_obs, skip_n_obs_check)

    monkeypatch.setattr(hp.RegularizedVAE, "loss", watched)
    model = build(rna, epochs=1, train={"train_size": 0.8})
    n = len(model.train_indices)
    assert {(True, n, False), (False, n, False)} == set(seen)
    assert model.module.n_obs_training == n


def test_rv_25_save_and_load(single, tmp_path, make):
    model, adata = single.model, single.adata
    model.save(tmp_path / "m", save_anndata=True)
    expected = model.get_latent_representation()
    for data in (None, adata):
        loaded = Model.load(tmp_path / "m", data)
        np.testing.assert_array_equal(loaded.get_latent_representation(), expected)
    without = Model.load(tmp_path / "m", adata=False)
    np.testing.assert_array_equal(without.get_latent_representation(make.rna()), expected)
    pd.testing.assert_frame_equal(without.get_ambient_profile(), model.get_ambient_profile())
    assert without.module.n_obs_training == model.module.n_obs_training
    assert without.history.keys() == model.history.keys()


def test_rv_25_save_and_load_with_encoder_covariates(build, rna, tmp_path):
    with pytest.warns(UserWarning, match="encoder_covariate_keys"):
        model = build(rna, {"batch_key": "batch", "encoder_covariate_keys": ["site"]}, epochs=1)
        model.save(tmp_path / "m")
        loaded = Model.load(tmp_path / "m", rna)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_rv_25_same_seed_same_weights_also_with_two_threads(build, make, weights):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        first, second = (weights(build(make.rna(), seed=7, epochs=2)) for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    other = weights(build(make.rna(), seed=8, epochs=2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_rv_25_cpu_and_gpu_agree(single, tmp_path):
    single.model.save(tmp_path / "m")
    gpu = Model.load(tmp_path / "m", single.adata.copy(), accelerator="gpu")
    np.testing.assert_allclose(gpu.get_latent_representation(), single.model.get_latent_representation(), atol=1e-3)


def test_umap_keys(single, make):
    adata = make.rna()
    before = set(adata.obsm)
    single.model.compute_latent_umap(adata)
    assert {key for key in adata.obsm if not key.startswith("_scvi")} - before == {"X_latent", "X_umap"}
    np.testing.assert_array_equal(adata.obsm["X_latent"], single.model.get_latent_representation())
    assert adata.obsm["X_umap"].shape == (90, 2)
