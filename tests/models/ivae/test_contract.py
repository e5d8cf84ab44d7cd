"""Every public method of IVAE, inherited ones too, works or names what to use instead."""

import inspect
import warnings

import numpy as np
import pytest
import torch

import hpvade as hp


def works(*arguments, **options):
    def check(model, name):
        assert getattr(model, name)(*arguments, **options) is not None

    return check


def refused(alternative, *arguments):
    def check(model, name):
        with pytest.raises(NotImplementedError, match=alternative):
            getattr(model, name)(*arguments)

    return check


def prints(model, name):
    assert getattr(model, name)() is None


def is_there(model, name):
    getattr(model, name)


def finite(model, name):
    found = getattr(model, name)()
    found = found["reconstruction_loss"] if isinstance(found, dict) else found
    assert np.isfinite(np.asarray(found)).all()


def elbo(model, name):
    """The bound is minus the reconstruction error and the divergence, at the same sample."""
    torch.manual_seed(0)
    bound = float(model.get_elbo())
    torch.manual_seed(0)
    error = float(model.get_reconstruction_error()["reconstruction_loss"])
    mean, variance = model.get_latent_representation(return_dist=True)
    kl = (-np.log(variance) / 2 + (variance + mean**2) / 2 - 0.5).sum(axis=1).mean()
    assert bound == pytest.approx(-error - kl, rel=1e-3)


def to_device(model, name):
    model.to_device("cpu")
    assert model.device == torch.device("cpu")


TESTED = "tests of their own"
CHECKS = {
    "adata": is_there,
    "adata_manager": is_there,
    "convert_legacy_save": refused("model.save", "a", "b"),
    "data_registry": works("X"),
    "deregister_manager": TESTED,
    "device": is_there,
    "differential_abundance": refused("get_latent_representation"),
    "differential_expression": TESTED,
    "get_aggregated_posterior": refused("get_latent_representation"),
    "get_anndata_manager": TESTED,
    "get_bottleneck_representation": finite,
    "get_elbo": elbo,
    "get_embeddings": works(),
    "get_feature_correlation_matrix": TESTED,
    "get_from_registry": TESTED,
    "get_iembed": finite,
    "get_importance_weights": TESTED,
    "get_latent": finite,
    "get_latent_library_size": refused("library_size='latent'"),
    "get_latent_representation": finite,
    "get_likelihood_parameters": works(),
    "get_loadings": finite,
    "get_marginal_ll": refused("get_elbo"),
    "get_metrics": finite,
    "get_normalized_expression": finite,
    "get_normalized_function_name": is_there,
    "get_reconstruction_error": finite,
    "get_setup_arg": works("labels_key"),
    "get_state_registry": works("batch"),
    "get_var_names": works(),
    "history": is_there,
    "is_trained": is_there,
    "load": TESTED,
    "load_registry": TESTED,
    "posterior_predictive_sample": works(indices=[0, 1]),
    "register_manager": TESTED,
    "registry": is_there,
    "run_id": is_there,
    "run_name": is_there,
    "save": TESTED,
    "setup_anndata": TESTED,
    "summary_string": is_there,
    "test_indices": is_there,
    "to_device": to_device,
    "train": TESTED,
    "train_indices": is_there,
    "transfer_fields": TESTED,
    "update_setup_method_args": TESTED,
    "validation_indices": is_there,
    "view_anndata_setup": prints,
    "view_registry": prints,
    "view_setup_args": TESTED,
    "view_setup_method_args": prints,
    "write_card": TESTED,  # tests/models/test_card.py
}


def test_every_public_name_is_in_the_table():
    assert {name for name, _ in inspect.getmembers(hp.IVAE) if not name.startswith("_")} == set(CHECKS)


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if check is not TESTED])
def test_public_method_works_or_names_an_alternative(embedded, name, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        CHECKS[name](embedded.model, name)
    if name.startswith("view_"):
        assert capsys.readouterr().out


NEED_DATA = ["get_latent_representation", "get_bottleneck_representation", "get_loadings", "get_metrics", "get_elbo"]
NEED_DATA += ["get_reconstruction_error", "get_normalized_expression", "differential_expression", "train"]


def test_without_data_the_error_is_clear(embedded, cells, tmp_path):
    embedded.model.save(tmp_path / "model")
    bare = hp.IVAE.load(tmp_path / "model", adata=False)
    for name in NEED_DATA:
        with pytest.raises(ValueError, match="without data|adata is None"):
            getattr(bare, name)()
    assert "without data" in repr(bare)
    assert hp.IVAE.load_registry(tmp_path / "model")["setup_args"]["labels_key"] == "cell_type"


def test_an_untrained_model_says_so(cells):
    adata = cells()
    hp.IVAE.setup_anndata(adata)
    model = hp.IVAE(adata)
    for name in NEED_DATA[:4] + ["get_normalized_expression", "get_iembed", "get_latent"]:
        with pytest.raises(RuntimeError, match="train"):
            getattr(model, name)()
    assert "not trained" in repr(model)
