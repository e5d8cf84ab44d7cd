"""Every public method of CycleAE, inherited ones too, works or names what to use instead."""

import inspect

import numpy as np
import pytest
import torch

import hpvade as hp


def refused(name, alternative):
    def check(model, adata):
        with pytest.raises(NotImplementedError, match=alternative):
            getattr(model, name)("a", "b")

    return check


def registry_view(model, adata):
    assert list(model.registry["setup_args"]["context_keys"]) == ["condition", "tissue", "sex"]
    codes = model.get_from_registry(adata, "context")
    np.testing.assert_array_equal(codes[:, 0], adata.obs["condition"].cat.codes)
    np.testing.assert_array_equal(model.data_registry("context") is not None, True)
    assert list(model.get_state_registry("context")["fields"]) == model.fields
    assert model.get_anndata_manager(adata).registry == model.adata_manager.registry


def transfer(model, adata):
    fresh = adata[:10].copy()
    codes = model.transfer_fields(fresh).get_from_registry("context")
    np.testing.assert_array_equal(codes[:, 2], fresh.obs["sex"].cat.codes)


def deregister(model, adata):
    fresh = hp.datasets.planted_contexts(n_cells=50, n_genes=150, seed=3)
    hp.CycleAE.setup_anndata(fresh, ["sex"])
    model.deregister_manager(fresh)
    with pytest.raises(ValueError, match="set up"):
        hp.CycleAE(fresh)


def split(name):
    return lambda model, adata: np.testing.assert_array_less(getattr(model, name), adata.n_obs)


def update(model, adata):
    model.update_setup_method_args({"layer": None})
    assert model.get_setup_arg("layer") is None


CHECKS = {
    "adata": lambda model, adata: model.adata is adata or pytest.fail("not the cells"),
    "adata_manager": registry_view,
    "convert_legacy_save": refused("convert_legacy_save", "model.save"),
    "data_registry": registry_view,
    "deregister_manager": deregister,
    "device": lambda model, adata: model.device == torch.device("cpu") or pytest.fail("device"),
    "differential_abundance": refused("differential_abundance", "get_context_effects"),
    "get_anndata_manager": registry_view,
    "get_from_registry": registry_view,
    "get_normalized_expression": refused("get_normalized_expression", "get_counterfactual_expression"),
    "get_normalized_function_name": lambda model, adata: isinstance(model.get_normalized_function_name, object),
    "get_setup_arg": update,
    "get_state_registry": registry_view,
    "get_var_names": lambda model, adata: np.testing.assert_array_equal(model.get_var_names(), adata.var_names),
    "history": lambda model, adata: {"train_loss", "validation_loss"} <= model.history.keys() or pytest.fail("no"),
    "is_trained": lambda model, adata: model.is_trained or pytest.fail("not trained"),
    "registry": registry_view,
    "run_id": lambda model, adata: model.run_id,
    "run_name": lambda model, adata: model.run_name,
    "summary_string": lambda model, adata: isinstance(model.summary_string, str | None) or pytest.fail("no text"),
    "test_indices": split("test_indices"),
    "to_device": lambda model, adata: model.to_device("cpu"),
    "train_indices": split("train_indices"),
    "transfer_fields": transfer,
    "update_setup_method_args": update,
    "validation_indices": split("validation_indices"),
    "view_anndata_setup": lambda model, adata: model.view_anndata_setup(),
    "view_registry": lambda model, adata: model.view_registry(),
    "view_setup_method_args": lambda model, adata: model.view_setup_method_args(),
}
IN_OTHER_TESTS = {"load", "load_registry", "save", "setup_anndata", "train", "fit_chunks", "register_manager"}
IN_OTHER_TESTS |= {"fields", "categories", "counterfactual", "get_counterfactual_expression", "get_context_effects"}
IN_OTHER_TESTS |= {"get_head_logits", "get_head_influence", "predict_context", "get_latent_representation"}
IN_OTHER_TESTS |= {"get_reconstruction_error", "translate_reference", "view_setup_args", "write_card"}


def test_every_public_name_is_in_the_table():
    names = {name for name, _ in inspect.getmembers(hp.CycleAE) if not name.startswith("_")}
    assert names == CHECKS.keys() | IN_OTHER_TESTS


@pytest.mark.parametrize("name", list(CHECKS))
def test_public_method_works_or_names_an_alternative(name, cycle, capsys):
    CHECKS[name](cycle.model, cycle.adata)
    if name.startswith("view_"):
        assert capsys.readouterr().out


def test_saved_registry_is_readable(cycle, tmp_path, capsys):
    cycle.model.save(tmp_path / "m")
    assert hp.CycleAE.load_registry(tmp_path / "m")["setup_args"]["missing"] == "category"
    hp.CycleAE.view_setup_args(tmp_path / "m")
    assert "context_keys" in capsys.readouterr().out
