import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

T = ["CD4 T", "CD8 T", "NK"]


@pytest.fixture(scope="module")
def anchor():
    return hp.datasets.blood_anchor()


@pytest.fixture(scope="module")
def labelled(anchor):
    """The anchor's own cells on other gene factors and with a third of the CD8 T cells called CD4 T."""
    rng = np.random.default_rng(0)
    adata = anchor.copy()
    adata.X = adata.X.multiply(rng.integers(1, 4, adata.n_vars)).tocsr().astype(np.float32)
    adata.obs["truth"] = adata.obs["cell_type"].astype(str)
    wrong = (adata.obs["truth"] == "CD8 T").to_numpy() & (rng.random(adata.n_obs) < 1 / 3)
    adata.obs["cell_type"] = np.where(wrong, "CD4 T", adata.obs["truth"])
    return adata


def test_labels_are_repaired_and_nothing_is_overwritten(labelled, anchor):
    before = labelled.obs.copy()
    result = hp.pp.transfer_labels(labelled, anchor, labels_key="cell_type", types=T, copy=True)
    pd.testing.assert_frame_equal(labelled.obs, before)
    assert not labelled.uns.get("transferred_labels")
    pd.testing.assert_frame_equal(result.obs[before.columns], before)
    new, truth = result.obs["transferred_labels"], result.obs["truth"]
    others = ~truth.isin(T)
    assert (new[others].astype(str) == truth[others]).all()  # they keep their own labels
    assert result.obs["transferred_labels_probability"].isna().eq(others).all()
    assert set(new.cat.categories) == set(truth)
    kept = new.notna() & ~others
    assert kept.sum() > 0.9 * (~others).sum()
    assert (new[kept].astype(str) == truth[kept]).mean() > 0.95
    assert (new.isna() == (result.obs["transferred_labels_probability"] < 0.5)).all()
    facts = result.uns["transferred_labels"]
    assert facts["types"] == T
    assert facts["changes"].to_numpy().sum() == (~others).sum()
    assert 0.8 < np.average(facts["accuracy"]["recall"], weights=facts["accuracy"]["n_cells"]) < 0.95


def test_result_is_written_and_read(labelled, anchor, tmp_path):
    adata = labelled.copy()
    hp.pp.transfer_labels(adata, anchor, labels_key="cell_type", types=T)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_series_equal(again.obs["transferred_labels"], adata.obs["transferred_labels"])
    pd.testing.assert_frame_equal(
        again.uns["transferred_labels"]["accuracy"], adata.uns["transferred_labels"]["accuracy"]
    )
    hp.pp.transfer_labels(again, anchor, labels_key="cell_type", types=T)  # its own result may be replaced


def test_a_reference_that_is_read_lazily(labelled, anchor, tmp_path):
    labelled.write_h5ad(tmp_path / "a.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "a.h5ad")
    kwargs = {"labels_key": "cell_type", "types": T, "batch_key": "donor"}
    plain = labelled.copy()
    for adata in (lazy, plain):
        hp.pp.transfer_labels(adata, anchor, **kwargs)
    assert list(map(str, lazy.obs["transferred_labels"].to_numpy())) == list(map(str, plain.obs["transferred_labels"]))


def test_without_labels_every_cell_is_asked(labelled, anchor):
    result = hp.pp.transfer_labels(labelled, anchor, labels_key=None, min_probability=0, copy=True)
    assert result.obs["transferred_labels"].notna().all()
    assert (result.obs["transferred_labels"].astype(str) == result.obs["truth"]).mean() > 0.9


def test_other_names_are_mapped(labelled, anchor):
    adata = labelled.copy()
    adata.obs["own"] = adata.obs["cell_type"].replace({"CD4 T": "T helper", "CD8 T": "CTL"})
    mapped = {"T helper": "CD4 T", "CTL": "CD8 T"}
    result = hp.pp.transfer_labels(adata, anchor, labels_key="own", types=T, mapping=mapped, copy=True)
    plain = hp.pp.transfer_labels(adata, anchor, labels_key="cell_type", types=T, copy=True)
    assert result.obs["transferred_labels"].astype(str).tolist() == plain.obs["transferred_labels"].astype(str).tolist()
    with pytest.warns(UserWarning, match="anchor lacks CTL, T helper: these cells keep their labels"):
        hp.pp.transfer_labels(adata, anchor, labels_key="own", key_added="other")
    assert adata.uns["other"]["lacking"] == ["CTL", "T helper"]
    assert adata.obs.loc[adata.obs["own"] == "CTL", "other"].eq("CTL").all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels_key": "nothing"}, KeyError, "labels_key='nothing'"),
        ({"anchor_labels_key": "nothing"}, KeyError, "anchor_labels_key='nothing' is not a column of anchor.obs"),
        ({"types": ["CD4 T", "gdT"]}, ValueError, "gdT, which the anchor lacks"),
        ({"types": ["CD4 T"]}, ValueError, "at least two types"),
        ({"mapping": {"X": "NK"}}, ValueError, "mapping names X"),
        ({"mapping": {"B": "X"}}, ValueError, "mapping leads to X"),
        ({"labels_key": "cluster", "types": T}, ValueError, "No label.*found c0, c1.*mapping="),
        ({"key_added": "cell_type"}, ValueError, "would be overwritten"),
        ({"key_added": "truth"}, ValueError, r"adata.obs\['truth'\] exists and would be overwritten"),
        ({"min_probability": 50}, ValueError, "min_probability=50"),
        ({"method": "knn"}, ValueError, "method='knn'"),
        ({"types": "CD4 T"}, TypeError, "types='CD4 T' is a text; expected a list"),
        ({"mapping": ["B"]}, TypeError, "mapping is a list; expected a dict"),
    ],
)
def test_bad_arguments(labelled, anchor, arguments, error, message):
    adata = labelled.copy()
    adata.obs["cluster"] = ["c0", "c1"] * (adata.n_obs // 2)
    before = adata.obs.copy()
    with pytest.raises(error, match=message):
        hp.pp.transfer_labels(adata, anchor, **{"labels_key": "cell_type", **arguments})
    pd.testing.assert_frame_equal(adata.obs, before)
    assert "transferred_labels" not in adata.uns


def test_bad_anchors(labelled, anchor):
    mouse = anchor.copy()
    mouse.var_names = mouse.var_names.str.capitalize()
    with pytest.raises(ValueError, match="upper and lower case only"):
        hp.pp.transfer_labels(labelled, mouse, labels_key="cell_type")
    with pytest.raises(ValueError, match="share 150 genes.*at least 100"):
        hp.pp.transfer_labels(labelled, anchor[:, :150].copy(), labels_key="cell_type")
    with pytest.raises(ValueError, match="With the 110 genes .* only .* of its own held-out cells .* chance 33%"):
        hp.pp.transfer_labels(labelled, anchor[:, :200].copy(), labels_key="cell_type", types=T)
    with pytest.raises(ValueError, match="anchor cannot be used.*only one type"):
        hp.pp.transfer_labels(labelled, anchor[anchor.obs["cell_type"] == "B"].copy(), labels_key="cell_type")
    with pytest.raises(ValueError, match="only one type|looks log-transformed"):
        logged = anchor.copy()
        logged.X = logged.X.log1p()
        hp.pp.transfer_labels(labelled, logged, labels_key="cell_type")


def test_nobody_reaches_the_bound(labelled, anchor):
    with pytest.warns(UserWarning, match="No cell reaches min_probability=1.0"):
        result = hp.pp.transfer_labels(
            labelled, anchor, labels_key="cell_type", types=T, min_probability=1.0, copy=True
        )
    assert result.obs["transferred_labels"].isna().sum() == labelled.obs["cell_type"].isin(T).sum()


def test_few_reach_the_bound(labelled, anchor):
    """With many types the probabilities are cautious: the warning says how often they are right nevertheless."""
    kwargs = {"labels_key": "cell_type", "types": T, "copy": True}
    best = hp.pp.transfer_labels(labelled, anchor, **kwargs).obs["transferred_labels_probability"].dropna()
    bound = float(best.quantile(0.8))
    with pytest.warns(UserWarning, match=r"^80% of the 600 cells stay below .*8[0-9]% are called rightly"):
        result = hp.pp.transfer_labels(labelled, anchor, min_probability=bound, **kwargs)
    assert result.obs["transferred_labels"].isna().sum() == (best < bound).sum()


def test_types_that_hide_under_another_name(labelled, anchor):
    adata = labelled.copy()
    adata.obs["own"] = adata.obs["cell_type"].replace({"CD8 T": "CTL"})
    with pytest.warns(UserWarning, match="No own label is called CD8 T, and the anchor lacks CTL.*mapping="):
        hp.pp.transfer_labels(adata, anchor, labels_key="own", types=T)


def test_ensembl_ids_on_either_side(labelled, anchor):
    ids = anchor.copy()
    ids.var_names = [f"ENSG{i:011d}.3" for i in range(ids.n_vars)]
    with pytest.raises(ValueError, match=r"The anchor has Ensembl ids: .*map_genes\(anchor, adata\)"):
        hp.pp.transfer_labels(labelled, ids, labels_key="cell_type")
    ids = labelled.copy()
    ids.var_names = [f"ENSG{i:011d}.3" for i in range(ids.n_vars)]
    with pytest.raises(ValueError, match=r"The data have Ensembl ids: .*map_genes\(adata, anchor\)"):
        hp.pp.transfer_labels(ids, anchor, labels_key="cell_type")


@pytest.mark.slow
def test_scanvi_repairs_labels(labelled, anchor):
    result = hp.pp.transfer_labels(labelled, anchor, labels_key="cell_type", types=T, method="scanvi", copy=True)
    new, truth = result.obs["transferred_labels"], result.obs["truth"]
    kept = new.notna() & truth.isin(T)
    assert (new[kept].astype(str) == truth[kept]).mean() > 0.85
