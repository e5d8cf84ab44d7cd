import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

KEY = "hpvade_proportions"


@pytest.fixture
def bulk():
    p = np.random.default_rng(0).dirichlet([2, 3, 4], 5)
    bulk = ad.AnnData(obs=pd.DataFrame({"group": list("aabbb"), "age": range(5)}, index=[f"s{i}" for i in range(5)]))
    bulk.obsm[KEY] = pd.DataFrame(p, bulk.obs_names, ["T", "B", "NK"])
    for bound, factor in (("lower", 0.5), ("upper", 1.2)):
        bulk.obsm[f"{KEY}_{bound}"] = factor * bulk.obsm[KEY]
    return bulk


def test_long_table_is_the_wide_one_melted(bulk, unchanged):
    with unchanged(bulk):
        long = hp.tl.proportions_frame(bulk)
    assert list(long) == ["sample", "type", "proportion", "lower", "upper", "group", "age"]
    back = long.pivot(index="sample", columns="type", values="proportion")
    np.testing.assert_allclose(back[["T", "B", "NK"]], bulk.obsm[KEY])
    np.testing.assert_allclose(long["upper"], 1.2 * long["proportion"])
    assert (long["group"] == long["sample"].map(bulk.obs["group"])).all()
    assert list(long["type"].cat.categories) == ["T", "B", "NK"]


def test_a_column_that_repeats_the_names_is_no_clash(bulk):
    expected = hp.tl.proportions_frame(bulk)
    bulk.obs["sample"] = pd.Categorical(bulk.obs_names)
    pd.testing.assert_frame_equal(hp.tl.proportions_frame(bulk), expected)
    bulk.obs["sample"] = "biopsy"  # something else: not left out without a word
    with pytest.raises(ValueError, match="names of the table: sample"):
        hp.tl.proportions_frame(bulk)


def test_wide_table_and_chosen_columns(bulk):
    wide = hp.tl.proportions_frame(bulk, long=False, obs="age")
    assert list(wide) == ["T", "B", "NK", *(f"{t}_{b}" for b in ("lower", "upper") for t in ("T", "B", "NK")), "age"]
    np.testing.assert_allclose(wide["NK_lower"], 0.5 * bulk.obsm[KEY]["NK"])
    assert list(hp.tl.proportions_frame(bulk, obs=[])) == ["sample", "type", "proportion", "lower", "upper"]
    with pytest.raises(KeyError, match="no column sex; it has group, age"):
        hp.tl.proportions_frame(bulk, obs=["sex"])
    bulk.obs["type"] = "x"
    with pytest.raises(ValueError, match="names of the table: type"):
        hp.tl.proportions_frame(bulk)


def test_fractions_as_an_anndata(bulk, tmp_path):
    made = hp.tl.proportions_adata(bulk)
    np.testing.assert_allclose(made.X, bulk.obsm[KEY], rtol=1e-6)
    np.testing.assert_allclose(made.layers["lower"], 0.5 * bulk.obsm[KEY], rtol=1e-6)
    pd.testing.assert_frame_equal(made.obs, bulk.obs)
    assert list(made.var_names) == ["T", "B", "NK"]
    made.write_h5ad(tmp_path / "p.h5ad")
    made.obs["group"] = "changed"
    assert (bulk.obs["group"] != "changed").all()


def test_counts_are_whole_and_add_up(bulk):
    made = hp.tl.proportions_adata(bulk, n_cells=137)
    assert (np.round(made.X) == made.X).all() and (made.X.sum(axis=1) == 137).all()
    assert np.abs(made.X - 137 * bulk.obsm[KEY].to_numpy()).max() < 1
    np.testing.assert_allclose(made.layers["proportions"], bulk.obsm[KEY], rtol=1e-6)
    # exact shares stay exact; largest remainders go up
    bulk.obsm[KEY].iloc[0] = [0.5, 0.3, 0.2]
    bulk.obsm[KEY].iloc[1] = [1 / 3, 1 / 3, 1 / 3]
    np.testing.assert_array_equal(hp.tl.proportions_adata(bulk, n_cells=10).X[:2], [[5, 3, 2], [4, 3, 3]])


def test_skipped_and_wrong(bulk):
    with pytest.raises(ValueError, match="n_cells=0"):
        hp.tl.proportions_adata(bulk, n_cells=0)
    with pytest.raises(KeyError, match="no 'none'"):
        hp.tl.proportions_adata(bulk, "none")
    bulk.obsm[KEY].iloc[2] = np.nan
    with pytest.warns(UserWarning, match="s2"):
        assert list(hp.tl.proportions_adata(bulk).obs_names) == ["s0", "s1", "s3", "s4"]
    assert hp.tl.proportions_frame(bulk)["proportion"].isna().sum() == 3
    bulk.obsm[KEY].iloc[2] = [-0.1, 1, 0.1]
    with pytest.raises(ValueError, match="negative"):
        hp.tl.proportions_adata(bulk)
