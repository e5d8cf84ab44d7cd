import json

import anndata as ad
import numpy as np
import pandas as pd

import hpvade as hp
from hpvade._cli._io import read_table


def test_the_levels_of_the_python_interface(run, files, model, tmp_path):
    result = run("hierarchy", files.bulk, "--model", model, "-o", tmp_path / "levels")
    expected = hp.HPVADE.load(model).deconvolve_hierarchy(ad.read_h5ad(files.bulk))
    names = {path.name for path in (tmp_path / "levels").iterdir()}
    assert names == {"tree.csv", "level_1.csv", "type.csv", "provenance.json"}
    for level, table in expected.items():
        written = read_table(tmp_path / "levels" / f"{level}.csv")
        assert list(written) == list(table)
        np.testing.assert_allclose(written, table, atol=1e-6)
    assert "levels level_1 (" in result.stdout


def test_a_tree_of_ones_own(run, files, model, tmp_path):
    (tmp_path / "tree.json").write_text(json.dumps({"type_0": "a", "type_1": "a", "type_2": "b"}))
    run("hierarchy", files.bulk, "--model", model, "--tree", tmp_path / "tree.json", "-o", tmp_path / "levels")
    tree = pd.read_csv(tmp_path / "levels" / "tree.csv", index_col="type")
    (level,) = tree.columns
    types, groups = (read_table(tmp_path / "levels" / f"{name}.csv") for name in ("type", level))
    np.testing.assert_allclose(groups["a"], types["type_0"] + types["type_1"], atol=1e-6)
    both = ["--tree", tmp_path / "tree.json", "--levels", 2, "-o", tmp_path / "x"]
    assert "--levels N is for groups" in run("hierarchy", files.bulk, "--model", model, *both, code=2).stderr
    said = run("hierarchy", files.bulk, "--model", model, "--levels", 9, "-o", tmp_path / "x", code=1).stderr
    assert "--levels 9" in said and not (tmp_path / "x").exists()


def test_bad_samples_are_skipped_on_request(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.X = np.asarray(bulk.to_df(), dtype=np.float32)
    bulk.X[1] = 0
    bulk.write_h5ad(tmp_path / "bad.h5ad")
    options = ["--model", model, "-o", tmp_path / "levels"]
    assert "--on-bad-sample skip" in run("hierarchy", tmp_path / "bad.h5ad", *options, code=1).stderr
    result = run("hierarchy", tmp_path / "bad.h5ad", *options, "--on-bad-sample", "skip")
    table = read_table(tmp_path / "levels" / "type.csv")
    assert table.loc[bulk.obs_names[1]].isna().all() and table.drop(index=bulk.obs_names[1]).notna().all(axis=None)
    assert "They are skipped." in result.stderr
    run("report", tmp_path / "bad.h5ad", "--model", model, "-o", tmp_path / "r.html", "--on-bad-sample", "skip")
    assert bulk.obs_names[1] in (tmp_path / "r.html").read_text(encoding="utf-8")
