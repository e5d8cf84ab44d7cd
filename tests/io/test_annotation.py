import numpy as np
import pandas as pd
import pytest

from hpvade.io._annotation import match_rows, read_numbers, read_obs


def test_columns_keep_their_kind(tmp_path):
    (tmp_path / "obs.csv").write_text("barcode;type;age;batch\nAAAC;T;1,5;001\nAAAG;B;2;002\n")
    table = read_obs(tmp_path / "obs.csv")
    assert table["type"].tolist() == ["T", "B"] and table["barcode"].tolist() == ["AAAC", "AAAG"]
    np.testing.assert_array_equal(table["age"], [1.5, 2])


def test_rows_are_matched_by_the_column_that_holds_most_names():
    table = pd.DataFrame({"type": ["T", "B"], "cell": ["b-1", "a-1"], "other": ["a-1", "x"]})
    wanted, names, key, how = match_rows(pd.Index(["a-1", "b-1"]), table, "obs")
    assert key == "cell" and list(names) == ["b-1", "a-1"] and list(wanted) == ["a-1", "b-1"] and how == ""
    wanted, names, key, how = match_rows(pd.Index(["a-1", "b-1"]), table.assign(cell=["b-9", "a-9"], other="x"), "obs")
    assert key == "cell" and list(names) == ["b", "a"] and "number behind" in how
    with pytest.raises(ValueError, match="share no name"):
        match_rows(pd.Index(["q", "r"]), table, "obs")


def test_numbers(tmp_path):
    pd.DataFrame({"A": [0.25, 0.5]}, index=["s1", "s2"]).to_csv(tmp_path / "p.tsv", sep="\t", index_label="sample")
    table = read_numbers(tmp_path / "p.tsv")
    assert table["A"].tolist() == [0.25, 0.5] and list(table.index) == ["s1", "s2"] and table.index.name == "sample"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_numbers(tmp_path / "none.csv")
