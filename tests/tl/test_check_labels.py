import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import hpvade as hp


@pytest.fixture(scope="module")
def halves():
    """Protein-labelled cells, two halves: a reference with a fifth of CD8 T called CD4 T, and an anchor."""
    adata = hp.datasets.blood_anchor()
    rng = np.random.default_rng(0)
    first = rng.random(adata.n_obs) < 0.5
    reference, anchor = adata[first].copy(), adata[~first].copy()
    labels = reference.obs["cell_type"].astype(str).to_numpy().copy()
    reference.obs["truth"] = labels.copy()
    cells = np.flatnonzero(labels == "CD8 T")
    labels[rng.choice(cells, round(0.2 * len(cells)), replace=False)] = "CD4 T"
    reference.obs["labels"] = labels
    return reference, anchor


@pytest.mark.parametrize("evidence", ["markers", "anchor", "both"])
def test_planted_errors_in_blood(halves, evidence):
    adata, anchor = halves
    before = adata.obs.copy()
    result = hp.tl.check_labels(
        adata,
        "labels",
        markers=None if evidence == "anchor" else "blood",
        anchor=None if evidence == "markers" else anchor,
        copy=True,
    )
    pd.testing.assert_frame_equal(adata.obs, before)
    assert "label_check" not in adata.uns
    wrong = (result.obs["labels"] != result.obs["truth"]).to_numpy()
    assert roc_auc_score(wrong, result.obs["label_check_score"]) > 0.9
    inside = (result.obs["labels"] == "CD4 T").to_numpy()
    pairs = result.uns["label_check"]["pairs"].set_index(["type", "second"])
    assert pairs.loc[("CD4 T", "CD8 T"), "share"] == pytest.approx(wrong[inside].mean(), abs=0.05)
    assert any("'CD4 T'" in text and "CD8 T" in text for text in result.uns["label_check"]["findings"]["text"])
    assert ("anchor" in result.uns["label_check"]["types"]) == (evidence != "markers")


def test_clean_labels_are_left_alone(halves):
    adata, anchor = halves
    result = hp.tl.check_labels(adata, "truth", anchor=anchor, copy=True)
    assert result.obs["label_check_flagged"].mean() <= 0.02
    unflagged = ~result.obs["label_check_flagged"]
    assert (result.obs["label_check_suggestion"].astype(str) == result.obs["truth"])[unflagged].all()


def test_written_and_read(halves, tmp_path):
    adata = halves[0].copy()
    hp.tl.check_labels(adata, "labels", key_added="qc")
    hp.tl.check_labels(adata, "labels", key_added="qc", markers=None)  # replaces the earlier one
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["qc"]
    for name in ("findings", "types", "pairs", "markers"):
        assert again[name].shape == adata.uns["qc"][name].shape
    assert again["limits"][0].startswith("Without markers and without an anchor")


def test_own_markers_for_any_tissue():
    """Markers of a planted cohort, by label; one label holds all cells of a type that has a label elsewhere."""
    adata, bulk = hp.datasets.planted_cohort(n_types=4, seed=3)
    signature = bulk.varm["signature"]
    share = signature / signature.sum()
    markers, names = {}, list(signature.columns)
    for name in names:
        ratio = share[name] / share.drop(columns=name).max(axis=1)
        markers[name] = {"has": list(ratio.sort_values().index[-3:])}
    for name in names:
        markers[name]["lacks"] = [gene for other in names if other != name for gene in markers[other]["has"]]
    truth = adata.obs["cell_type"].astype(str)
    labels = truth.to_numpy().copy()
    cells = np.flatnonzero(labels == names[1])
    wrong = np.random.default_rng(0).choice(cells, len(cells) // 2, replace=False)
    labels[wrong] = names[0]
    adata.obs["labels"] = labels
    hp.tl.check_labels(adata, "labels", markers=markers)
    pairs = adata.uns["label_check"]["pairs"].set_index(["type", "second"])["share"]
    assert pairs[names[0], names[1]] == pytest.approx(len(wrong) / (labels == names[0]).sum(), abs=0.05)
    assert roc_auc_score(np.isin(np.arange(len(labels)), wrong), adata.obs["label_check_score"]) > 0.95


def test_labels_of_another_tissue_say_that_nothing_was_heard():
    adata, _ = hp.datasets.planted_cohort(n_types=3, seed=3)
    hp.tl.check_labels(adata, "cell_type")
    assert adata.uns["label_check"]["limits"][0].startswith("Without markers and without an anchor")
    assert adata.uns["label_check"]["findings"].empty


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"labels_key": "nothing"}, KeyError, "labels_key='nothing'"),
        ({"layer": "nothing"}, KeyError, "layer 'nothing'"),
        ({"markers": "brain"}, ValueError, "markers='brain' is unknown"),
        ({"markers": {"X": {"has": ["A"]}}}, ValueError, "markers names X, not among"),
        ({"markers": {"B": ["CD79A"]}}, ValueError, r"markers\['B'\] is \['CD79A'\]; expected"),
        ({"markers": {"B": {"has": "CD79A"}}}, ValueError, "is a text; expected a list"),
        ({"mapping": {"X": "B"}}, ValueError, "mapping names X, not among"),
        ({"mapping": ["B"]}, TypeError, "mapping is a list; expected a dict"),
    ],
)
def test_bad_arguments_change_nothing(halves, arguments, error, message):
    adata = halves[0].copy()
    before = adata.obs.copy()
    with pytest.raises(error, match=message):
        hp.tl.check_labels(adata, **{"labels_key": "labels", **arguments})
    pd.testing.assert_frame_equal(adata.obs, before)
    assert "label_check" not in adata.uns


def test_bad_anchors_and_other_names(halves):
    adata, anchor = halves
    mouse = anchor.copy()
    mouse.var_names = mouse.var_names.str.capitalize()
    with pytest.raises(ValueError, match="upper and lower case only"):
        hp.tl.check_labels(adata, "labels", anchor=mouse, copy=True)
    renamed = anchor.copy()
    renamed.obs["cell_type"] = renamed.obs["cell_type"].cat.codes.map(lambda i: f"cluster {i}").astype("category")
    with pytest.raises(ValueError, match="share 0 types.*mapping="):
        hp.tl.check_labels(adata, "labels", anchor=renamed, copy=True)
    with pytest.raises(KeyError, match="anchor.obs"):
        hp.tl.check_labels(adata, "labels", anchor=anchor, anchor_labels_key="nothing", copy=True)
    clusters = adata.copy()
    clusters.obs["cluster"] = clusters.obs["labels"].astype("category").cat.codes.map(lambda i: f"c{i}")
    names = dict(zip(clusters.obs["cluster"], clusters.obs["labels"], strict=True))
    mapped = hp.tl.check_labels(clusters, "cluster", anchor=anchor, mapping=names, copy=True)
    plain = hp.tl.check_labels(clusters, "labels", anchor=anchor, copy=True)
    np.testing.assert_allclose(mapped.obs["label_check_score"], plain.obs["label_check_score"], atol=1e-6)


def test_a_reference_that_is_read_lazily(halves, tmp_path):
    halves[0].write_h5ad(tmp_path / "a.h5ad")
    lazy = ad.experimental.read_lazy(tmp_path / "a.h5ad")
    plain = halves[0].copy()
    for adata in (lazy, plain):
        hp.tl.check_labels(adata, "labels")
    found = [adata.uns["label_check"]["types"] for adata in (lazy, plain)]
    pd.testing.assert_frame_equal(*found)


def test_names_of_numpys_kind_read_as_others(halves):
    """Labels made in a loop over an array are np.str_, whose repr is "np.str_('B')"."""
    adata = halves[0].copy()
    adata.obs["labels"] = pd.Series([np.str_(name) for name in adata.obs["labels"]], adata.obs_names, dtype=object)
    wrong = np.flatnonzero(adata.obs["labels"] == "NK")[:20]
    adata.obs.iloc[wrong, adata.obs.columns.get_loc("labels")] = np.str_("B")
    hp.tl.check_labels(adata, "labels")
    texts = list(adata.uns["label_check"]["findings"]["text"])
    assert any("labelled 'B' look like 'NK'" in text for text in texts)
    assert not any("np.str_" in text for text in texts)
    assert all(type(name) is str for name in adata.uns["label_check"]["types"].index)


def test_labels_that_are_all_wrong_are_not_called_right(halves):
    """Labels moved round by one type agree with each other, so only the anchor's agreement can tell."""
    adata, anchor = halves
    names = ["B", "Mono", "NK"]
    adata = adata[adata.obs["truth"].isin(names)].copy()
    adata.obs["moved"] = adata.obs["truth"].astype(str).map(dict(zip(names, [*names[1:], names[0]], strict=True)))
    words = "labels, mapping or anchor do not belong"
    for key, expected in (("moved", True), ("truth", False)):
        hp.tl.check_labels(adata, key, anchor=anchor)
        assert any("anchor agrees" in text and words in text for text in adata.uns["label_check"]["limits"]) == expected


def test_cells_that_are_all_the_same_are_refused():
    adata = ad.AnnData(np.full((40, 30), 2.0, dtype=np.float32), obs=pd.DataFrame({"cell_type": ["A", "B"] * 20}))
    adata.obs_names = [f"c{i}" for i in range(40)]
    with pytest.raises(ValueError, match="0 genes vary between the cells"):
        hp.tl.check_labels(adata, "cell_type", markers=None)
