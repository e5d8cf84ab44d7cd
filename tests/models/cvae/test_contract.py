"""Every public method of ConditionalVAE, inherited ones too, works or names what to use instead."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp

TESTED_BY_ROW = {
    *(
        "augment_reference",
        "export_checkpoint",
        "generate",
        "write_card",
        "get_counterfactual_expression",
        "load",
        "perturbation_effects",
    ),
    *(
        "load_trained_model",
        "predict",
        "predict_cell_type",
        "predict_perturbation_effect",
        "save",
        "setup_anndata",
        "train",
    ),
    *("load_registry", "register_manager", "view_setup_args"),  # of BaseModel: tests/models/test_base.py
}


def refused(name, alternative, *arguments):
    def check(model, adata):
        with pytest.raises(NotImplementedError, match=alternative):
            getattr(model, name)(*arguments)

    return check


def per_cell(name, shape, **kwargs):
    def check(model, adata):
        found = np.asarray(getattr(model, name)(indices=[3, 1, 4], **kwargs))
        assert found.shape == shape and np.isfinite(found).all()

    return check


def differential_expression(model, adata):
    torch.manual_seed(0)
    table = model.differential_expression(groupby="perturbation", group1="drug_a", group2="control")
    assert set(table.index) == set(adata.var_names) and table["bayes_factor"].notna().all()


def posterior_predictive(model, adata):
    found = model.posterior_predictive_sample(indices=[0, 1], n_samples=3)
    assert found.shape == (2, 100, 3)


def correlation(model, adata):
    table = model.get_feature_correlation_matrix(indices=np.arange(60), n_samples=2)
    assert table.shape == (100, 100)
    np.testing.assert_allclose(np.diag(table), 1)


def likelihood_parameters(model, adata):
    found = model.get_likelihood_parameters(indices=[0, 1])
    assert found["mean"].shape == (2, 100) and (found["dispersions"] > 0).all()


def elbo(model, adata):
    torch.manual_seed(0)
    each = np.asarray(model.get_elbo(return_mean=False))
    assert each.shape == (720,) and np.isfinite(each).all()


def registry(model, adata):
    assert model.registry["setup_args"]["labels_key"] == "cell_type"
    assert model.get_state_registry("perturbation")["original_key"] == "perturbation"
    assert model.get_setup_arg("control_category") == "control"
    np.testing.assert_array_equal(model.data_registry("labels").ravel(), adata.obs["cell_type"].cat.codes)
    np.testing.assert_array_equal(model.get_from_registry(adata, "labels"), model.data_registry("labels"))
    assert model.get_anndata_manager(adata).registry == model.adata_manager.registry


def transfer(model, adata):
    fresh = adata[:90].copy()
    fresh.uns.clear()  # scvi's id of the object it was copied from
    assert model.transfer_fields(fresh).get_from_registry("perturbation").shape == (90, 1)
    keys = {"perturbation_key": "perturbation", "experiment_key": "experiment"}
    hp.ConditionalVAE.setup_anndata(fresh, "cell_type", **keys)
    model.get_latent_representation(fresh, indices=[0])
    model.deregister_manager(fresh)
    assert model.get_latent_representation(indices=[0]).shape == (1, 8)


def names(model, adata):
    assert model.cell_types == ["B", "Mono", "T"] and model.perturbations == ["control", "drug_a", "drug_b"]
    assert model.experiments == ["exp_0", "exp_1"]
    np.testing.assert_array_equal(model.get_var_names(), adata.var_names)
    assert model.get_normalized_function_name == "get_normalized_expression"


def state(model, adata):
    assert model.is_trained and model.device == torch.device("cpu") and "ConditionalVAE" in repr(model)
    model.to_device("cpu")
    assert set(model.train_indices) | set(model.validation_indices) | set(model.test_indices) == set(range(720))
    assert isinstance(model.run_id, str) and isinstance(model.run_name, str)
    assert isinstance(model.summary_string, str | None)
    model.update_setup_method_args({"layer": None})
    assert model.adata is adata and {"train_loss", "validation_loss"} <= model.history.keys()


def views(model, adata):
    for name in ("view_anndata_setup", "view_registry", "view_setup_method_args"):
        assert getattr(model, name)() is None


CHECKS = {
    "convert_legacy_save": refused("convert_legacy_save", "model.save", "a", "b"),
    "differential_abundance": refused("differential_abundance", "get_latent_representation"),
    "differential_expression": differential_expression,
    "get_aggregated_posterior": refused("get_aggregated_posterior", "get_latent_representation"),
    "get_elbo": elbo,
    "get_feature_correlation_matrix": correlation,
    "get_importance_weights": refused("get_importance_weights", "predict"),
    "get_latent_library_size": refused("get_latent_library_size", "get_counterfactual_expression"),
    "get_latent_representation": per_cell("get_latent_representation", (3, 8)),
    "get_likelihood_parameters": likelihood_parameters,
    "get_marginal_ll": refused("get_marginal_ll", "get_elbo"),
    "get_normalized_expression": per_cell("get_normalized_expression", (3, 100)),
    "get_reconstruction_error": lambda model, adata: (
        np.isfinite(float(model.get_reconstruction_error()["reconstruction_loss"])) or pytest.fail("not finite")
    ),
    "posterior_predictive_sample": posterior_predictive,
    **dict.fromkeys(
        ["cell_types", "perturbations", "experiments", "get_var_names", "get_normalized_function_name"], names
    ),
    **dict.fromkeys(
        ["registry", "get_state_registry", "get_setup_arg", "data_registry", "get_from_registry"], registry
    ),
    **dict.fromkeys(["get_anndata_manager", "adata_manager"], registry),
    **dict.fromkeys(["transfer_fields", "deregister_manager"], transfer),
    **dict.fromkeys(
        ["is_trained", "device", "to_device", "train_indices", "validation_indices", "test_indices"], state
    ),
    **dict.fromkeys(["run_id", "run_name", "summary_string", "update_setup_method_args", "adata", "history"], state),
    **dict.fromkeys(["view_anndata_setup", "view_registry", "view_setup_method_args"], views),
}


def test_every_public_name_is_in_the_table():
    found = {name for name, _ in inspect.getmembers(hp.ConditionalVAE) if not name.startswith("_")}
    assert found == set(CHECKS) | TESTED_BY_ROW


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_public_method_works_or_names_an_alternative(name, trained, capsys):
    CHECKS[name](trained.model, trained.adata)


NEED_DATA = {
    "augment_reference": {"min_cells": 3},
    "get_counterfactual_expression": {},
    "get_elbo": {},
    "get_latent_representation": {},
    "get_normalized_expression": {},
    "perturbation_effects": {},
    "predict": {},
    "train": {},
}


@pytest.mark.parametrize("name", NEED_DATA)
def test_without_data_the_error_is_clear(saved, name):
    model = hp.ConditionalVAE.load(saved, adata=False)
    with pytest.raises(ValueError, match="without data"):
        getattr(model, name)(**NEED_DATA[name])


def test_without_data_new_cells_are_enough(saved, trained):
    model = hp.ConditionalVAE.load(saved, adata=False)
    fresh = trained.adata[:50].copy()
    pd.testing.assert_series_equal(model.predict(fresh), trained.model.predict(indices=np.arange(50)))
    assert model.adata is None
    assert model.perturbation_effects(fresh, min_cells=2)["n_cells"].min() >= 2


def test_mse_has_no_count_distribution(cells, fit):
    model = fit(cells(90), 1, likelihood="mse")
    for name in ("get_normalized_expression", "get_likelihood_parameters", "differential_expression"):
        with pytest.raises(NotImplementedError, match="get_counterfactual_expression"):
            getattr(model, name)(**({"groupby": "perturbation"} if name.startswith("diff") else {}))
