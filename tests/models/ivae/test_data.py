"""IV-15: bad cells are refused with the remedy and stay as they are; other cells are aligned by gene name."""

import anndata as ad
import numpy as np
import pytest

import hpvade as hp


def with_value(value):
    def change(adata):
        X = adata.X.toarray()
        X[3, 5] = value
        adata.X = X

    return change


def empty_cells(adata):
    X = adata.X.toarray()
    X[[4, 9]] = 0
    adata.X = X


def in_obs(key, value, cell=2):
    def change(adata):
        column = adata.obs[key].astype(object if value is None or isinstance(value, str) else float)
        column.iloc[cell] = value
        adata.obs[key] = column

    return change


def same_names(adata):
    adata.var_names = ["g0", "g0", *[f"g{i}" for i in range(2, adata.n_vars)]]


BAD = {
    "unknown layer": (None, {"layer": "raw"}, KeyError, r"layer 'raw' is not in adata.layers; found \[\]"),
    "negative": (with_value(-1), {}, ValueError, "adata.X holds a negative value .* at obs 'cell_3'"),
    "NaN": (with_value(np.nan), {}, ValueError, "adata.X holds NaN at obs 'cell_3'"),
    "infinite": (with_value(np.inf), {}, ValueError, "adata.X holds an infinite value at obs"),
    "empty cells": (empty_cells, {}, ValueError, "2 cells without any count.*sc.pp.filter_cells"),
    "no batch column": (None, {"batch_key": "plate"}, KeyError, "batch_key='plate' is not a column of adata.obs"),
    "no labels column": (None, {"labels_key": "type"}, KeyError, "labels_key='type' is not a column"),
    "no covariate": (None, {"categorical_covariate_keys": ["sex", "x"]}, KeyError, r"categorical_covariate_keys\[1\]"),
    "missing covariate": (in_obs("sex", None), {"categorical_covariate_keys": ["sex"]}, ValueError, "missing .* 1 of"),
    "text as number": (None, {"continuous_covariate_keys": ["sex"]}, ValueError, "expected finite numbers"),
    "infinite covariate": (
        in_obs("age", np.inf),
        {"continuous_covariate_keys": ["age"]},
        ValueError,
        "is inf for cell",
    ),
    "size factor of zero": (in_obs("size", 0.0), {"size_factor_key": "size"}, ValueError, "finite numbers above 0"),
    "gene names twice": (same_names, {}, ValueError, "gene names more than once"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_iv_15_bad_cells_are_refused_and_unchanged(cells, unchanged, name):
    change, arguments, error, message = BAD[name]
    adata = cells()
    adata.obs_names = [f"cell_{i}" for i in range(adata.n_obs)]
    if change is not None:
        change(adata)
    with unchanged(adata), pytest.raises(error, match=message):
        hp.IVAE.setup_anndata(adata, **arguments)


def test_iv_15_views_are_refused(cells, unchanged):
    view = cells()[:10]
    with unchanged(view), pytest.raises(ValueError, match="adata.copy"):
        hp.IVAE.setup_anndata(view)


@pytest.mark.filterwarnings("ignore:.*unnormalized count data")
def test_iv_15_values_that_are_not_integers_warn(cells):
    adata = cells()
    adata.X = adata.X.log1p()
    with pytest.warns(UserWarning, match="holds values that are not integers"):
        hp.IVAE.setup_anndata(adata)


def test_a_warning_names_the_line_that_asked_though_scvi_tools_stands_between(cells, embed):
    model, logged = embed(cells(), 1), cells()
    logged.X = logged.X.log1p()
    with pytest.warns(UserWarning, match="holds values that are not integers") as caught:
        model.get_latent_representation(logged)
    assert [warning.filename for warning in caught if "not integers" in str(warning.message)] == [__file__]


def test_covariates_and_size_factor_reach_the_model(cells, embed):
    adata = cells()
    setup = {
        "batch_key": "batch",
        "size_factor_key": "size",
        "categorical_covariate_keys": ["sex", "donor"],
        "continuous_covariate_keys": ["age"],
    }
    model = embed(adata, 2, setup=setup)
    n_donors = adata.obs["donor"].nunique()
    assert model.module.vae.decoder.nn[0].in_features == 10 + 2 + 2 + n_donors + 1
    assert model.module.vae.encoder.nn[0].in_features == adata.n_vars
    own = model.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(own.sum(axis=1), adata.obs["size"], rtol=1e-4)


def test_other_genes_are_aligned_by_name(embedded, cells, unchanged):
    """Shuffled genes and genes that the model does not know give the same numbers, and the object stays as it is."""
    model, expected = embedded.model, embedded.model.get_latent_representation()
    adata = cells()
    more = ad.AnnData(adata.X[:, :3], obs=adata.obs, var={"gene": ["a", "b", "c"]})
    more.var_names = ["other_a", "other_b", "other_c"]
    both = ad.concat([adata, more], axis=1, merge="first")
    shuffled = both[:, np.random.default_rng(0).permutation(both.n_vars)].copy()
    for _ in range(2):
        with unchanged(shuffled):
            np.testing.assert_allclose(model.get_latent_representation(shuffled), expected, atol=1e-5)
            np.testing.assert_allclose(
                model.get_bottleneck_representation(shuffled, [5, 1]),
                model.get_bottleneck_representation(indices=[5, 1]),
                atol=1e-5,
            )
            table = model.get_normalized_expression(shuffled, [5, 1])
    assert list(table.columns) == list(embedded.adata.var_names)
    # scvi-tools keeps what was registered: one copy, not one per call
    managers = hp.IVAE._per_instance_manager_store[model.id]
    assert sum(manager.adata.n_obs == 400 and manager.adata is not embedded.adata for manager in managers.values()) == 1


def test_iv_15_missing_genes_are_counted_and_named(embedded, cells, unchanged):
    adata = cells()
    gone = list(adata.var_names[[3, 4, 5, 60]])
    less = adata[:, ~adata.var_names.isin(gone)].copy()
    with unchanged(less), pytest.raises(ValueError, match=f"4 of the 150 genes .* for example {', '.join(gone[:3])}"):
        embedded.model.get_latent_representation(less)


def test_other_cells_are_checked_too(embedded, cells, unchanged):
    adata = cells()
    with_value(np.nan)(adata)
    with unchanged(adata), pytest.raises(ValueError, match="holds NaN"):
        embedded.model.get_latent_representation(adata)
    adata = cells()
    del adata.obs["batch"]
    with unchanged(adata), pytest.raises(KeyError, match="batch_key='batch' is not a column"):
        embedded.model.get_latent_representation(adata)


def test_other_cells_need_no_labels(embedded, cells):
    adata = cells()
    del adata.obs["cell_type"]
    found = embedded.model.get_latent_representation(adata)
    np.testing.assert_allclose(found, embedded.model.get_latent_representation(), atol=1e-5)
