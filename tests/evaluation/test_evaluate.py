import copy
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, sparse, stats

from hpvade._keys import Keys
from hpvade.tl import compare, evaluate, evaluate_per_type

TYPES = ["CD4 T", "CD8 T", "B", "Platelet"]
MAPPING = {"CD4 T": "T", "CD8 T": "T", "B": "B"}


def make_bulk(n=12, k=4, seed=0, types=TYPES):
    rng = np.random.default_rng(seed)
    bulk = ad.AnnData(np.ones((n, 2), dtype=np.float32))
    truth = pd.DataFrame(rng.dirichlet(np.ones(k), n), index=bulk.obs_names, columns=types)
    other = pd.DataFrame(rng.dirichlet(np.ones(k), n), index=bulk.obs_names, columns=types)
    bulk.obsm["proportions"] = truth
    bulk.obsm["hpvade_proportions"] = 0.8 * truth + 0.2 * other
    bulk.obsm["hpvade_proportions_nnls"] = 0.5 * truth + 0.5 * other
    return bulk


def coarse(bulk):
    """Truth in columns T, B and Other instead of the four types."""
    truth = bulk.obsm["proportions"]
    bulk.obsm["flow"] = pd.DataFrame(
        {"Other": truth["Platelet"], "B": truth["B"], "T": truth["CD4 T"] + truth["CD8 T"]}
    )
    return bulk


def test_hp10_every_table_has_constant_and_nnls_rows():
    table = evaluate(make_bulk())
    assert table.index.tolist() == ["hpvade_proportions", "nnls", "constant"]
    assert table.columns.tolist() == ["per_type_r", "rmse", "rmse_skill", "ccc", "mae", "sample_r", "pooled_r"]
    assert table["rmse_skill"].iloc[-1] == pytest.approx(0)
    assert np.isnan(table.loc["constant", "per_type_r"])
    assert table.loc["hpvade_proportions", "rmse"] < table.loc["nnls", "rmse"]


def test_hp10_constant_row_matches_the_closed_forms():
    k = 25
    bulk = make_bulk(n=2000, k=k, types=[f"t{i}" for i in range(k)])
    bulk.obsm["uniform"] = pd.DataFrame(1 / k, index=bulk.obs_names, columns=bulk.obsm["proportions"].columns)
    table = evaluate(bulk, prediction_key=["hpvade_proportions", "uniform"])
    for row in ("constant", "uniform"):
        assert table.loc[row, "mae"] == pytest.approx(2 / k * (1 - 1 / k) ** k, rel=0.05)
        assert table.loc[row, "rmse"] == pytest.approx(np.sqrt((k - 1) / (k**2 * (k + 1))), rel=0.05)
    assert table.loc["uniform", "rmse_skill"] == pytest.approx(0, abs=0.05)


def test_rows_equal_numpy_and_scipy():
    bulk = make_bulk()
    p, t = bulk.obsm["hpvade_proportions"].to_numpy(), bulk.obsm["proportions"].to_numpy()
    row = evaluate(bulk).loc["hpvade_proportions"]
    r = np.array([stats.pearsonr(p[:, j], t[:, j])[0] for j in range(4)])
    assert row["per_type_r"] == pytest.approx(np.tanh(np.arctanh(r).mean()))
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean((p - t) ** 2)))
    assert row["mae"] == pytest.approx(np.mean(np.abs(p - t)))
    assert row["rmse_skill"] == pytest.approx(1 - np.sqrt(np.mean((p - t) ** 2)) / np.sqrt(np.mean(t.var(axis=0))))
    assert row["pooled_r"] == pytest.approx(stats.pearsonr(p.ravel(), t.ravel())[0])

    per_type = evaluate_per_type(bulk)
    assert per_type.index.names == ["model", "type"]
    assert per_type.index.get_level_values("model").unique().tolist() == ["hpvade_proportions", "nnls", "constant"]
    mine = per_type.loc["hpvade_proportions"]
    assert mine.index.tolist() == TYPES
    np.testing.assert_allclose(mine["r"], r)
    np.testing.assert_allclose(mine["bias"], (p - t).mean(axis=0))
    np.testing.assert_allclose(mine["mean_predicted"] - mine["mean_truth"], mine["bias"])
    assert per_type.loc["constant", "r"].isna().all()


@pytest.mark.parametrize("stored", [True, False])
def test_mapping_adds_up_types_and_renormalises(stored):
    bulk = coarse(make_bulk())
    if stored:
        bulk.uns["flow_mapping"] = MAPPING
    table = evaluate_per_type(bulk, "flow", mapping=None if stored else MAPPING)
    p = bulk.obsm["hpvade_proportions"]
    predicted = (p["CD4 T"] + p["CD8 T"]) / (1 - p["Platelet"])
    truth = bulk.obsm["flow"]["T"] / (1 - bulk.obsm["flow"]["Other"])
    row = table.loc[("hpvade_proportions", "T")]
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - truth) ** 2)))
    assert row["mean_truth"] == pytest.approx(truth.mean())
    assert table.loc["nnls"].index.tolist() == ["B", "T"]
    assert table.attrs == {"left_out_types": ["Platelet"], "left_out_columns": ["Other"]}


def test_without_renormalisation_proportions_stay_as_they_are():
    bulk = coarse(make_bulk())
    prediction, truth = compare(bulk.obsm["hpvade_proportions"], bulk.obsm["flow"], MAPPING, renormalize=False)
    np.testing.assert_allclose(truth["T"], bulk.obsm["flow"]["T"])
    np.testing.assert_allclose(prediction["B"], bulk.obsm["hpvade_proportions"]["B"])
    single, _ = compare(bulk.obsm["hpvade_proportions"], bulk.obsm["flow"], {"B": "B"}, renormalize=False)
    np.testing.assert_allclose(single["B"], bulk.obsm["hpvade_proportions"]["B"])


def test_compare_aligns_samples_by_name():
    bulk = make_bulk()
    truth = bulk.obsm["proportions"]
    _, aligned = compare(bulk.obsm["hpvade_proportions"], truth.iloc[::-1])
    pd.testing.assert_frame_equal(aligned, truth)
    with pytest.warns(UserWarning, match="2 samples are in only one"):
        prediction, aligned = compare(bulk.obsm["hpvade_proportions"].iloc[1:], truth.iloc[:-1])
    assert prediction.index.tolist() == aligned.index.tolist() == truth.index[1:-1].tolist()
    integers = truth.set_axis(np.arange(12))  # as pandas reads them from a CSV file
    pd.testing.assert_frame_equal(compare(bulk.obsm["hpvade_proportions"], integers)[1], truth)


def test_a_warning_names_the_line_that_called_the_package():
    """However deep below it the samples are aligned."""
    from hpvade.pl import agreement

    truth = make_bulk().obsm["proportions"]
    with pytest.warns(UserWarning, match="1 samples are in only one") as caught:
        agreement(truth.iloc[1:], truth=truth)
    assert [one.filename for one in caught] == [__file__]


def test_a_sample_predicted_outside_the_compared_types_keeps_zeros():
    truth = pd.DataFrame({"T": [0.7], "B": [0.3]}, index=["s"])
    prediction, _ = compare(pd.DataFrame({"T": [0.0], "B": [0.0], "Platelet": [1.0]}, index=["s"]), truth)
    assert prediction.to_numpy().tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"CD4 T": "T", "Neutrophil": "T"}, "Neutrophil"),
        ({"CD4 T": "lymphocytes", "B": "B"}, "lymphocytes"),
        ({}, "No reference type"),
        ({"B": "B"}, "two columns"),
    ],
)
def test_bad_mappings(mapping, message):
    with pytest.raises(ValueError, match=message):
        evaluate(coarse(make_bulk()), "flow", mapping=mapping)


def test_names_that_share_nothing():
    bulk = make_bulk()
    bulk.obsm["flow"] = bulk.obsm["proportions"].add_prefix("flow ")
    with pytest.raises(ValueError, match="pass mapping="):
        evaluate(bulk, "flow")
    with pytest.raises(ValueError, match="share no sample"):
        compare(bulk.obsm["proportions"], bulk.obsm["proportions"].add_prefix("s", axis=0))


def test_bad_values_name_the_sample():
    bulk = make_bulk()
    bulk.obsm["proportions"].loc["3", "B"] = np.nan
    with pytest.raises(ValueError, match="truth of sample '3'.*column 'B'"):
        evaluate(bulk)
    bulk = make_bulk()
    bulk.obsm["hpvade_proportions"].loc["4", "B"] = np.inf
    with pytest.raises(ValueError, match="prediction of sample '4'"):
        evaluate(bulk)
    bulk = make_bulk()
    bulk.obsm["proportions"].loc["2", "B"] = -0.1
    with pytest.raises(ValueError, match="truth of 2 has values below zero"):
        evaluate(bulk)
    bulk = make_bulk()
    bulk.obsm["proportions"].loc["5"] = 0.0
    with pytest.raises(ValueError, match="sample '5' sums to zero"):
        evaluate(bulk)


def test_missing_or_unnamed_tables():
    bulk = make_bulk()
    with pytest.raises(KeyError, match="'measured'.*proportions"):
        evaluate(bulk, "measured")
    with pytest.raises(KeyError, match="'mine'"):
        evaluate(bulk, prediction_key="mine")
    bulk.obsm["array"] = np.ones((12, 4))
    with pytest.raises(TypeError, match="DataFrame"):
        evaluate(bulk, prediction_key="array")
    del bulk.obsm["hpvade_proportions_nnls"]
    with pytest.raises(KeyError, match="signature=model.get_signature_matrix"):
        evaluate(bulk)
    duplicated = make_bulk().obsm["proportions"]
    with pytest.raises(ValueError, match="duplicated sample names: 0"):
        compare(pd.concat([duplicated, duplicated.iloc[:1]]), duplicated)


def test_predictions_with_other_types_are_not_mixed():
    bulk = make_bulk()
    bulk.obsm["other"] = bulk.obsm["hpvade_proportions"].drop(columns="B")
    with pytest.raises(ValueError, match="different truth columns"):
        evaluate(bulk, prediction_key=["hpvade_proportions", "other"])


def test_bulk_is_unchanged():
    bulk = coarse(make_bulk())
    bulk.uns["flow_mapping"] = dict(MAPPING)
    before = copy.deepcopy(bulk)
    evaluate(bulk, "flow")
    evaluate_per_type(bulk, "flow")
    for key in before.obsm:
        pd.testing.assert_frame_equal(bulk.obsm[key], before.obsm[key])
        assert bulk.obsm[key].attrs == before.obsm[key].attrs
    assert list(bulk.obsm) == list(before.obsm)
    assert bulk.uns == before.uns
    np.testing.assert_array_equal(bulk.X, before.X)


@pytest.fixture
def mixtures():
    """Bulk counts mixed from a signature whose types differ in RNA content, with genes in another order."""
    rng = np.random.default_rng(1)
    genes = [f"g{i}" for i in range(60)]
    signature = pd.DataFrame(rng.gamma(0.5, 1, (60, 4)) * [1, 4, 2, 0.5], index=genes, columns=TYPES)
    truth = rng.dirichlet(np.ones(4), 9)
    counts = truth @ signature.to_numpy().T * rng.uniform(50, 500, (9, 1))
    bulk = ad.AnnData(counts, var=pd.DataFrame(index=genes))[:, rng.permutation(60)].copy()
    bulk.obsm["proportions"] = pd.DataFrame(truth, index=bulk.obs_names, columns=TYPES)
    bulk.obsm["hpvade_proportions"] = bulk.obsm["proportions"]
    return bulk, signature


def test_nnls_from_a_signature_recovers_planted_cell_fractions(mixtures):
    bulk, signature = mixtures
    assert evaluate(bulk, signature=signature).loc["nnls", "rmse"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("form", ["dense", "sparse", "layer"])
def test_nnls_from_a_signature_equals_scipy(mixtures, form):
    bulk, signature = mixtures
    bulk.X = bulk.X * np.random.default_rng(2).lognormal(0, 0.5, bulk.shape)
    b = bulk.to_df()[signature.index].to_numpy()
    expected = np.array([optimize.nnls(signature.to_numpy(), row)[0] for row in b / b.sum(axis=1, keepdims=True)])
    expected /= expected.sum(axis=1, keepdims=True)
    if form == "sparse":
        bulk.X = sparse.csr_matrix(bulk.X)
    if form == "layer":
        bulk.layers["linear"], bulk.X = bulk.X, np.ones(bulk.shape)
    row = evaluate(bulk, signature=signature, layer="linear" if form == "layer" else None).loc["nnls"]
    error = expected - bulk.obsm["proportions"].to_numpy()
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), abs=2e-4)


def test_nnls_stored_by_deconvolve_comes_first(mixtures):
    bulk, signature = mixtures
    bulk.obsm[Keys.nnls("hpvade_proportions")] = bulk.obsm["proportions"] * 0 + 0.25
    truth = bulk.obsm["proportions"].to_numpy()
    row = evaluate(bulk, signature=signature).loc["nnls"]
    assert row["rmse"] == pytest.approx(np.sqrt(np.mean((truth - 0.25) ** 2)))


def test_nnls_refuses_what_it_cannot_solve(mixtures):
    bulk, signature = mixtures
    with pytest.raises(ValueError, match="share 0 genes"):
        evaluate(bulk, signature=signature.set_axis([f"ENSG{i}" for i in range(60)]))
    with pytest.raises(ValueError, match="signature has duplicated gene names: g0"):
        evaluate(bulk, signature=pd.concat([signature, signature.loc[["g0"]]]))
    with pytest.raises(ValueError, match="expressed in B"):
        evaluate(bulk, signature=signature.assign(B=0.0))
    bulk.X[0, 0] = -1
    with pytest.raises(ValueError, match=r"bulk.X has negative"):
        evaluate(bulk, signature=signature)


def test_tl_and_pl_import_neither_torch_nor_scvi():
    code = "import sys, hpvade.tl, hpvade.pl; sys.exit(bool({'torch', 'scvi'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_samples_without_a_prediction_are_left_out_of_every_row(cohort_without_two):
    """Rows of NaN, as samples have that `deconvolve` skipped, in one prediction or another."""
    bulk, kept = cohort_without_two
    with pytest.warns(UserWarning, match="2 samples have no prediction .* left out: s1, s4") as caught:
        scores = evaluate(bulk, prediction_key=["first", "second"])
    assert len(caught) == 1 and caught[0].filename == __file__
    pd.testing.assert_frame_equal(scores, evaluate(kept, prediction_key=["first", "second"]))
    with pytest.warns(UserWarning, match="2 samples"):
        per_type = evaluate_per_type(bulk, prediction_key=["first", "second"])
    pd.testing.assert_frame_equal(per_type, evaluate_per_type(kept, prediction_key=["first", "second"]))
    bulk.obsm["first"].loc["s0", "B"] = np.nan
    with pytest.raises(ValueError, match="prediction of sample 's0' is not a finite number in column 'B'"):
        evaluate(bulk[:1].copy(), prediction_key=["first", "second"])
    bulk.obsm["first"][:] = np.nan
    with pytest.raises(ValueError, match="No sample has a prediction"):
        evaluate(bulk, prediction_key="first")


@pytest.fixture
def cohort_without_two():
    """Six samples of which two predictions lack one each, and the four others."""
    rng = np.random.default_rng(0)
    bulk = ad.AnnData(np.ones((6, 1)), obs=pd.DataFrame(index=[f"s{i}" for i in range(6)]))
    for key in ("proportions", "first", "second", "first_nnls"):
        bulk.obsm[key] = pd.DataFrame(rng.dirichlet(np.ones(3), 6), index=bulk.obs_names, columns=["B", "NK", "T"])
    kept = bulk[[0, 2, 3, 5]].copy()
    bulk.obsm["first"].loc["s1"] = np.nan
    bulk.obsm["second"].loc["s4"] = np.nan
    return bulk, kept


def test_a_mapping_is_a_dict_or_a_series():
    bulk = make_bulk()
    with pytest.raises(TypeError, match=r"mapping=\['T'\]; expected \{type: column of the truth\}"):
        evaluate(bulk, "proportions", mapping=["T"])
    same = {name: name for name in TYPES}
    pd.testing.assert_frame_equal(
        evaluate(bulk, "proportions", mapping=pd.Series(same)), evaluate(bulk, "proportions", mapping=same)
    )
