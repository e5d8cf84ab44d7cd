"""Registration: what the registry holds, and what is refused before anything is written."""

import anndata as ad
import mudata as mu
import numpy as np
import pytest
from scipy import sparse

import hpvade as hp
from hpvade.models.ambient._setup import categories, category_names, gather_obs, read_layout

Single, Multi = hp.AmbientRegularizedSCVI, hp.RegularizedMultimodalVI


def registry(cls, data):
    return cls._get_most_recent_anndata_manager(data).registry


def test_rv_01_registry_names_and_what_the_user_passed(rna):
    Single.setup_anndata(rna, batch_key="batch", nn_conditioning_covariate_keys=["site"])
    found = registry(Single, rna)
    fields = found["field_registries"]
    assert {"X", "batch", "ambient_covs", "dispersion_cov", "library_size_cov", "feature_scaling_covs"} <= set(fields)
    assert found["setup_args"]["batch_key"] == "batch" and found["setup_args"]["ambient_covariate_keys"] is None
    assert categories(found, "ambient_covs") == {"batch": ["b0", "b1", "b2"]}
    assert categories(found, "dispersion_cov") == categories(found, "library_size_cov") == {"batch": ["b0", "b1", "b2"]}
    assert categories(found, "feature_scaling_covs") == {"site": ["s0", "s1"]}


def test_sizes_come_from_the_registry(rna):
    keys = {"ambient_covariate_keys": ["batch", "donor"], "dispersion_key": "site", "library_size_key": "donor"}
    Single.setup_anndata(rna, **keys, nn_conditioning_covariate_keys=["batch"], nn_continuous_covariate_keys=["age"])
    layout = read_layout(registry(Single, rna), {"rna": 40}, 90)
    assert (layout.ambient, layout.dispersion, layout.library) == ((3, 4), 2, 4)
    assert (layout.conditioning, layout.scaling, layout.encoder) == ((3,), (3,), ())
    assert (layout.n_batch, layout.n_continuous, layout.batch_is_group) == (1, 1, False)
    names = category_names(registry(Single, rna), "ambient_covs")
    assert names[:4] == ["batch: b0", "batch: b1", "batch: b2", "donor: d0"]


def test_technical_units_are_remembered(rna):
    rna.obs["study"] = "one"
    Single.setup_anndata(rna, library_key="batch", dataset_key="study", technical_covariate_keys=["site"])
    expected = {"library_key": "batch", "dataset_key": "study", "technical_covariate_keys": ["site"]}
    assert rna.uns["hpvade_technical_keys"] == expected


def negative(adata):
    adata.X[2, 3] = -1


def missing_value(adata):
    adata.X[2, 3] = np.nan


def logged(adata):
    adata.X = np.log1p(adata.X)


def duplicates(adata):
    adata.var_names = ["g0", *adata.var_names[:-1]]


def gap(adata):
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.iloc[:2, adata.obs.columns.get_loc("batch")] = None


@pytest.mark.parametrize(
    ("spoil", "setup", "error", "message"),
    [
        (negative, {}, ValueError, r"negative value \(-1\) at obs 'c2', var 'g3'"),
        (missing_value, {}, ValueError, "NaN at obs 'c2'"),
        (logged, {}, ValueError, "looks log-transformed"),
        (duplicates, {}, ValueError, "more than once"),
        (gap, {}, ValueError, r"obs\['batch'\] is missing .* for 2 of 90 cells"),
        (None, {"batch_key": "lane"}, KeyError, "batch_key='lane' is not a column"),
        (None, {"layer": "raw"}, KeyError, "layer 'raw'"),
        (None, {"ambient_covariate_keys": ["site"]}, ValueError, "batch_key cannot be combined"),
        (None, {"dataset_key": "site"}, ValueError, "lie in more than one data set"),
        (None, {"size_factor_key": "age"}, ValueError, "expected positive finite numbers"),
    ],
)
def test_rv_27_bad_input_is_refused_and_nothing_is_written(make, unchanged, spoil, setup, error, message):
    adata = make.rna()
    if spoil is not None:
        spoil(adata)
    with unchanged(adata), pytest.raises(error, match=message):
        Single.setup_anndata(adata, **{"batch_key": "batch"} | setup)


def test_rv_27_cells_without_counts_are_counted_by_library(rna):
    rna.X[[0, 3, 4]] = 0
    with pytest.warns(UserWarning, match=r"3 cells without any count, by library: \{'b0': 2, 'b1': 1\}"):
        Single.setup_anndata(rna, batch_key="batch")


def test_views_and_other_objects_are_refused(rna, mdata):
    with pytest.raises(ValueError, match="is a view"):
        Single.setup_anndata(rna[:5], batch_key="batch")
    with pytest.raises(TypeError, match="is a MuData of 'rna', 'atac'; expected one of them"):
        Single.setup_anndata(mdata, batch_key="batch")
    with pytest.raises(TypeError, match="is a AnnData; expected a MuData"):
        Multi.setup_mudata(rna, batch_key="batch")
    with pytest.raises(NotImplementedError, match="setup_mudata"):
        Multi.setup_anndata(rna, batch_key="batch")


def test_sparse_arrays_are_taken(rna):
    rna.X = sparse.csr_array(rna.X)
    Single.setup_anndata(rna, batch_key="batch")
    assert isinstance(rna.X, sparse.csr_matrix)


# ---------------------------------------------------------------- MuData


def test_mudata_registry(mdata):
    Multi.setup_mudata(mdata, modalities={"second": "atac", "first": "rna"}, batch_key="batch")
    fields = registry(Multi, mdata)["field_registries"]
    assert {"X_first", "X_second", "batch"} <= set(fields)
    assert fields["X_first"]["data_registry"]["mod_key"] == "rna"


def test_columns_are_found_in_mudata_or_in_a_modality(mdata):
    _, places = gather_obs(mdata, {"rna": "rna", "atac": "atac"}, ["batch", "site"])
    assert places == {"batch": None, "site": None}
    mdata.obs = mdata.obs[[]]
    table, places = gather_obs(mdata, {"rna": "rna", "atac": "atac"}, ["batch", "site"])
    assert places == {"batch": "rna", "site": "rna"} and len(table) == 90
    mdata.mod["rna"].obs = mdata.mod["rna"].obs[["batch"]]
    mdata.mod["atac"].obs = mdata.mod["atac"].obs[["site"]]
    with pytest.raises(KeyError, match="not in one place"):
        gather_obs(mdata, {"rna": "rna", "atac": "atac"}, ["batch", "site"])
    with pytest.raises(KeyError, match=r"columns \['lane'\] are neither"):
        gather_obs(mdata, {"rna": "rna", "atac": "atac"}, ["lane"])


def absent(mdata):
    mdata.mod["atac"].X[:] = 0


def nothing(mdata):
    mdata.mod["rna"].X[:3] = 0


def broken(mdata):
    mdata.mod["atac"].X[7, 2] = -2


@pytest.mark.parametrize(
    ("spoil", "setup", "error", "message"),
    [
        (absent, {}, ValueError, "modality 'atac' is absent from all 90 cells"),
        (nothing, {}, ValueError, "3 cells lack every modality, the first is 'c0'"),
        (broken, {}, ValueError, r"mdata\['atac'\].X holds a negative value"),
        (None, {"modalities": {"adt": "adt"}}, ValueError, r"modalities \['adt'\] are not in mdata.mod"),
        (None, {"size_factor_key": "age"}, ValueError, "size factors are not supported"),
        (None, {"layers": {"adt": "raw"}}, ValueError, "layers names unknown modalities"),
        (None, {"modalities": {"r.na": "rna"}}, ValueError, "contain a dot"),
        (None, {"batch_key": "lane"}, KeyError, "lane"),
        (None, {"dataset_key": "site"}, ValueError, "lie in more than one data set"),
    ],
)
def test_rv_27_bad_mudata_is_refused(make, spoil, setup, error, message):
    mdata = make.mdata()
    if spoil is not None:
        spoil(mdata)
    before = {name: set(mod.uns) | set(mod.obs) | set(mod.obsm) for name, mod in mdata.mod.items()}
    with pytest.raises(error, match=message):
        Multi.setup_mudata(mdata, **{"batch_key": "batch"} | setup)
    assert {name: set(mod.uns) | set(mod.obs) | set(mod.obsm) for name, mod in mdata.mod.items()} == before
    assert not mdata.uns


def test_rv_27_modalities_that_disagree_on_cells(make):
    with mu.set_options(pull_on_update=False):
        mdata = mu.MuData({"rna": make.rna(), "atac": make.rna(80, 20, 1, "p")})
    mdata.obs["batch"] = "b"
    with pytest.raises(ValueError, match="'atac' lacks 10 of 90 cells.* a row of zeros"):
        Multi.setup_mudata(mdata, batch_key="batch")


def test_unknown_categories_name_the_method(single, make):
    other = make.rna(30)
    other.obs["batch"] = "new"
    with pytest.raises(ValueError, match=r"obs\['batch'\] holds categories .*\['new'\].*load_query_data"):
        single.model.get_latent_representation(other)
    del other.obs["site"]
    other.obs["batch"] = "b0"
    with pytest.raises(KeyError, match="no column 'site'"):
        single.model.get_latent_representation(other)


def test_a_falsy_new_category_is_found(build, make):
    adata = make.rna()
    adata.obs["batch"] = [str(1 + i % 2) for i in range(90)]
    model = build(adata, epochs=1)
    other = make.rna(30)
    other.obs["batch"] = "0"
    with pytest.raises(ValueError, match=r"\['0'\]"):
        model.get_latent_representation(other)


def test_setup_leaves_an_anndata_of_counts_alone(rna):
    X = rna.X.copy()
    Single.setup_anndata(rna, batch_key="batch")
    np.testing.assert_array_equal(rna.X, X)
    assert isinstance(rna, ad.AnnData)
