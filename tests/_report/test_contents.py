import numpy as np
import pandas as pd

from hpvade._report._contents import frame, group_rows, reasons, type_rows, verdict


def test_wide_and_unsure_types():
    table = pd.DataFrame({"A": [0.6, 0.5], "B": [0.3, 0.4], "unknown": [0.1, 0.1]})
    lower = pd.DataFrame({"A": [0.4, 0.3], "B": [0.0, 0.0]})
    upper = pd.DataFrame({"A": [0.8, 0.7], "B": [0.1, 0.2]})
    rows = type_rows(table, lower, upper)
    assert [row["wide"] for row in rows] == [True, False, False]
    assert [row["unsure"] for row in rows] == [False, True, False]
    np.testing.assert_allclose([row["width"] for row in rows], [0.4, 0.15, np.nan])
    np.testing.assert_allclose([row["mean"] for row in rows], [0.55, 0.35, 0.1])


def test_reasons_are_said_once():
    said = pd.Series(["shallow", "other", "shallow"], index=["s3", "s1", "s2"])
    assert reasons(said) == [{"names": ["s3", "s2"], "text": "shallow"}, {"names": ["s1"], "text": "other"}]
    assert reasons(said[:0]) == []


def test_the_verdict():
    good = {"name": "A", "wide": False}
    assert verdict(np.array([False] * 4), [], [good])["level"] == "good"
    assert verdict(np.array([False] * 4), ["a remark"], [good])["level"] == "care"
    assert verdict(np.array([False] * 4), [], [good | {"wide": True}])["level"] == "care"
    found = verdict(np.array([True, True, False]), [], [good])
    assert found["level"] == "stop" and "2 of 3 samples" in found["said"][0]


def test_groups_against_pandas():
    table = pd.DataFrame(np.random.default_rng(0).dirichlet([1, 1], 6), columns=["A", "B"])
    groups = pd.Series(["x", "y", "x", "y", "y", "y"])
    found = group_rows(table, groups.astype("category"), {"refused": "too few"})
    assert found["names"] == {"x": 2, "y": 4}
    np.testing.assert_allclose(found["rows"][1][1][1][0], table["B"][groups == "y"].mean())
    np.testing.assert_allclose(found["rows"][1][1][1][1], table["B"][groups == "y"].std())
    assert found["figure"].src.startswith("data:image/svg+xml")
    assert found["refused"] == "too few" and found["tests"] is None


def test_a_table_of_numbers():
    assert frame(pd.DataFrame({"r": [0.5]}, index=["A"])) == {"head": ["r"], "rows": [("A", [0.5])]}
