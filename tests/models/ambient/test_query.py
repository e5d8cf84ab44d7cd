"""Queries: new categories get new parameters, all else stays bit for bit."""

import numpy as np
import pytest
import torch

import hpvade as hp

Model = hp.AmbientRegularizedSCVI
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 32}


def query(make, n=60, prefix="q"):
    adata = make.rna(n, seed=5)
    for column in ("batch", "site", "donor"):
        adata.obs[column] = (prefix + adata.obs[column].astype(str)).astype("category")
    return adata


SETUPS = {
    "batch": ({"batch_key": "batch"}, {}),
    "decoder": ({"batch_key": "batch"}, {"use_batch_in_decoder": True}),
    "separate": (
        {
            "ambient_covariate_keys": ["batch", "site"],
            "dispersion_key": "site",
            "library_size_key": "donor",
            "nn_conditioning_covariate_keys": ["site"],
        },
        {},
    ),
    "gene dispersion": ({"batch_key": "batch"}, {"dispersion": "gene"}),
}


@pytest.mark.parametrize("name", SETUPS)
def test_rv_07_reference_stays_bit_identical(build, make, name):
    setup, options = SETUPS[name]
    model = build(make.rna(), setup, epochs=1, **options)
    state = {key: value.clone() for key, value in model.module.state_dict().items()}
    found = Model.load_query_data(query(make), model)
    before = {key: value.clone() for key, value in found.module.state_dict().items()}
    found.train(2, **QUIET)
    after, masks = found.module.state_dict(), found.module.trainable_masks
    n_ambient = model.module.additive_background.shape[1]
    assert found.module.additive_background.shape[1] == 2 * n_ambient
    assert "additive_background" in masks and ("px_r_mu" in masks) == (name != "gene dispersion")
    for key, value in after.items():
        if key == "n_obs_training":
            continue
        new = masks.get(key, torch.zeros_like(value)).bool()
        assert torch.equal(value[~new], before[key][~new]), key
        assert not new.any() or (value[new] != before[key][new]).any(), key
        if value.shape == state[key].shape:
            assert torch.equal(value, state[key]), key
    assert {key.split(".")[0] for key in masks} <= {
        *("additive_background", "px_r_mu", "px_r_log_sigma", "dispersion_prior_rate_raw", "feature_scaling", "decoder")
    }


def test_rv_07_new_categories_start_as_specified(build, make):
    reference = make.rna()
    model = build(reference, {"batch_key": "batch", "nn_conditioning_covariate_keys": ["site"]}, epochs=1)
    cells = query(make)
    found = Model.load_query_data(cells, model)
    old, new = model.module, found.module
    torch.testing.assert_close(new.px_r_mu[:, :3], old.px_r_mu, rtol=0, atol=0)
    torch.testing.assert_close(new.px_r_mu[:, 3:], old.px_r_mu.mean(1, keepdim=True).expand(-1, 3))
    assert (new.feature_scaling[2:] == 0).all()
    totals = cells.X.sum(1)
    own = [np.log(totals[(cells.obs["batch"] == f"qb{k}").to_numpy()]) for k in range(3)]
    expected = [logs.mean() - old.library_global_log_mean.item() for logs in own]
    np.testing.assert_allclose(new.library_log_means[0, 3:], expected, atol=1e-5)
    np.testing.assert_allclose(new.library_log_vars[0, 3:], [0.5 * logs.var() for logs in own], rtol=1e-4)
    # relative to the reference's depth, like the library: its categories have no cells here and take the mean of all
    deeper = (
        np.mean([*(logs.mean() for logs in own), *[np.log(totals).mean()] * 3]) - old.library_global_log_mean.item()
    )
    scaled = cells.X / totals[:, None] * totals.mean()
    mean = scaled[(cells.obs["batch"] == "qb1").to_numpy()].mean(0)
    start = np.maximum(0.2 * mean, 1e-8) / np.exp(deeper)
    np.testing.assert_allclose(new.additive_background[:, 4].exp().detach(), start, rtol=0.06)
    columns = new.decoder.covariate_weights()
    torch.testing.assert_close(columns[:, :2], old.decoder.covariate_weights(), rtol=0, atol=0)
    torch.testing.assert_close(columns[:, 2], old.decoder.covariate_weights().mean(1))


def test_rv_07_without_new_categories_there_is_nothing_to_train(build, make):
    model = build(make.rna(), epochs=1)
    cells = make.rna(30, seed=9)
    found = Model.load_query_data(cells, model)
    assert found.is_trained_
    np.testing.assert_array_equal(found.get_latent_representation(), model.get_latent_representation(cells.copy()))
    with pytest.raises(ValueError, match="nothing to train"):
        found.train(1, **QUIET)


def test_rv_07_fewer_genes_and_another_order_are_aligned_by_name(build, make):
    model = build(make.rna(), epochs=1)
    cells = make.rna(30, seed=9)
    expected = cells.copy()
    expected.X[:, :5] = 0
    some = cells[:, :4:-1].copy()  # without the first five, in reverse
    found = Model.load_query_data(some, model)
    np.testing.assert_array_equal(found.adata.var_names, model.adata.var_names)
    np.testing.assert_array_equal(found.get_latent_representation(), model.get_latent_representation(expected))
    assert list(some.var_names) == list(cells.var_names[:4:-1])
    with pytest.raises(ValueError, match="has 10 of the 40 features"):
        Model.load_query_data(cells[:, :10].copy(), model)


def test_a_saved_query_stays_frozen(build, make, tmp_path):
    model = build(make.rna(), epochs=1)
    model.save(tmp_path / "reference")
    cells = query(make)
    found = Model.load_query_data(cells, tmp_path / "reference")
    found.train(1, **QUIET)
    found.save(tmp_path / "query")
    loaded = Model.load(tmp_path / "query", cells)
    before = {key: value.clone() for key, value in loaded.module.state_dict().items()}
    loaded.train(1, **QUIET)
    for key in ("z_encoder.mean_encoder.weight", "decoder.px_scale_decoder.0.weight"):
        assert torch.equal(loaded.module.state_dict()[key], before[key])
    assert torch.equal(loaded.module.px_r_mu[:, :3], before["px_r_mu"][:, :3])
    assert not torch.equal(loaded.module.px_r_mu[:, 3:], before["px_r_mu"][:, 3:])


def test_unfrozen_query_trains_everything(build, make):
    model = build(make.rna(), epochs=1)
    found = Model.load_query_data(query(make), model, freeze=False)
    assert not found.module.trainable_masks and not found.is_trained_
    before = found.module.z_encoder.mean_encoder.weight.clone()
    found.train(1, **QUIET)
    assert not torch.equal(found.module.z_encoder.mean_encoder.weight, before)


def test_queries_of_a_mudata(build, make):
    model = build(make.mdata(), epochs=1)
    mdata = make.mdata(40, seed=4)
    mdata.obs["batch"] = "new"
    found = hp.RegularizedMultimodalVI.load_query_data(mdata, model)
    found.train(1, **QUIET)
    assert found.module.additive_background["rna"].shape == (40, 4)
    state, reference = found.module.state_dict(), model.module.state_dict()
    assert torch.equal(state["px_r_mu.atac"][:, :3], reference["px_r_mu.atac"])
    assert torch.equal(state["encoders.rna.mean_encoder.weight"], reference["encoders.rna.mean_encoder.weight"])
    assert found.get_latent_representation().shape == (40, 8)


def test_what_is_no_reference_is_refused(build, make):
    with pytest.raises(TypeError, match="reference_model is a int; expected a AmbientRegularizedSCVI or a folder"):
        Model.load_query_data(make.rna(), 3)
    with pytest.raises(RuntimeError, match="not trained"):
        Model.load_query_data(make.rna(), build(make.rna()))
    with pytest.raises(ValueError, match="weight_decay would change"):
        model = build(make.rna(), epochs=1)
        Model.load_query_data(query(make), model).train(1, plan_kwargs={"weight_decay": 1e-3}, **QUIET)


def test_the_background_of_a_query_does_not_depend_on_its_depth(build, make):
    """The library of a query carries its depth: its ambient columns start at the same share of all counts."""
    model = build(make.rna(), {"batch_key": "batch"}, epochs=1)
    old = model.module.additive_background.shape[1]
    starts = []
    for depth in (1, 5, 25):
        adata = query(make)
        adata.X = adata.X * np.float32(depth)
        torch.manual_seed(0)  # of the noise around the start
        starts.append(Model.load_query_data(adata, model).module.additive_background[:, old:].detach().numpy())
    seen = starts[0] > -15  # the others have no counts, and start at the same tiny number
    for other in starts[1:]:
        np.testing.assert_allclose(other[seen], starts[0][seen], atol=1e-4)
