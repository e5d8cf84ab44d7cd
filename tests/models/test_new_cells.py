"""Cells for a trained model: bad ones are refused by name in every family, and stay as they were."""

import inspect
import warnings

import numpy as np
import pytest
from scipy import sparse

import hpvade as hp

NEEDED = {
    ("hpvade", "simulate_bulk"): {"n_samples": 2},
    ("cvae", "get_counterfactual_expression"): {"perturbation": "condition_1"},
    ("cvae", "perturbation_effects"): {"min_cells": 1},
    ("cycleae", "get_counterfactual_expression"): {"context": {}},
    ("cycleae", "counterfactual"): {"context": {}},
}
INTERNAL = "get_importance_weights"  # of outputs of the module, which scvi-tools passes
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def cells():
    return hp.datasets.planted_contexts(60, 20, seed=0)


@pytest.fixture(scope="module")
def trained(families, cells):
    """A model of every family that is asked for AnnData."""
    made = {name: families[name](cells.copy()) for name in ("hpvade", "ambient", "cvae", "cycleae", "ivae")}
    for model in made.values():
        model.train(1, **QUIET)
    return made


def spoiled(cells, value):
    adata = cells.copy()
    X = adata.X.toarray().astype(np.float64)
    X[4, 3] = value
    adata.X = X
    return adata


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cvae", "cycleae", "ivae"])
@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "NaN at obs 'cell_4'"), (-1, "negative"), (np.inf, "infinite"), (1e30, "sums to 1e.30 at obs 'cell_4'")],
)
def test_values_that_no_model_takes_are_named(name, value, message, trained, cells, unchanged):
    adata = spoiled(cells, value)
    with unchanged(adata), pytest.raises(ValueError, match=message):
        trained[name].get_latent_representation(adata)


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cvae", "cycleae", "ivae"])
def test_cells_without_matrix_or_rows(name, trained, cells, unchanged):
    empty = cells.copy()
    empty.X = None
    for adata in (empty, cells[:0].copy()):
        with unchanged(adata), pytest.raises(ValueError, match=r"X is empty|no cells|is empty|adata.X"):
            trained[name].get_latent_representation(adata)
    with pytest.raises(TypeError, match="expected an AnnData"):
        trained[name].get_latent_representation(cells.X)


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cvae", "cycleae", "ivae"])
def test_few_cells_of_any_storage_answer_without_a_warning(name, trained, cells):
    expected = trained[name].get_latent_representation(cells.copy())
    for make in (sparse.csr_array, sparse.csc_matrix, lambda X: X.toarray()):
        some = cells[[3, 8]].copy()
        some.X = make(some.X)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found = trained[name].get_latent_representation(some)
        np.testing.assert_allclose(found, expected[[3, 8]], rtol=1e-3, atol=1e-4)


def test_a_category_that_the_model_does_not_know(trained, cells, unchanged):
    adata = cells.copy()
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).replace({"type_0": "new"})
    with (
        unchanged(adata),
        pytest.raises(ValueError, match="do not fit the model: .*new"),
    ):
        trained["hpvade"].get_latent_representation(adata)


def test_the_registry_of_cells_by_name(trained, cells):
    found = trained["hpvade"].get_from_registry(cells.copy(), "X")
    np.testing.assert_array_equal(found.toarray(), cells.X.toarray())
    with pytest.raises(KeyError, match=r"'y' is not in the registry; found \['X'"):
        trained["hpvade"].get_from_registry(cells, "y")


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cycleae", "ivae"])
def test_a_view_stays_a_view(name, trained, cells):
    view = cells[5:30]
    expected = trained[name].get_latent_representation(cells[5:30].copy())
    np.testing.assert_allclose(trained[name].get_latent_representation(view), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"is a view of another object; run `adata = adata.copy\(\)` first"):
        trained[name].transfer_fields(view)
    assert view.is_view


def test_half_precision_is_augmented_as_single(trained, cells):
    half = cells.copy()
    half.X = half.X.toarray().astype(np.float16)
    single = half.copy()
    single.X = single.X.astype(np.float32)
    found, expected = (trained["cvae"].augment_reference(a, min_cells=30, seed=0) for a in (half, single))
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())


def test_a_context_that_is_no_dict(trained):
    with pytest.raises(TypeError, match="context is a NoneType; expected a dict"):
        trained["cycleae"].get_counterfactual_expression(context=None)


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cvae", "cycleae", "ivae"])
def test_every_method_refuses_positions_that_are_none(name, trained):
    model, asked = trained[name], 0
    for method in dir(type(model)):
        found = getattr(type(model), method)
        if method.startswith("_") or method == INTERNAL or not callable(found):
            continue
        if "indices" not in inspect.signature(found).parameters:
            continue
        call, needed = getattr(model, method), NEEDED.get((name, method), {})
        try:
            call(indices=np.arange(40), **needed)
        except NotImplementedError:
            continue  # refused for any cells
        asked += 1
        with pytest.raises(ValueError, match="indices choose none of 60 cells; expected one or more"):
            call(indices=[], **needed)
        for wrong in ([60], ["cell_0"], np.ones(59, dtype=bool)):
            with pytest.raises(IndexError, match="indices do not fit 60 cells: .*Expected positions from 0 to 59"):
                call(indices=wrong, **needed)
    assert asked >= 3


@pytest.mark.parametrize("name", ["hpvade", "ambient", "cvae", "cycleae"])
def test_logged_cells_are_refused(name, trained, cells, unchanged):
    logged = cells.copy()
    logged.X = logged.X.log1p()
    with unchanged(logged), pytest.raises(ValueError, match="X looks log-transformed or scaled"):
        trained[name].get_latent_representation(logged)


def test_ivae_warns_of_logged_cells_as_at_setup(trained, cells):
    logged = cells.copy()
    logged.X = logged.X.log1p()
    with pytest.warns(UserWarning, match="holds values that are not integers"):
        trained["ivae"].get_latent_representation(logged)


def test_values_on_a_linear_scale_that_are_not_whole_are_taken(trained, cells):
    scaled = cells.copy()
    scaled.X = scaled.X * np.float32(0.7)
    assert scaled.X.max() > 20
    assert np.isfinite(trained["ambient"].get_latent_representation(scaled)).all()
