"""`RegularizedMultimodalVI` on MuData: latents, weights, attribution, files."""

import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp

Model = hp.RegularizedMultimodalVI
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_rv_02_starting_values_are_those_of_the_single_model(build, make):
    """The RNA of a MuData starts like the same RNA alone: one set of components."""
    single = build(make.rna(), seed=3, decoder_weight_l2=0.0).module
    multi = build(make.mdata(), seed=3, feature_scaling_modalities=["rna"]).module
    for name in ("library_log_means", "library_log_vars", "library_global_log_mean", "median_total"):
        torch.testing.assert_close(getattr(single, name), getattr(multi, f"{name}_rna"))
    torch.testing.assert_close(single.px_r_log_sigma, multi.px_r_log_sigma["rna"])
    torch.testing.assert_close(single.additive_background, multi.additive_background["rna"], rtol=0, atol=0.1)
    bias = [m.px_scale_decoder[0].bias for m in (single.decoder, multi.decoders["rna"])]
    torch.testing.assert_close(*bias)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, 8),
        ({"n_latent": {"rna": 6, "atac": 3}, "n_hidden": {"rna": 8, "atac": 6}}, 9),
        ({"latent_mode": "single_encoder"}, 8),
        ({"latent_mode": "weighted_mean", "modality_weights": "universal"}, 4),
        ({"latent_mode": "weighted_mean", "modality_weights": "cell"}, 4),
    ],
    ids=["concatenation", "sizes", "single_encoder", "universal", "cell"],
)
def test_rv_11_latent_and_weight_modes_train(build, mdata, options, size):
    model = build(mdata, epochs=1, **options)
    latent = model.get_latent_representation()
    assert latent.shape == (90, size) and np.isfinite(latent).all()
    expression = model.get_normalized_expression()
    assert list(expression) == ["atac", "rna"]
    for name, table in expression.items():
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-4)
        pd.testing.assert_frame_equal(model.get_normalized_expression(modality=name), table)
    if options.get("latent_mode") == "weighted_mean":
        weights = model.get_modality_weights()
        assert list(weights.columns) == ["atac", "rna"] and (weights["atac"][:5] == 0).all()
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-5)
    else:
        with pytest.raises(ValueError, match="has no weights"):
            model.get_modality_weights()


def test_rv_11_learning_rates_by_modality(build, mdata, weights):
    model = build(mdata)
    before = weights(model)
    model.train(1, batch_size=90, train_size=1.0, plan_kwargs={"modality_lr_multiplier": {"atac": 10.0}}, **QUIET)
    after = weights(model)
    moved = {name: (after[f"px_r_mu.{name}"] - before[f"px_r_mu.{name}"]).abs().max() for name in ("rna", "atac")}
    assert moved["rna"].item() == pytest.approx(1e-3, rel=0.05)  # the first step of Adam is the learning rate
    assert moved["atac"].item() == pytest.approx(1e-2, rel=0.05)
    with pytest.raises(ValueError, match="Unknown modality"):
        model.train(1, plan_kwargs={"modality_lr_multiplier": {"adt": 2.0}}, **QUIET)


def test_learning_rates_by_modality_need_modalities(build, rna):
    with pytest.raises(TypeError, match="needs several modalities"):
        build(rna).train(1, plan_kwargs={"modality_lr_multiplier": {"rna": 2.0}}, **QUIET)


def test_rv_23_slices_are_the_joint_columns(multi, build, make):
    found = multi.model.get_modality_latents()
    joint = multi.model.get_latent_representation()
    assert set(found) == {"atac", "rna", "__joint__"} and found["atac"].shape == (90, 3)
    np.testing.assert_array_equal(np.concatenate([found["atac"], found["rna"]], axis=1), joint)
    np.testing.assert_array_equal(found["__joint__"], joint)
    assert (found["atac"][:5] == 0).all()
    some = multi.model.get_latent_representation(indices=[9, 1, 9])
    np.testing.assert_allclose(some, joint[[9, 1, 9]], atol=1e-5)
    sampled = multi.model.get_latent_representation(give_mean=False)
    assert not np.array_equal(sampled, joint) and sampled.shape == joint.shape
    with pytest.raises(ValueError, match="weighted_mean"):
        build(make.mdata(), epochs=1, latent_mode="weighted_mean").get_modality_latents()


def test_rv_08_every_get_is_the_same_twice(multi):
    model = multi.model
    for name in ("get_elbo", "get_ambient_profile", "get_ambient_fraction", "get_latent_representation"):
        np.testing.assert_array_equal(np.asarray(getattr(model, name)()), np.asarray(getattr(model, name)()))
    first, second = (model.get_reconstruction_error() for _ in range(2))
    assert first == second and set(first) == {"reconstruction_loss_atac", "reconstruction_loss_rna"}


def test_parameters_by_modality(multi):
    model = multi.model
    assert model.get_ambient_profile().shape == (40, 3) and model.get_feature_scaling().shape == (24, 2)
    with pytest.raises(ValueError, match=r"several modalities, \['atac', 'rna'\]"):
        model.get_dispersion()
    assert model.get_dispersion("atac").shape == (24, 3)
    with pytest.raises(ValueError, match="modality='adt' is unknown"):
        model.get_library_size(modality="adt")
    with pytest.raises(ValueError, match="no additive_background for 'atac'"):
        model.get_ambient_profile("atac")
    assert list(model.get_library_size(modality="rna").index) == list(multi.mdata.obs_names)


def test_rv_25_save_and_load(multi, tmp_path, make):
    model, mdata = multi.model, multi.mdata
    model.save(tmp_path / "m", save_anndata=True)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"model.json", "model.safetensors", "mdata.h5mu"}
    expected = model.get_latent_representation()
    np.testing.assert_array_equal(Model.load(tmp_path / "m").get_latent_representation(), expected)
    np.testing.assert_array_equal(Model.load(tmp_path / "m", mdata).get_latent_representation(), expected)
    without = Model.load(tmp_path / "m", adata=False)
    assert without.get_var_names().keys() == {"rna", "atac"}
    np.testing.assert_array_equal(without.get_latent_representation(make.mdata()), expected)
    model.save(tmp_path / "m", overwrite=True)
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"model.json", "model.safetensors"}


def test_other_features_are_refused(multi, make, tmp_path):
    other = make.mdata()
    other.mod["rna"].var_names = other.mod["rna"].var_names[::-1]
    with pytest.raises(ValueError, match="in another order"):
        multi.model.get_latent_representation(other)
    with pytest.raises(TypeError, match="found a AnnData; expected a MuData"):
        multi.model.get_latent_representation(make.rna())
    multi.model.save(tmp_path / "m")
    with pytest.raises(TypeError, match="expected a MuData"):
        Model.load(tmp_path / "m", make.rna())


def test_files_of_a_mudata_are_not_changed_by_a_foreign_save(multi, tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "mdata.h5mu").write_text("mine")
    with pytest.raises(ValueError, match=r"\['mdata.h5mu'\], not written by hpvade"):
        multi.model.save(folder, overwrite=True, save_anndata=True)
    assert (folder / "mdata.h5mu").read_text() == "mine"


def test_rv_24_umap_keys(multi, make):
    adata = make.rna()
    before = set(adata.obsm)
    multi.model.compute_latent_umap(adata)
    assert set(adata.obsm) - before == {
        f"X_{kind}_{m}" for kind in ("latent", "umap") for m in ("joint", "rna", "atac")
    }
    with pytest.raises(ValueError, match="other cells than mdata"):
        multi.model.compute_latent_umap(make.rna(30))


def test_one_modality_is_enough(build, make):
    mdata = make.mdata()
    model = build(mdata, {"batch_key": "batch", "modalities": {"rna": "rna"}}, epochs=1)
    assert model.module.modality_names == ["rna"] and model.get_latent_representation().shape == (90, 4)


def test_rv_25_same_seed_same_weights(build, make, weights):
    first, second = (weights(build(make.mdata(), seed=7, epochs=1)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
