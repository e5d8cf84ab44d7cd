"""Every public method of HPVADE, inherited ones too, works or names what to use instead."""

import inspect
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scvi.model.base import BaseModelClass, VAEMixin

import hpvade as hp

LITERAL_REFUSES = {"get_normalized_expression"}


def latent(model, adata):
    z = model.get_latent_representation()
    assert z.shape == (adata.n_obs, 32) and np.isfinite(z).all()
    mean, variance = model.get_latent_representation(indices=[5, 1, 3], return_dist=True)
    np.testing.assert_allclose(mean, z[[5, 1, 3]], atol=1e-5)
    assert (variance > 0).all()
    mask = np.isin(np.arange(adata.n_obs), [1, 3, 5])
    np.testing.assert_allclose(model.get_latent_representation(indices=mask), z[[1, 3, 5]], atol=1e-5)


def elbo(model, adata):
    """Scvi's function of this name returns the bound: minus the reconstruction error and the divergence."""
    torch.manual_seed(0)
    each = model.get_elbo(return_mean=False)
    assert each.shape == (adata.n_obs,) and np.isfinite(np.asarray(each)).all()
    torch.manual_seed(0)
    assert float(model.get_elbo()) == pytest.approx(float(np.mean(np.asarray(each))), rel=1e-4)


def reconstruction_error(model, adata):
    error = model.get_reconstruction_error(batch_size=64)["reconstruction_loss"]
    assert np.isfinite(float(error))


def normalized_expression(model, adata):
    table = model.get_normalized_expression(library_size=100)
    assert table.shape == (adata.n_obs, 300) and (table >= 0).all(axis=None)
    np.testing.assert_allclose(table.sum(axis=1), 100, rtol=1e-4)


def signature(model, adata):
    pd.testing.assert_frame_equal(model.get_signature_matrix(), adata.varm["hpvade_signatures"])


def hierarchy(model, adata):
    groups = model.get_hierarchy()["level_1"]
    assert list(groups.index) == model.cell_types and 1 < groups.nunique() < 4


def spillover(model, adata):
    table = model.get_spillover(n_cohorts=1)
    assert list(table.index) == list(table.columns) == model.cell_types
    np.testing.assert_allclose(table.sum(axis=1), 1)


def simulate(model, adata):
    assert model.simulate_bulk(3, n_cells=10, seed=0).shape == (3, 300)


def split(name):
    def check(model, adata):
        assert set(getattr(model, name)) <= set(range(adata.n_obs))

    return check


def prints(name, *arguments):
    def check(model, adata):
        assert getattr(model, name)(*arguments) is None

    return check


def refused(name, alternative, *arguments):
    def check(model, adata):
        with pytest.raises(NotImplementedError, match=alternative):
            getattr(model, name)(*arguments)

    return check


def deregister(model, adata):
    """Forgets the object that is named, and no other."""
    fresh = hp.datasets.planted_cohort(n_types=4, n_genes=300, n_cells=480, n_samples=12, seed=1)[0]
    model.get_latent_representation(fresh, indices=[0])
    hp.HPVADE.setup_anndata(fresh, "cell_type")
    model.deregister_manager(fresh)
    with pytest.raises(ValueError, match="set up"):
        hp.HPVADE(fresh)
    assert model.get_latent_representation(indices=[0]).shape == (1, 32)


def equals(name, value):
    def check(model, adata):
        found = getattr(model, name)
        assert (found(*value[0]) if isinstance(value, tuple) else found) == (
            value[1] if isinstance(value, tuple) else value
        )

    return check


def registry_view(model, adata):
    assert model.registry["setup_args"]["labels_key"] == "cell_type"
    assert model.get_state_registry("labels")["original_key"] == "cell_type"
    found = model.data_registry("labels").ravel()
    np.testing.assert_array_equal(found, adata.obs["cell_type"].cat.codes)
    np.testing.assert_array_equal(model.get_from_registry(adata, "labels").ravel(), found)
    found = model.get_anndata_manager(adata)
    assert found.adata is adata and found.registry == model.adata_manager.registry


def transfer(model, adata):
    fresh = hp.datasets.planted_cohort(n_types=4, n_genes=300, n_cells=480, n_samples=12, seed=1)[0]
    manager = model.transfer_fields(fresh)
    np.testing.assert_array_equal(manager.get_from_registry("labels").ravel(), fresh.obs["cell_type"].cat.codes)


def update_arguments(model, adata):
    model.update_setup_method_args({"layer": None})
    assert model.registry["setup_args"]["layer"] is None


def device(model, adata):
    assert model.device == torch.device("cpu")
    model.to_device("cpu")


def summary(model, adata):
    assert "HPVADE" in repr(model) and isinstance(model.summary_string, str | None)


CHECKS = {
    "adata": lambda model, adata: model.adata is adata or pytest.fail("not the reference"),
    "adata_manager": registry_view,
    "calibrate": None,  # tests/models/hpvade/test_calibration.py
    "cell_types": equals("cell_types", [f"type_{k}" for k in range(4)]),
    "convert_legacy_save": refused("convert_legacy_save", "model.save", "a", "b"),
    "data_registry": registry_view,
    "deconvolve": None,  # tests/models/hpvade
    "deconvolve_hierarchy": None,  # tests/models/hpvade/test_hierarchy.py
    "deregister_manager": deregister,
    "device": device,
    "differential_abundance": refused("differential_abundance", "get_latent_representation"),
    "evaluate": None,
    "get_aggregated_posterior": refused("get_aggregated_posterior", "get_latent_representation"),
    "get_anndata_manager": registry_view,
    "get_cell_type_expression": None,  # tests/models/hpvade/test_expression.py
    "get_detection_limits": None,  # tests/models/hpvade/test_detection.py
    "get_elbo": elbo,
    "get_from_registry": registry_view,
    "get_hierarchy": hierarchy,
    "get_latent_representation": latent,
    "get_marginal_ll": refused("get_marginal_ll", "get_elbo"),
    "get_normalized_expression": normalized_expression,
    "get_normalized_function_name": equals("get_normalized_function_name", "get_normalized_expression"),
    "fit_platform": None,  # tests/models/hpvade/test_platform.py
    "get_study_proportions": None,  # tests/models/hpvade/test_studies.py
    "studies": None,  # the same
    "get_variable_profiles": None,  # tests/models/hpvade/test_variable_profiles.py
    "get_proportion_intervals": None,  # tests/models/hpvade/test_intervals.py
    "get_reconstruction_error": reconstruction_error,
    "get_setup_arg": equals("get_setup_arg", (("sample_key",), "donor")),
    "get_signature_matrix": signature,
    "get_spillover": spillover,
    "get_state_registry": registry_view,
    "get_var_names": lambda model, adata: np.testing.assert_array_equal(model.get_var_names(), adata.var_names),
    "history": lambda model, adata: {"train_loss", "validation_loss"} <= model.history.keys() or pytest.fail("no"),
    "is_trained": equals("is_trained", True),
    "load": None,
    "load_registry": None,
    "register_manager": None,  # used by every setup
    "registry": registry_view,
    "remove_calibration": None,  # tests/models/hpvade/test_calibration.py
    "run_id": lambda model, adata: model.run_id,
    "run_name": lambda model, adata: model.run_name,
    "save": None,
    "setup_anndata": None,
    "simulate_bulk": simulate,
    "summary_string": summary,
    "test_indices": split("test_indices"),
    "to_device": device,
    "train": None,
    "train_indices": split("train_indices"),
    "transfer_fields": transfer,
    "update_setup_method_args": update_arguments,
    "validation_indices": split("validation_indices"),
    "view_anndata_setup": prints("view_anndata_setup"),
    "view_registry": prints("view_registry"),
    "view_setup_args": None,
    "view_setup_method_args": prints("view_setup_method_args"),
    "write_card": None,  # tests/models/test_card.py
}


def test_every_public_name_is_in_the_table():
    names = {name for name, _ in inspect.getmembers(hp.HPVADE) if not name.startswith("_")}
    assert names == set(CHECKS)


@pytest.mark.parametrize("preset", ["trained", "literal"])
@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if check is not None])
def test_public_method_works_or_names_an_alternative(name, preset, request, capsys):
    which = request.getfixturevalue(preset)
    if preset == "literal" and name in LITERAL_REFUSES:
        with pytest.raises(NotImplementedError, match="preset='default'"):
            getattr(which.model, name)()
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        CHECKS[name](which.model, which.reference)
    if name.startswith("view_"):
        assert capsys.readouterr().out


NEED_DATA = {
    "get_latent_representation": (),
    "get_elbo": (),
    "get_reconstruction_error": (),
    "get_normalized_expression": (),
    "simulate_bulk": (3,),
    "train": (),
    "data_registry": ("X",),
    "deregister_manager": (),
    "view_registry": (),
    "view_anndata_setup": (),
}


@pytest.mark.parametrize("name", NEED_DATA)
def test_without_data_the_error_is_clear(saved, name):
    model = hp.HPVADE.load(saved, adata=False)
    with pytest.raises(ValueError, match="without data|has no AnnData|adata is None"):
        getattr(model, name)(*NEED_DATA[name])


def test_without_data_methods_take_cells_or_need_none(saved, trained, planted):
    model = hp.HPVADE.load(saved, adata=False)
    assert model.history.keys() == trained.model.history.keys()
    np.testing.assert_array_equal(model.get_var_names(), trained.reference.var_names)
    assert model.get_setup_arg("labels_key") == "cell_type"
    np.testing.assert_array_equal(model.train_indices, trained.model.train_indices)
    cells, _ = planted()
    expected = trained.model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(cells), expected)


def test_untrained_model_says_so(planted):
    adata, _ = planted()
    hp.HPVADE.setup_anndata(adata, "cell_type")
    model = hp.HPVADE(adata)
    for name in ("get_latent_representation", "get_normalized_expression"):
        with pytest.raises(RuntimeError, match="train"):
            getattr(model, name)()
    assert "not trained" in repr(model) and model.history is None or model.history == {}


# ---------------------------------------------------------------- expression of cells


def test_normalized_expression_batches_and_library(trained):
    model, adata = trained.model, trained.reference
    plain = model.get_normalized_expression()
    own = model.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(own.sum(axis=1), np.asarray(adata.X.sum(axis=1)).ravel(), rtol=1e-4)
    np.testing.assert_allclose(own.div(own.sum(axis=1), axis=0), plain, rtol=1e-3, atol=1e-7)
    as_batch = {name: model.get_normalized_expression(transform_batch=name) for name in ("batch_0", "batch_1")}
    batch = adata.obs["batch"].to_numpy()
    for name, table in as_batch.items():
        np.testing.assert_allclose(table[batch == name], plain[batch == name], rtol=1e-4, atol=1e-8)
        assert np.abs(table[batch != name] - plain[batch != name]).to_numpy().max() > 1e-5
    with pytest.raises(ValueError, match=r"expected one of \['batch_0', 'batch_1'\]"):
        model.get_normalized_expression(transform_batch="batch_2")


def test_normalized_expression_denoises(trained):
    """Closer to the planted profile of the cell's type than the counts are."""
    model, adata = trained.model, trained.reference
    profile = adata.varm["signature"] / adata.varm["signature"].sum()
    truth = profile.to_numpy().T[adata.obs["cell_type"].cat.codes]
    counts = adata.X.toarray() / adata.X.sum(axis=1)
    error = np.abs(model.get_normalized_expression() - truth).to_numpy().mean()
    assert error < 0.5 * np.abs(np.asarray(counts) - truth).mean()


@pytest.mark.parametrize(
    "indices", [[7, 2, 300, 2], np.arange(480) % 7 == 3, [-1, 0]], ids=["list", "mask", "negative"]
)
def test_cells_come_in_the_order_asked_for(trained, indices):
    adata = trained.reference
    every = trained.model.get_normalized_expression()
    found = trained.model.get_normalized_expression(indices=indices)
    assert list(found.index) == list(adata.obs_names[indices])
    np.testing.assert_allclose(found, every.loc[found.index], rtol=1e-4, atol=1e-8)


def test_backed_cells_come_in_the_order_asked_for(trained, planted, tmp_path):
    """Scvi reads cells of backed data in the order of the file."""
    planted()[0].write_h5ad(tmp_path / "ref.h5ad")
    backed = ad.read_h5ad(tmp_path / "ref.h5ad", backed="r")
    model, indices = trained.model, [300, 7, 450, 7, 2]
    np.testing.assert_allclose(
        model.get_latent_representation(backed, indices), model.get_latent_representation()[indices], atol=1e-5
    )
    means = model.get_latent_representation(backed, indices, return_dist=True)[0]
    np.testing.assert_allclose(means, model.get_latent_representation()[indices], atol=1e-5)
    found = model.get_normalized_expression(backed, indices)
    assert list(found.index) == list(backed.obs_names[indices])
    np.testing.assert_allclose(found, model.get_normalized_expression(indices=indices), rtol=1e-4, atol=1e-8)


def test_cells_of_another_object_are_read_by_name(trained, planted):
    """Other cells of the same genes work; other genes, or another order, are refused."""
    cells, _ = planted()
    some = cells[100:140].copy()
    np.testing.assert_allclose(
        trained.model.get_latent_representation(some), trained.model.get_latent_representation()[100:140], atol=1e-5
    )
    for other in (cells[:, ::-1].copy(), cells[:, 1:].copy()):
        with pytest.raises(ValueError, match="genes of the model"):
            trained.model.get_normalized_expression(other)


def test_overridden_methods_take_scvis_arguments():
    """Positions and names of scvi's parameters are kept where a method is overridden with named ones."""
    for base, name in ((VAEMixin, "get_latent_representation"), (BaseModelClass, "save"), (BaseModelClass, "load")):
        ours, theirs = (list(inspect.signature(getattr(cls, name)).parameters) for cls in (hp.HPVADE, base))
        shared = [parameter for parameter in ours if parameter in theirs and parameter not in ("kwargs",)]
        assert shared == theirs[: len(shared)]
