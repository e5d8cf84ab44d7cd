"""RV-13: code written for the models under another package name runs through an import shim, and finds its names.

The names are the specification's (3.2 and 2.2); the tests of the published implementation read parameters by them.
"""

import importlib
import sys
from types import ModuleType

import anndata as ad
import mudata as mu
import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp

CLASSES = ("AmbientRegularizedSCVI", "RegularizedVAE", "RegularizedMultimodalVI", "RegularizedMultimodalVAE")
SMALL = {"n_hidden": 16, "n_latent": 4}
TRAIN = {"max_epochs": 2, "train_size": 1.0, "batch_size": 32, "accelerator": "cpu", "enable_progress_bar": False}
PURPOSES = {"ambient_covariate_keys": ["batch", "site"], "dispersion_key": "batch", "library_size_key": "donor"}
N, G, P = 100, 50, 30  # cells, genes, peaks


@pytest.fixture
def outside(monkeypatch):
    """The shim: a module of another name that holds the classes."""
    shim = ModuleType("regularizedvi")
    shim.__version__ = hp.__version__
    for name in CLASSES:
        setattr(shim, name, getattr(hp, name))
    monkeypatch.setitem(sys.modules, "regularizedvi", shim)
    return importlib.import_module("regularizedvi")


def cells(n_vars=G, mean=5, prefix="gene"):
    X = np.random.default_rng(42).poisson(mean, (N, n_vars)).astype(np.float32)
    codes = {"batch": 3, "site": 2, "donor": 4}
    obs = {key: pd.Categorical([f"{key}_{i % n}" for i in range(N)]) for key, n in codes.items()}
    adata = ad.AnnData(X, obs=pd.DataFrame(obs, index=[f"c{i}" for i in range(N)]), layers={"counts": X.copy()})
    adata.var_names = [f"{prefix}_{i}" for i in range(n_vars)]
    return adata


def mdata():
    return mu.MuData({"rna": cells(), "atac": cells(P, 2, "peak")})


def single(outside, setup=None, **options):
    adata = cells()
    setup = {"batch_key": "batch"} if setup is None else setup
    outside.AmbientRegularizedSCVI.setup_anndata(adata, layer="counts", **setup)
    return outside.AmbientRegularizedSCVI(adata, **SMALL | options)


def multi(outside, **options):
    data = mdata()
    outside.RegularizedMultimodalVI.setup_mudata(data, batch_key="batch")
    return outside.RegularizedMultimodalVI(data, **SMALL | options)


def test_rv_13_values_that_outside_code_reads_from_the_module(outside):
    model = single(outside)
    module = model.module
    assert isinstance(module, outside.RegularizedVAE) and outside.__version__
    expected = {
        **{"gene_likelihood": "gamma_poisson", "dispersion": "gene-batch", "use_observed_lib_size": False},
        **{"use_additive_background": True, "use_batch_in_decoder": False, "regularise_dispersion": True},
        **{"n_cats_per_ambient_cov": [3], "n_total_ambient_cats": 3, "n_dispersion_cats": 3, "n_library_cats": 3},
        **{"decoder_weight_l2": 0.1, "additive_bg_prior_alpha": 1.0, "additive_bg_prior_beta": 100.0},
        **{"regularise_background": False, "compute_pearson": False, "n_latent": 4},
    }
    assert {name: getattr(module, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("px_r_mu", (G, 3)), ("px_r_log_sigma", (G, 3)), ("dispersion_prior_rate_raw", (3,))),
        *(("additive_background", (G, 3)), ("feature_scaling", (1, G))),
        *(("library_log_means", (1, 3)), ("library_log_vars", (1, 3)), ("library_global_log_mean", ())),
        *(("library_log_sensitivity", ()), ("library_obs_w_mu", ()), ("library_obs_w_log_sigma", ())),
    ],
)
def test_rv_13_parameters_and_buffers_by_name(outside, name, shape):
    assert getattr(single(outside).module, name).shape == shape
    module, learned = multi(outside).module, name in dict(single(outside).module.named_parameters())
    found = getattr(module, name) if learned else None
    for modality, n_vars in (("rna", G), ("atac", P)):
        if (name, modality) in {("additive_background", "atac"), ("feature_scaling", "rna")}:
            assert modality not in found
            continue
        value = found[modality] if learned else getattr(module, f"{name}_{modality}")
        assert value.shape == tuple(n_vars if size == G else size for size in shape)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["encoders", "decoders", "l_encoders"]),
        ({"latent_mode": "single_encoder"}, ["joint_encoder", "decoders", "l_encoders"]),
        ({"latent_mode": "weighted_mean", "modality_weights": "universal"}, ["encoders", "modality_weight_params"]),
        ({"latent_mode": "weighted_mean", "modality_weights": "cell"}, ["encoders", "modality_weight_net"]),
        ({"learnable_modality_scaling": True}, ["modality_scale_raw"]),
    ],
)
def test_rv_13_networks_of_the_multimodal_module_by_name(outside, options, names):
    module = multi(outside, **options).module
    assert isinstance(module, outside.RegularizedMultimodalVAE)
    assert module.modality_names == ["atac", "rna"] and module.n_latent_dict == {"atac": 4, "rna": 4}
    assert all(getattr(module, name) is not None for name in names)


def test_rv_13_starting_values(outside):
    module = single(outside).module
    theta, rate = module.px_r_mu.exp(), torch.nn.functional.softplus(module.dispersion_prior_rate_raw)
    assert theta.mean().item() == pytest.approx(9, rel=0.2) and rate.mean().item() == pytest.approx(3, rel=0.01)
    assert module.px_r_log_sigma.mean().item() == pytest.approx(np.log(0.1), abs=0.01)
    free = single(outside, bg_init_gene_fraction=None, additive_bg_prior_alpha=2.0, additive_bg_prior_beta=50.0).module
    assert free.additive_background.exp().mean().item() == pytest.approx(0.04, rel=0.05)
    assert single(outside, regularise_dispersion=False).module.px_r_mu.exp().median().item() < 3


@pytest.mark.parametrize(
    ("setup", "options"),
    [
        ({"batch_key": "batch"}, {"use_additive_background": False}),
        ({"batch_key": "batch"}, {"use_batch_in_decoder": True}),
        ({"batch_key": "batch"}, {"regularise_dispersion": False}),
        ({"batch_key": "batch", "nn_conditioning_covariate_keys": ["site", "donor"]}, {"compute_pearson": 1}),
        (PURPOSES, {}),
    ],
)
def test_rv_13_variants_train_through_the_shim(outside, setup, options):
    model = single(outside, setup, **options)
    model.train(**TRAIN)
    assert model.get_latent_representation().shape == (N, 4) and model.is_trained_
    assert ("pearson_gene_train" in model.history_) == ("compute_pearson" in options)
    if setup is PURPOSES:
        module = model.module
        assert module.n_cats_per_ambient_cov == [3, 2] and module.additive_background.shape == (G, 5)
        assert (module.n_dispersion_cats, module.n_library_cats) == (3, 4)


def test_rv_13_multimodal_trains_and_comes_back_from_disk(outside, tmp_path):
    model = multi(outside)
    model.train(**TRAIN)
    model.save(str(tmp_path / "model"))
    loaded = outside.RegularizedMultimodalVI.load(str(tmp_path / "model"), adata=model.adata, accelerator="cpu")
    np.testing.assert_array_equal(model.get_latent_representation(), loaded.get_latent_representation())
    assert set(model.get_modality_latents()) == {"rna", "atac", "__joint__"}


def test_rv_13_errors_carry_the_words_that_outside_code_looks_for(outside):
    cls, adata = outside.AmbientRegularizedSCVI, cells()
    with pytest.raises(ValueError, match="Either batch_key or ambient_covariate_keys"):
        cls.setup_anndata(adata, layer="counts")
    for key, value in PURPOSES.items():
        with pytest.raises(ValueError, match="batch_key cannot be combined"):
            cls.setup_anndata(adata, layer="counts", batch_key="batch", **{key: value})
    cls.setup_anndata(adata, layer="counts", batch_key="batch")
    for name in ("use_additive_background", "use_batch_in_decoder", "regularise_background", "compute_pearson"):
        with pytest.raises(TypeError, match=f"{name}.*must be bool"):
            cls(adata, **{name: "true"})
    with pytest.raises(NotImplementedError, match="setup_mudata"):
        outside.RegularizedMultimodalVI.setup_anndata(adata)
