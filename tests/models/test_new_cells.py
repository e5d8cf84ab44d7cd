"""Cells for a trained model: bad ones are refused by name in every family, and stay as they were."""

import warnings

import numpy as np
import pytest
from scipy import sparse

import hpvade as hp

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
