"""RV-06: every public method of both models, inherited ones too, works or names what to use instead."""

import inspect
import warnings

import numpy as np
import pytest
import torch

import hpvade as hp

SHARED_CALLS = {
    "get_elbo": (),
    "get_reconstruction_error": (),
    "get_latent_representation": (),
    "get_normalized_expression": (),
    "get_ambient_profile": (),
    "get_ambient_fraction": (),
    "get_per_dim_kl": (),
    "get_feature_scaling": (),
    "get_clean_reference": (),
    "get_var_names": (),
    "view_anndata_setup": (),
    "view_registry": (),
    "view_setup_method_args": (),
    "get_setup_arg": ("batch_key",),
    "get_state_registry": ("batch",),
    "data_registry": ("batch",),
    "update_setup_method_args": ({"dataset_key": None},),
    "to_device": ("cpu",),
    "plot_training_diagnostics": (),
}
CALLS = {
    "AmbientRegularizedSCVI": {
        "get_dispersion": (),
        "get_library_size": (),
        "get_latent_library_size": (),
        "get_likelihood_parameters": (),
        "posterior_predictive_sample": (),
        "get_per_feature_reconstruction_loss": (),
    },
    "RegularizedMultimodalVI": {
        "get_dispersion": ("rna",),
        "get_modality_latents": (),
        "get_modality_attribution": (),
        "get_latent_library_size": (),
        "get_likelihood_parameters": (),
        "posterior_predictive_sample": (),
        "plot_modality_attribution": (),
    },
}
KEYWORDS = {"get_library_size": {"modality": "rna"}, "get_marginal_ll": {"n_mc_samples": 2}}
REFUSED = {
    "convert_legacy_save": (("a", "b"), NotImplementedError, "model.save"),
    "differential_abundance": ((), NotImplementedError, "get_latent_representation"),
    "get_aggregated_posterior": ((), NotImplementedError, "get_latent_representation"),
    "minify_adata": ((), ValueError, "get_latent_representation"),
}
REFUSED_BY = {
    "AmbientRegularizedSCVI": {
        "get_importance_weights": ((None, None), NotImplementedError, "differential_expression")
    },
    "RegularizedMultimodalVI": {
        "setup_anndata": ((), NotImplementedError, "setup_mudata"),
    },
}
ATTRIBUTES = {
    *("adata", "adata_manager", "device", "history", "is_trained", "registry", "run_id", "run_name", "summary_string"),
    *("test_indices", "train_indices", "validation_indices", "get_normalized_function_name"),
}
ELSEWHERE = {
    "AmbientRegularizedSCVI": {"setup_anndata"},
    "RegularizedMultimodalVI": {
        *("setup_mudata", "get_modality_weights", "store_attribution_results", "plot_attribution_scatter"),
        *("get_library_size", "get_per_feature_reconstruction_loss", "compute_attribution_umap"),
    },
}
TESTED = {
    *("train", "save", "load", "load_query_data", "compute_latent_umap", "load_registry", "view_setup_args"),
    "write_card",
    *("register_manager", "transfer_fields", "get_anndata_manager", "get_from_registry", "deregister_manager"),
    *("get_marginal_ll", "differential_expression", "get_feature_correlation_matrix"),
}
CLASSES = [hp.AmbientRegularizedSCVI, hp.RegularizedMultimodalVI]


@pytest.fixture
def which(request, single, multi):
    return {"AmbientRegularizedSCVI": single, "RegularizedMultimodalVI": multi}[request.param]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_public_name_is_in_a_table(cls):
    names = {name for name, _ in inspect.getmembers(cls) if not name.startswith("_")}
    name = cls.__name__
    tables = {*SHARED_CALLS, *CALLS[name], *REFUSED, *REFUSED_BY[name], *ATTRIBUTES, *ELSEWHERE[name], *TESTED}
    assert names <= tables
    assert tables - names <= {"differential_expression", "get_feature_correlation_matrix"}


def pairs(table):
    return [(cls.__name__, name) for cls in CLASSES for name in {**table(cls.__name__)}]


@pytest.mark.parametrize(
    ("which", "name"), pairs(lambda cls: SHARED_CALLS | CALLS[cls]), indirect=["which"], ids=lambda value: str(value)
)
def test_public_method_works(which, name, capsys):
    arguments = (SHARED_CALLS | CALLS["AmbientRegularizedSCVI"] | CALLS["RegularizedMultimodalVI"])[name]
    if name == "get_dispersion":
        arguments = ("rna",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        found = getattr(which.model, name)(*arguments)
    if name.startswith("view_"):
        assert capsys.readouterr().out
    elif name.startswith("get_") and isinstance(found, np.ndarray | torch.Tensor):
        assert (
            found.dtype.kind in "OUS"
            if isinstance(found, np.ndarray) and found.dtype.kind in "OUS"
            else np.isfinite(found).all()
        )


@pytest.mark.parametrize(("which", "name"), pairs(lambda cls: REFUSED | REFUSED_BY[cls]), indirect=["which"])
def test_refused_method_names_the_alternative(which, name):
    refused = REFUSED | REFUSED_BY[type(which.model).__name__]
    arguments, error, message = refused[name]
    with pytest.raises(error, match=message):
        getattr(which.model, name)(*arguments)


@pytest.mark.parametrize("which", [cls.__name__ for cls in CLASSES], indirect=True)
def test_attributes_and_registry(which):
    model = which.model
    assert model.is_trained and model.device == torch.device("cpu") and model.run_name
    assert model.get_normalized_function_name == "get_normalized_expression"
    assert set(model.train_indices) | set(model.validation_indices) == set(range(90))
    assert type(model).__name__ in repr(model) and "trained for 3 epochs; 90 cells x 40 " in repr(model)
    data = model.adata
    assert model.get_anndata_manager(data).registry == model.adata_manager.registry
    assert len(model.get_from_registry(data, "batch")) == 90
    assert model.registry["setup_args"]["batch_key"] == "batch"


@pytest.mark.parametrize("which", [cls.__name__ for cls in CLASSES], indirect=True)
def test_marginal_likelihood_is_below_nothing_but_finite_and_above_the_bound(which):
    """The importance-sampled likelihood converges from the bound upwards."""
    model = which.model
    bound, likelihood = (
        float(model.get_elbo()),
        float(model.get_marginal_ll(n_mc_samples=200, n_mc_samples_per_pass=20)),
    )
    assert np.isfinite(likelihood) and likelihood > bound


def test_differential_expression_finds_the_genes_that_differ(build, make):
    adata = make.rna(240)
    model = build(adata, epochs=30, train={"train_size": 1.0})
    table = model.differential_expression(
        groupby="cell_type", group1="type_0", group2="type_1", mode="change", silent=True
    )
    kind = (adata.obs["cell_type"] == "type_0").to_numpy()
    truth = np.log2((adata.X[kind].mean(0) + 0.1) / (adata.X[~kind].mean(0) + 0.1))
    assert np.corrcoef(table["lfc_mean"].loc[adata.var_names], truth)[0, 1] > 0.7
    with pytest.raises(NotImplementedError, match="weights='uniform'"):
        model.differential_expression(groupby="cell_type", group1="type_0", weights="importance", silent=True)


def test_posterior_predictive_samples_and_correlation(single):
    model, adata = single.model, single.adata
    drawn = model.posterior_predictive_sample(n_samples=20).todense()
    assert drawn.shape == (90, 40, 20) and (drawn == np.rint(drawn)).all()
    assert np.corrcoef(drawn.mean((0, 2)), adata.X.mean(0))[0, 1] > 0.8
    moved = model.posterior_predictive_sample(transform_batch="b1", gene_list=["g1", "g2"])
    assert moved.shape == (90, 2)
    table = model.get_feature_correlation_matrix(indices=range(30), n_samples=2, correlation_type="pearson")
    assert table.shape == (40, 40) and np.allclose(np.diag(table), 1)


def test_fields_can_be_transferred_and_forgotten(single, make):
    fresh = make.rna(30)
    manager = single.model.transfer_fields(fresh)
    np.testing.assert_array_equal(manager.get_from_registry("batch").ravel(), fresh.obs["batch"].cat.codes)
    hp.AmbientRegularizedSCVI.setup_anndata(fresh, batch_key="batch")
    single.model.deregister_manager(fresh)
    with pytest.raises(ValueError, match="set up"):
        hp.AmbientRegularizedSCVI(fresh)
    assert single.model.get_latent_representation(indices=[0]).shape == (1, 4)


def test_saved_registry_can_be_read(single, tmp_path, capsys):
    single.model.save(tmp_path / "m")
    cls = hp.AmbientRegularizedSCVI
    assert cls.load_registry(tmp_path / "m")["setup_args"]["batch_key"] == "batch"
    cls.view_setup_args(tmp_path / "m")
    assert "batch_key" in capsys.readouterr().out
