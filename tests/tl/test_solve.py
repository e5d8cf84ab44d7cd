"""`tl.solve`: planted truths, the same numbers as the solvers, what is written, and bad input that changes nothing."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.optimize import nnls as scipy_nnls

import hpvade as hp
from hpvade import solvers
from hpvade.tl import evaluate, solve

METHODS = ["nnls", "rlr", "dwls", "music", "hspe", "instaprism", "robust"]
KEYS = {"labels_key": "cell_type", "sample_key": "donor", "device": "cpu"}


def rmse(found, truth):
    return float(np.sqrt(np.mean((np.asarray(found) - np.asarray(truth)) ** 2)))


@pytest.mark.parametrize("method", METHODS)
def test_planted_proportions_are_recovered(planted, method):
    reference, bulk = planted(n_genes=600)
    solve(bulk, reference, method=method, **KEYS)
    found, truth = bulk.obsm[f"{method}_proportions"], bulk.obsm["proportions"]
    assert found.columns.tolist() == truth.columns.tolist() and found.index.equals(bulk.obs_names)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    scores = evaluate(bulk, prediction_key=f"{method}_proportions")
    assert scores.index.tolist() == [f"{method}_proportions", "nnls", "constant"]
    least_r, most = (0.95, 0.4) if method == "nnls" else (0.98, 0.25)  # errors are relative here, which NNLS ignores
    assert scores["per_type_r"].iloc[0] > least_r
    assert scores["rmse"].iloc[0] < most * scores.loc["constant", "rmse"]
    assert rmse(bulk.obsm[f"{method}_proportions_rna"], bulk.obsm["rna_proportions"]) < most * 0.2


def test_nnls_on_all_genes_equals_scipy_and_the_baseline(planted):
    reference, bulk = planted()
    signature = pd.DataFrame(
        {
            name: np.asarray(reference[reference.obs["cell_type"] == name].X.mean(axis=0)).ravel()
            for name in reference.obs["cell_type"].cat.categories
        },
        index=reference.var_names,
    )
    solve(bulk, signature, method="nnls", genes=None, device="cpu")
    expected = np.stack([scipy_nnls(signature.to_numpy(), row)[0] for row in bulk.X])
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(bulk.obsm["nnls_proportions"], expected, atol=1e-5)
    np.testing.assert_allclose(bulk.obsm["nnls_proportions_nnls"], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["rlr", "hspe", "robust"])
def test_a_signature_gives_what_its_cells_give(planted, method):
    reference, bulk = planted(n_donors=1)
    signature = pd.DataFrame(
        {
            name: np.asarray(reference[reference.obs["cell_type"] == name].X.mean(axis=0)).ravel()
            for name in reference.obs["cell_type"].cat.categories
        },
        index=reference.var_names,
    )
    solve(bulk, reference, method=method, **KEYS)
    from_cells = bulk.obsm[f"{method}_proportions"]
    solve(bulk, signature, method=method, device="cpu", key_added="mine")
    np.testing.assert_allclose(bulk.obsm["mine"], from_cells, atol=1e-4)
    assert bulk.uns["mine"]["n_donors"] == 0 and bulk.uns[f"{method}_proportions"]["n_donors"] == 1


def test_cell_sizes_turn_rna_into_cells(planted):
    reference, bulk = planted()
    sizes = {"type_0": 1.0, "type_1": 2.0, "type_2": 0.5, "type_3": 4.0}
    solve(bulk, reference, cell_size=sizes, **KEYS)
    rna = bulk.obsm["robust_proportions_rna"]
    expected = rna / list(sizes.values())
    expected = expected.div(expected.sum(axis=1), axis=0)
    np.testing.assert_allclose(bulk.obsm["robust_proportions"], expected, atol=1e-12)
    solve(bulk, reference, cell_size=sizes, fractions="rna", key_added="as_rna", **KEYS)
    pd.testing.assert_frame_equal(bulk.obsm["as_rna"], rna)
    stored = bulk.uns["robust_proportions"]["cell_sizes"]["size"]
    np.testing.assert_allclose(stored / stored["type_0"], list(sizes.values()))


def test_planted_cell_sizes_halve_the_error_of_rna_fractions(planted):
    reference, bulk = planted(rna_content=[1, 1, 4, 4], n_genes=600)
    solve(bulk, reference, **KEYS)
    truth = bulk.obsm["proportions"]
    assert rmse(bulk.obsm["robust_proportions"], truth) < 0.5 * rmse(bulk.obsm["robust_proportions_rna"], truth)


def test_genes_by_number_name_or_all(planted):
    reference, bulk = planted()
    for genes, n in ((None, 300), (50, 50), (10_000, None), (bulk.var_names[10:60], 50)):
        solve(bulk, reference, genes=genes, **KEYS)
        fitted = bulk.uns["robust_proportions"]["n_genes_fitted"]
        assert fitted == n if n else 280 < fitted <= 300
    few = bulk.obsm["robust_proportions"]
    signature = pd.DataFrame(reference.varm["signature"])
    shares = torch.tensor((signature / signature.sum()).iloc[10:60].to_numpy())
    counts = torch.tensor(bulk.X[:, 10:60].astype(float))
    solve(bulk, signature, method="rlr", genes=list(bulk.var_names[10:60]), fractions="rna", device="cpu")
    np.testing.assert_allclose(bulk.obsm["rlr_proportions"], solvers.rlr(counts, shares), atol=1e-5)
    assert few.shape == (12, 4)


def test_order_scale_and_storage_of_the_bulk_do_not_matter(planted):
    reference, bulk = planted()
    solve(bulk, reference, **KEYS)
    other = bulk[:, ::-1].copy()
    other.X, other.layers["tpm"] = None, sparse.csr_matrix(other.X / other.X.sum(axis=1, keepdims=True) * 1e6)
    before = other.obsm.pop("robust_proportions")
    solve(other, reference, bulk_layer="tpm", **KEYS)
    np.testing.assert_allclose(other.obsm["robust_proportions"], before, atol=1e-4)
    assert other.uns["robust_proportions"]["input_type"] == "normalized"


def test_missing_genes_are_left_out_or_zero(planted):
    reference, bulk = planted()
    truth = bulk.obsm["proportions"]
    short = bulk[:, 60:].copy()
    with pytest.warns(UserWarning, match="take no part"):
        solve(short, reference, method="hspe", **KEYS)
    with pytest.warns(UserWarning, match="count as not expressed"):
        solve(short, reference, method="hspe", missing="zero", key_added="zero", **KEYS)
    assert rmse(short.obsm["hspe_proportions"], truth) < 0.05 < rmse(short.obsm["zero"], truth)
    provenance = short.uns["hspe_proportions"]
    assert (provenance["n_genes"], provenance["n_genes_missing"]) == (240, 60)
    assert provenance["gene_overlap"] == pytest.approx(0.8)


def test_what_setup_anndata_was_given_is_the_default(planted):
    reference, bulk = planted()
    reference.obs = reference.obs.rename(columns={"cell_type": "kind"})
    reference.layers["counts"], reference.X = reference.X.copy(), reference.X * 0
    with pytest.raises(KeyError, match="labels_key='cell_type' is not a column.*'kind'"):
        solve(bulk, reference, device="cpu")
    hp.HPVADE.setup_anndata(reference, labels_key="kind", sample_key="donor", layer="counts")
    solve(bulk, reference, method="music", device="cpu")
    assert bulk.uns["music_proportions"]["n_donors"] == 4
    explicit = bulk.obsm.pop("music_proportions")
    solve(bulk, reference, method="music", labels_key="kind", sample_key="donor", layer="counts", device="cpu")
    pd.testing.assert_frame_equal(bulk.obsm["music_proportions"], explicit)
    with pytest.raises(ValueError, match="no type has 5 cells or more from each of two donors"):
        solve(bulk, reference, method="music", labels_key="kind", layer="counts", device="cpu")


def test_copy_leaves_the_bulk_alone(planted, unchanged):
    reference, bulk = planted()
    with unchanged(bulk, reference):
        result = solve(bulk, reference, copy=True, **KEYS)
    assert "robust_proportions" in result.obsm and "robust_proportions" not in bulk.obsm
    assert solve(bulk, reference, **KEYS) is None
    pd.testing.assert_frame_equal(bulk.obsm["robust_proportions"], result.obsm["robust_proportions"])


def test_results_survive_a_file_and_repeat_to_the_bit(planted, tmp_path):
    import anndata as ad

    reference, bulk = planted()
    solve(bulk, reference, method="rlr", loss="bisquare", tuning=None, **KEYS)
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    read = ad.read_h5ad(tmp_path / "bulk.h5ad")
    assert read.uns["rlr_proportions"]["options"] == {"loss": "bisquare"}
    solve(bulk, reference, method="rlr", loss="bisquare", key_added="again", **KEYS)
    np.testing.assert_array_equal(bulk.obsm["again"], read.obsm["rlr_proportions"])


def test_one_sample(planted):
    reference, bulk = planted(n_samples=1, n_genes=600)
    with pytest.warns(UserWarning, match="One sample has no gene factor"):
        solve(bulk, reference, genes=None, **KEYS)
    for method in METHODS[:-1]:
        solve(bulk, reference, method=method, genes=None, **KEYS)
    for method in METHODS:
        assert rmse(bulk.obsm[f"{method}_proportions"], bulk.obsm["proportions"]) < 0.05


def test_equal_column_sums_say_nothing_about_rna_content(planted):
    reference, bulk = planted()
    signature = reference.varm["signature"]
    cpm = 1e6 * signature / signature.sum()
    with pytest.warns(UserWarning, match="Every column of the signature sums to 1e.06: RNA content"):
        solve(bulk, cpm, device="cpu")
    sizes = dict(zip(cpm.columns, reference.uns["rna_content"], strict=True))
    solve(bulk, cpm, cell_size=sizes, device="cpu", key_added="sized")
    solve(bulk, signature, cell_size="umi", device="cpu", key_added="counts")
    np.testing.assert_allclose(bulk.obsm["sized"], bulk.obsm["counts"], atol=1e-6)


# ---------------------------------------------------------------- bad input

BAD = {
    "method": ({"method": "cibersort"}, ValueError, "method='cibersort' is unknown; expected one of 'nnls', 'rlr'"),
    "fractions": ({"fractions": "cells"}, ValueError, "fractions='cells' is unknown; expected one of 'cell', 'rna'"),
    "option": ({"method": "hspe", "loss": "huber"}, TypeError, "'hspe' has no option loss; its options: offset"),
    "inner option": ({"anchor_weight": 1.0}, TypeError, "has no option anchor_weight"),
    "kind of option": ({"gene_factor": np.ones(3)}, TypeError, "gene_factor is a ndarray; expected a number"),
    "value of option": ({"method": "rlr", "loss": "l1"}, ValueError, "loss='l1' is unknown"),
    "labels": ({"labels_key": "type"}, KeyError, "labels_key='type' is not a column"),
    "donors": ({"sample_key": "person"}, KeyError, "sample_key='person' is not a column"),
    "layer": ({"layer": "counts"}, KeyError, "layer 'counts' is not in adata.layers"),
    "bulk layer": ({"bulk_layer": "tpm"}, KeyError, "layer 'tpm' is not in bulk.layers"),
    "unit": ({"input_type": "rpkm"}, ValueError, "input_type='rpkm' is not known"),
    "cell size": ({"cell_size": "weight"}, ValueError, "unknown source of cell sizes 'weight'"),
    "size of zero": ({"cell_size": dict.fromkeys(map("type_{}".format, range(4)), 0)}, ValueError, "positive"),
    "music, no donors": ({"method": "music", "sample_key": None}, ValueError, "two donors.*sample_key"),
    "few genes": ({"genes": 3}, ValueError, "genes=3 leaves 3 genes that the bulk has, fewer than the 4 types"),
    "negative genes": ({"genes": -3}, ValueError, "genes=-3 leaves 0 genes"),
    "unknown genes": ({"genes": ["CD3E", "gene_0001"]}, ValueError, "1 of 2 genes asked for are not in the reference"),
    "one gene": ({"genes": "gene_0001"}, ValueError, "genes='gene_0001'; expected 'markers', a number"),
    "device": ({"device": "meta"}, ValueError, "device='meta' has no float64"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_change_nothing(planted, unchanged, case):
    arguments, error, message = BAD[case]
    reference, bulk = planted()
    with unchanged(bulk, reference), pytest.raises(error, match=message):
        solve(bulk, reference, **KEYS | arguments)


def logged(adata):
    adata.X = np.log1p(adata.X.toarray() if sparse.issparse(adata.X) else adata.X)


def first_nan(adata):
    adata.X[0, 0] = np.nan


def renamed(adata):
    adata.var_names = adata.var_names.str.replace("gene_", "ENSG00000")


@pytest.mark.parametrize(
    ("side", "change", "message"),
    [
        (0, logged, "bulk.X looks log-transformed"),
        (0, first_nan, r"'sample_0' \(NaN at var 'gene_0001'\)"),
        (0, renamed, r"0 of the model's 300 genes"),
        (1, logged, "adata.X looks log-transformed"),
    ],
)
def test_bad_data_change_nothing(planted, unchanged, side, change, message):
    reference, bulk = planted()
    change((bulk, reference)[side])
    with unchanged(bulk, reference), pytest.raises(ValueError, match=message):
        solve(bulk, reference, **KEYS)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda s: s, {"labels_key": "cell_type"}, "is a signature, to which labels_key does not apply"),
        (lambda s: s, {"method": "music"}, "'music' needs the variance between donors; a signature has none"),
        (lambda s: s.assign(type_1=0.0), {}, "no expression for .'type_1'."),
        (lambda s: -s, {}, "holds -.* for gene 'gene_0001' in 'type_0'; expected finite values >= 0"),
    ],
)
def test_bad_signatures_change_nothing(planted, unchanged, change, arguments, message):
    reference, bulk = planted()
    signature = change(reference.varm["signature"])
    with unchanged(bulk), pytest.raises(ValueError, match=message):
        solve(bulk, signature, device="cpu", **arguments)


def test_other_kinds_of_input(planted):
    reference, bulk = planted()
    with pytest.raises(TypeError, match="The bulk is a ndarray; expected an AnnData or a DataFrame"):
        solve(bulk.X, reference, **KEYS)
    with pytest.raises(TypeError, match="The reference is a ndarray; expected an AnnData"):
        solve(bulk, np.ones((3, 3)), **KEYS)


# what counts as measured


def answers(bulk, reference, **options):
    """Fractions and the texts of the warnings; `bulk` is not changed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = solve(bulk, reference, **KEYS | {"copy": True} | options)
    return result, [str(w.message) for w in caught if w.category is UserWarning]


def test_skipped_samples_are_rows_of_nan_and_change_no_other(planted):
    reference, bulk = planted()
    expected = answers(bulk[np.arange(12) != 3].copy(), reference, method="nnls")[0]
    bulk.X = bulk.X.astype(float)
    bulk.X[3, 5] = -1
    result, said = answers(bulk, reference, method="nnls", on_bad_sample="skip")
    assert len(said) == 1 and "'sample_3' (a negative value (-1)" in said[0]
    for key in ("nnls_proportions", "nnls_proportions_rna", "nnls_proportions_nnls"):
        table = result.obsm[key]
        assert list(table.index) == list(bulk.obs_names) and table.loc["sample_3"].isna().all()
        pd.testing.assert_frame_equal(table.drop(index="sample_3"), expected.obsm[key])
    assert result.uns["nnls_proportions"]["skipped"].loc["sample_3", "reason"].startswith("a negative value")
    with pytest.warns(UserWarning, match="1 samples have no prediction .* left out: sample_3"):
        scores = hp.tl.evaluate(result, prediction_key="nnls_proportions")
    pd.testing.assert_frame_equal(scores, hp.tl.evaluate(expected, prediction_key="nnls_proportions"))


@pytest.mark.parametrize("method", ["nnls", "robust"])
def test_batches_of_a_join_are_each_solved_on_their_genes(planted, method):
    reference, bulk = planted()
    first, second = np.arange(12) < 6, np.arange(12) >= 6
    joined = bulk.copy()
    joined.X[np.ix_(second, np.arange(0, 300, 3))] = 0
    key = f"{method}_proportions"
    result, said = answers(joined, reference, method=method)
    assert len(said) == 1 and "100 genes" in said[0]
    own = bulk[second][:, np.setdiff1d(np.arange(300), np.arange(0, 300, 3))].copy()
    for rows, part in ((first, bulk[first].copy()), (second, own)):
        alone = answers(part, reference, method=method)[0]
        np.testing.assert_allclose(result.obsm[key][rows], alone.obsm[key], atol=1e-5)
    about = result.uns[key]
    assert about["batches"]["n_samples"].tolist() == [6, 6] and about["n_genes"] == 200
    assert about["batches"]["n_genes"].tolist() in ([300, 200], [200, 300])
    bulk.obs["study"] = np.where(first, "a", "b")
    named = answers(bulk, reference, method=method, batch_key="study")[0]
    alone = answers(bulk[second].copy(), reference, method=method)[0]
    np.testing.assert_allclose(named.obsm[key][second], alone.obsm[key], atol=1e-5)
    assert named.uns[key]["batch_of"]["batch"].tolist() == bulk.obs["study"].tolist()


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e6, 1e12])
@pytest.mark.parametrize("method", ["nnls", "robust"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_per_sample_changes_no_answer(planted, method, factor, dtype):
    reference, bulk = planted()
    expected = answers(bulk, reference, method=method)[0].obsm[f"{method}_proportions"]
    bulk.X = np.asarray(bulk.X.toarray() if hasattr(bulk.X, "toarray") else bulk.X, dtype=dtype)
    bulk.X[::2] *= dtype(factor)
    result, said = answers(bulk, reference, method=method, input_type="counts")
    assert said == []
    np.testing.assert_allclose(result.obsm[f"{method}_proportions"], expected, atol=1e-5)


def test_panels_of_real_markers_work_and_random_genes_do_not():
    """250 markers keep the accuracy of all genes, and nothing suffers; 30 random genes are refused."""
    from hpvade.reference._measured import _markers

    reference, bulk = hp.datasets.pbmc_reference(), hp.datasets.pbmc_bulk()
    types = reference.obs["cell_type"].astype("category")
    means = {t: np.asarray(reference[(types == t).to_numpy()].X.mean(axis=0)).ravel() for t in types.cat.categories}
    signature = pd.DataFrame(means, index=reference.var_names)
    share = (signature / signature.sum()).to_numpy()
    markers = reference.var_names[_markers(share, np.ones(len(share), dtype=bool))].intersection(bulk.var_names)
    rng = np.random.default_rng(0)
    everything, _ = answers(bulk, signature, method="robust", labels_key=None, sample_key=None)
    panel = bulk[:, np.sort(rng.choice(markers, 250, replace=False))].copy()
    result, said = answers(panel, signature, method="robust", labels_key=None, sample_key=None)
    assert len(said) == 1 and "250 of the model's" in said[0]
    full, few = (
        hp.tl.evaluate(x, prediction_key="robust_proportions")["per_type_r"].iloc[0] for x in (everything, result)
    )
    assert few > full - 0.1
    random = bulk[:, np.sort(rng.choice(bulk.var_names.intersection(reference.var_names), 30, replace=False))].copy()
    with pytest.raises(ValueError, match="30 of the model's .*genes' worth of information"):
        answers(random, signature, labels_key=None, sample_key=None)


def test_arguments_in_the_wrong_order_are_said_to_be(planted, unchanged):
    reference, bulk = planted()
    with unchanged(reference, bulk):
        for given in (KEYS, {"device": "cpu"}):
            with pytest.raises(KeyError, match="look swapped. Expected solve"):
                solve(reference, bulk, **given)
        with pytest.raises(KeyError, match=r"labels_key=\['cell_type'\] is not a column"):
            solve(reference, bulk, labels_key=["cell_type"])
