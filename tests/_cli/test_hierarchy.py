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
