"""Differential expression of one modality of a MuData: planted features, the model's own means, errors, clean-up."""

import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scvi.model.base import RNASeqMixin

RAISED, LOWERED = [3, 7, 11], [5, 9, 13]  # peaks of eight times as many counts in "type_0", and in "type_1"
ABSENT = 5  # the first cells lack ATAC


def contents(mdata):
    return {
        "obs": mdata.obs.copy(),
        "obsm": set(mdata.obsm),
        "uns": set(mdata.uns),
        **{key: (part.obs.copy(), set(part.uns), set(part.obsm), part.X.copy()) for key, part in mdata.mod.items()},
    }


def assert_same(found, expected):
    for name in ("obsm", "uns"):
        assert found[name] == expected[name]
    pd.testing.assert_frame_equal(found["obs"], expected["obs"])
    for key in ("rna", "atac"):
        pd.testing.assert_frame_equal(found[key][0], expected[key][0])
        assert found[key][1:3] == expected[key][1:3] and (found[key][3] != expected[key][3]).sum() == 0


@pytest.fixture(scope="module")
def planted(make, build):
    """A trained model of cells whose ATAC differs between the types in six peaks only, by count and share."""
    mdata = make.mdata(240)
    kind = (mdata.obs["cell_type"] == "type_0").to_numpy()
    rng = np.random.default_rng(0)
    means = np.tile(rng.gamma(2.0, 2.0, 24) + 2.0, (240, 1))
    means[:, RAISED + LOWERED] = 2.0
    means[np.ix_(kind, RAISED)] = means[np.ix_(~kind, LOWERED)] = 16.0
    mdata["atac"].X = rng.poisson(means).astype("float32")
    mdata["atac"].X[:ABSENT] = 0
    mdata["atac"].obs["own"] = mdata.obs["cell_type"].cat.rename_categories(["left", "right"]).to_numpy()
    mdata["atac"].obs["site"] = "other"  # mdata.obs has this column, too, and comes first
    train = {"train_size": 1.0, "plan_kwargs": {"lr": 5e-3}}
    return SimpleNamespace(model=build(mdata, epochs=60, train=train), mdata=mdata, kind=kind)


@pytest.fixture(scope="module")
def compare(planted):
    def compare(modality="atac", **options):
        return planted.model.differential_expression(modality=modality, silent=True, **options)

    return compare


TYPES = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1"}


def test_planted_features_come_first_with_their_sign(planted, compare):
    before = contents(planted.mdata)
    table = compare(**TYPES)
    assert_same(contents(planted.mdata), before)
    first = {f"p{i}" for i in (*RAISED, *LOWERED)}
    assert set(table.index[:6]) == first and (table["proba_de"].iloc[:6] > 0.95).all()
    assert (table.loc[[f"p{i}" for i in RAISED], "lfc_mean"] > 1).all()
    assert (table.loc[[f"p{i}" for i in LOWERED], "lfc_mean"] < -1).all()
    assert table["is_de_fdr_0.05"].iloc[:6].all() and (table["comparison"] == "type_0 vs type_1").all()
    pd.testing.assert_frame_equal(compare(**TYPES), table)


def test_fold_changes_are_those_of_the_normalized_expression(planted, compare):
    present = np.arange(240) >= ABSENT
    expression = planted.model.get_normalized_expression(modality="atac", n_samples=40)
    one, two = (expression[present & group].mean() for group in (planted.kind, ~planted.kind))
    table = compare(**TYPES).loc[expression.columns]
    np.testing.assert_allclose(table["lfc_mean"], np.log2(one / two), atol=0.05)
    np.testing.assert_allclose(table["scale1"], one, rtol=0.03)
    np.testing.assert_allclose(table["scale2"], two, rtol=0.03)


def test_statistics_are_those_of_the_cells_that_have_the_modality(planted, compare):
    table, X = compare(**TYPES), planted.mdata["atac"].X
    X = np.asarray(X.todense()) if hasattr(X, "todense") else X
    kept = np.arange(240) >= ABSENT
    for number, group in ((1, kept & planted.kind), (2, kept & ~planted.kind)):
        cells, found = X[group], table.loc[planted.mdata["atac"].var_names]
        np.testing.assert_allclose(found[f"raw_mean{number}"], cells.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found[f"non_zeros_proportion{number}"], (cells > 0).mean(0), rtol=1e-5)
        scaled = (cells / cells.sum(1, keepdims=True) * 1e4).mean(0)
        np.testing.assert_allclose(found[f"raw_normalized_mean{number}"], scaled, rtol=1e-4)


def test_same_columns_as_the_model_of_one_modality(planted, compare, single):
    one = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True}
    for mode in ("change", "vanilla"):
        table = single.model.differential_expression(mode=mode, **one)
        assert list(compare(mode=mode, **TYPES).columns) == list(table.columns)
    ours, theirs = (
        inspect.signature(method).parameters
        for method in (planted.model.differential_expression, RNASeqMixin.differential_expression)
    )
    assert list(ours)[:6] == list(theirs)[1:7] and set(theirs) - set(ours) == {"self", "importance_weighting_kwargs"}


def test_groups_cells_masks_and_queries_are_the_same_cells(planted, compare):
    expected = compare(**TYPES)["lfc_mean"].sort_index()
    masks = {"idx1": planted.kind, "idx2": ~planted.kind}
    places = {name: np.flatnonzero(mask) for name, mask in masks.items()}
    for cells in (masks, places, {"idx1": "cell_type == 'type_0'"}, {"idx1": "own == 'left'"}):
        found = compare(**cells)
        assert "comparison" not in found
        pd.testing.assert_series_equal(found["lfc_mean"].sort_index(), expected)
    own = {"groupby": "own", "group1": "left"}
    for group2 in (None, "rest", "right"):
        pd.testing.assert_series_equal(compare(**own, group2=group2)["lfc_mean"].sort_index(), expected)


def test_columns_of_the_mudata_come_first_and_all_groups_are_compared(planted, compare):
    table = compare(groupby="site")
    assert list(table["comparison"].unique()) == ["s0 vs Rest", "s1 vs Rest"] and len(table) == 48
    assert set(compare("rna", groupby="site", group1="s0").index) == set(planted.mdata["rna"].var_names)


def test_batches_outliers_and_data_of_another_object(planted, compare, make):
    for option in ({"batch_correction": True}, {"batch_correction": True, "batchid1": "b0", "batchid2": ["b1"]}):
        found = compare(**TYPES, **option)["lfc_mean"]  # no batch enters the decoder: the same but for the draws
        np.testing.assert_allclose(found, compare(**TYPES)["lfc_mean"].loc[found.index], atol=0.15)
    assert set(compare(**TYPES, filter_outlier_cells=True).index[:6]) == set(compare(**TYPES).index[:6])
    new = planted.mdata[::2].copy()
    new.obs["cell_type"] = pd.Categorical(np.where(np.arange(120) < 60, "type_0", "type_1"))
    before = set(new.obs)
    assert len(planted.model.differential_expression(new, **TYPES, modality="rna", silent=True)) == 40
    assert {name for name in set(new.obs) - before if not name.startswith("_scvi")} == set()
    assert not {"_scvi_temp_de", "_scvi_raw_norm_scaling"} & {*new.obs, *new["rna"].obs}


def test_columns_that_scvi_left_behind_are_not_read(planted, compare):
    expected = compare(**TYPES)
    planted.mdata["atac"].obs["_scvi_raw_norm_scaling"] = 1.0
    try:
        pd.testing.assert_frame_equal(compare(**TYPES), expected)
        assert (planted.mdata["atac"].obs["_scvi_raw_norm_scaling"] == 1.0).all()
    finally:
        del planted.mdata["atac"].obs["_scvi_raw_norm_scaling"]


def test_large_groups_take_no_more_cells_than_draws(planted, compare, monkeypatch):
    seen = []
    ours = type(planted.model)._expression
    monkeypatch.setattr(
        type(planted.model), "_expression", lambda *a, **o: seen.append((len(a[3]), o["n_samples"])) or ours(*a, **o)
    )
    few = compare(**TYPES, n_samples_overall=50)
    assert seen == [(50, 2), (50, 2)] and set(few.index[:6]) == set(compare(**TYPES).index[:6])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"modality": "adt"}, ValueError, r"modality='adt' is unknown; expected one of \['atac', 'rna'\]"),
        ({"modality": None}, ValueError, r"several modalities, \['atac', 'rna'\]; name one with modality="),
        ({}, ValueError, "pass groupby="),
        ({"groupby": "absent"}, KeyError, "'absent' is not a column of the obs of mdata and of 'atac'"),
        ({"groupby": "cell_type", "group1": "ghost"}, ValueError, "no cells of ghost; there are those of type_0"),
        ({"groupby": "lacks", "group1": "yes"}, ValueError, "cells with its counts has one|has no cells of yes"),
        ({"idx1": range(ABSENT)}, ValueError, "idx1 selects no cells of .*, cells with its counts"),
        ({"idx1": range(ABSENT, 240)}, ValueError, "idx1 selects all cells"),
        ({**TYPES, "mode": "other"}, ValueError, r"mode='other' is unknown; expected one of \['change', 'vanilla'\]"),
        ({**TYPES, "weights": "importance"}, NotImplementedError, "use weights='uniform'"),
        ({**TYPES, "batchid1": ["b0"]}, ValueError, "batch_correction=True"),
        ({**TYPES, "batchid1": ["b9"], "batch_correction": True}, ValueError, "'b9'.* are not batches"),
    ],
)
def test_errors_name_what_there_is_and_leave_the_cells_alone(planted, arguments, error, message):
    planted.mdata.obs["lacks"] = ["yes"] * ABSENT + ["no"] * (240 - ABSENT)
    before = contents(planted.mdata)
    with pytest.raises(error, match=message):
        planted.model.differential_expression(**{"modality": "atac", "silent": True} | arguments)
    assert_same(contents(planted.mdata), before)


def test_untrained_model_is_refused(build, mdata):
    with pytest.raises(RuntimeError, match="train"):
        build(mdata).differential_expression(**TYPES, modality="rna")
