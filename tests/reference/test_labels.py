import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import hpvade as hp
from hpvade.reference import _labels
from hpvade.reference._blood_markers import MARKERS


@pytest.mark.parametrize("share", [0.05, 0.15, 0.3])
@pytest.mark.parametrize(("gap", "low"), [(5.0, 0.95), (3.0, 0.7)])
def test_mixture_finds_the_planted_share(share, gap, low):
    """Of types that overlap it finds less, never more."""
    rng = np.random.default_rng(0)
    n = 4000
    wrong = np.arange(n) < share * n
    inside = np.where(wrong, rng.normal(gap, 1, n), rng.normal(0, 1, n))
    found, probability = _labels.mixture(inside, rng.normal(gap, 1, 1000))
    assert low * share - 0.01 < found < share + 0.02
    assert roc_auc_score(wrong, probability) > 0.97


def test_mixture_of_a_pure_type_is_zero_even_if_it_lies_near():
    rng = np.random.default_rng(0)
    for center in (0.0, 1.5):
        assert _labels.mixture(rng.normal(center, 1, 1000), rng.normal(4, 1, 500))[0] < 0.01


def test_mixture_is_monotone_and_survives_constants():
    rng = np.random.default_rng(0)
    inside = np.sort(rng.normal(0, 2, 500))
    probability = _labels.mixture(inside, rng.normal(3, 0.5, 100))[1]
    beyond = probability[inside > 3]
    assert beyond.min() >= probability[inside <= 3].max() - 1e-9
    assert np.isfinite(_labels.mixture(np.zeros(10), np.zeros(10))[0])


def planted(seed=0, share=0.2):
    """A fifth of type_1 is called type_2; labels, truth."""
    adata, _ = hp.datasets.planted_cohort(n_types=4, seed=seed)
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    first, second = np.unique(truth)[:2]
    labels = truth.copy()
    cells = np.flatnonzero(truth == first)
    labels[np.random.default_rng(seed).choice(cells, round(share * len(cells)), replace=False)] = second
    return adata, labels, truth, (second, first)


def test_planted_errors_without_markers_and_anchor():
    adata, labels, truth, pair = planted()
    found = _labels.check(adata.X, adata.var_names, labels)
    wrong, inside = labels != truth, labels == pair[0]
    assert roc_auc_score(wrong, found.score) > 0.95
    top = found.pairs.iloc[0]
    assert (top["type"], top["second"]) == pair
    assert top["share"] == pytest.approx(wrong[inside].mean(), abs=0.05)
    n = (labels == pair[1]).sum()
    assert top["read"] == pytest.approx(n / (n + top["share"] * inside.sum()))
    names = found.types.index.to_numpy()
    assert (names[found.suggestion][found.flagged] == truth[found.flagged]).mean() > 0.95
    assert (names[found.suggestion][~found.flagged] == labels[~found.flagged]).all()
    again = _labels.check(adata.X, adata.var_names, labels)
    np.testing.assert_array_equal(found.score, again.score)


def test_clean_labels_are_left_alone():
    adata, _, truth, _ = planted()
    found = _labels.check(adata.X, adata.var_names, truth)
    assert found.flagged.mean() < 0.02
    assert _labels.doubtful(found.pairs).empty
    assert found.types["predicted"].min() > 0.95


def test_markers_find_what_no_label_shows():
    """PBMC 3k as published: CD4 T holds CD8 T cells, and the labels agree with each other."""
    adata = hp.datasets.pbmc_reference()
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    found = _labels.check(adata.X, adata.var_names, labels, markers=MARKERS)
    row = found.markers[found.markers["contradicts"]]
    assert row[["type", "second", "genes"]].to_numpy().tolist() == [["CD4 T", "CD8 T", "CD8A, CD8B"]]
    counts = adata[:, ["CD8A", "CD8B"]].X.toarray().sum(1) > 0
    assert row["rate"].item() == pytest.approx(counts[labels == "CD4 T"].mean())
    assert row["full"].item() == pytest.approx(counts[labels == "CD8 T"].mean())
    pair = found.pairs.iloc[0]
    assert (pair["type"], pair["second"], pair["by"]) == ("CD4 T", "CD8 T", "markers")
    # the same cells as the protein-labelled anchor, which is not used here
    hp.pp.transfer_labels(adata, hp.datasets.blood_anchor(), labels_key="cell_type", types=["CD4 T", "CD8 T", "NK"])
    called = (adata.obs["transferred_labels"] == "CD8 T").to_numpy() & (labels == "CD4 T")
    flagged = found.flagged & (labels == "CD4 T")
    assert called[flagged].mean() > 2.5 * called[labels == "CD4 T"].mean()


def test_setup_warns_of_pbmc3k_and_not_of_protein_labels():
    adata = hp.datasets.pbmc_reference()
    text = _labels.cheap_label_warning(adata.X, adata.obs["cell_type_fine"], adata.var_names)
    assert "21% of the cells labelled" in text and "CD8A, CD8B, markers of CD8 T" in text
    assert "Naive CD4 T" in text and "Memory CD4 T" in text
    anchor = hp.datasets.blood_anchor()
    for key in ("cell_type", "cell_type_fine"):
        assert _labels.cheap_label_warning(anchor.X, anchor.obs[key], anchor.var_names) is None
    with pytest.warns(UserWarning, match="labelled 'CD4 T' express CD8A, CD8B"):
        hp.HPVADE.setup_anndata(adata, "cell_type")


def test_the_warning_needs_labels_of_blood():
    adata, labels, _, _ = planted()
    assert _labels.cheap_label_warning(adata.X, labels, adata.var_names) is None
    blood = hp.datasets.pbmc_reference()
    numbers = blood.obs["cell_type"].cat.codes.astype(str)
    assert _labels.cheap_label_warning(blood.X, numbers, blood.var_names) is None
    ids = pd.Index([f"ENSG{i:011d}" for i in range(blood.n_vars)])
    assert _labels.cheap_label_warning(blood.X, blood.obs["cell_type"], ids) is None


def test_the_warning_reads_backed_and_large_references(tmp_path):
    adata = hp.datasets.pbmc_reference()
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    plain = _labels.cheap_label_warning(adata.X, adata.obs["cell_type"], adata.var_names)
    assert _labels.cheap_label_warning(backed.X, backed.obs["cell_type"], backed.var_names) == plain
    read = []

    class Rows:
        shape = (50 * adata.n_obs, adata.n_vars)

        def __getitem__(self, rows):
            read.append(len(rows))
            return adata.X[rows % adata.n_obs]

    many = pd.Series(np.tile(adata.obs["cell_type"].to_numpy(), 50))
    assert "CD8 T will be read too low" in _labels.cheap_label_warning(Rows(), many, adata.var_names)
    assert read and read[0] <= 3000


def test_flags_are_the_largest_set_with_the_expected_share_of_false_ones():
    probability = np.array([0.2, 0.99, 0.93, 0.6, 0.97])
    # sorted: .99, .97, .93, .6, .2; means of 1 - p: .01, .02, .0367, .1275, .262
    assert _labels.surely_other(probability).tolist() == [False, True, True, False, True]
    assert not _labels.surely_other(np.array([0.9, 0.8])).any() and not len(_labels.surely_other(np.array([])))


def test_flags_keep_their_rate_of_false_ones():
    rng = np.random.default_rng(0)
    wrong = np.arange(5000) < 1000
    inside = np.where(wrong, rng.normal(3, 1, 5000), rng.normal(0, 1, 5000))
    posterior = 1 / (1 + 4 * np.exp(4.5 - 3 * inside))  # exact for these two
    flagged = _labels.surely_other(posterior)
    assert abs((~wrong[flagged]).mean() - 0.05) < 0.02 and flagged[wrong].mean() > 0.6
