import numpy as np
import pandas as pd
import pytest

from hpvade.reference import _label_evidence as evidence

MARKERS = {
    "a": {"has": ["A"], "lacks": ["B1", "B2", "C"]},
    "b": {"has": ["B1", "B2"], "lacks": ["A", "C"]},
    "c": {"has": ["C"], "lacks": ["A", "B1", "B2"]},
}


def expressed(rates: dict, n=1000):
    """`rates[class][gene]` of the cells of a class express the gene, exactly."""
    classes = np.repeat(list(rates), n)
    table = {gene: np.zeros(len(classes), dtype=bool) for gene in ("A", "B1", "B2", "C")}
    for k, genes in enumerate(rates.values()):
        for gene, rate in genes.items():
            table[gene][k * n : k * n + round(rate * n)] = True
    return pd.DataFrame(table), classes.astype(object)


def test_rates_have_their_closed_form():
    table, classes = expressed({"a": {"A": 0.9, "B1": 0.2}, "b": {"B1": 0.5, "B2": 0.8}, "c": {"C": 1, "B1": 0.05}})
    rates = evidence.marker_rates(table, classes, MARKERS).set_index(["type", "second"])
    row = rates.loc["a", "b"]
    assert (row["genes"], row["yardstick"]) == ("B1, B2", "c")
    assert (row["rate"], row["full"], row["background"]) == pytest.approx((0.2, 0.8, 0.05))
    assert row["excess"] == pytest.approx((0.2 - 0.05) / (0.8 - 0.05))
    assert row["z"] == pytest.approx(0.15 / np.sqrt(0.2 * 0.8 / 1000 + 0.05 * 0.95 / 1000))
    assert rates.loc[("b", "a"), "excess"] == 0


def test_rates_of_a_type_that_no_cell_is_called():
    table, classes = expressed({"a": {"A": 1, "B1": 0.3}, "c": {"C": 1}})
    row = evidence.marker_rates(table, classes, MARKERS).set_index(["type", "second"]).loc["a", "b"]
    assert np.isnan(row["full"]) and np.isnan(row["excess"])
    assert row["z"] > 10


def test_no_type_is_missing_whose_genes_another_one_has():
    """CD3 in B cells says nothing of an absent "T" where there are CD4 T cells, which have it."""
    table, classes = expressed({"a": {"A": 1, "B1": 0.3}, "b": {"B1": 1}, "c": {"C": 1}})
    also = MARKERS | {"b or so": {"has": ["B1", "B2"], "lacks": ["A", "C"]}}
    rates = evidence.marker_rates(table, classes, also).set_index(["type", "second"])
    assert ("a", "b") in rates.index and ("a", "b or so") not in rates.index
    table, classes = expressed({"a": {"A": 1, "B1": 0.3}, "c": {"C": 1}})
    assert ("a", "b or so") in evidence.marker_rates(table, classes, also).set_index(["type", "second"]).index


def test_genes_that_do_not_separate_say_nothing():
    table, classes = expressed({"a": {"A": 1}, "b": {"B1": 0.15}, "c": {"C": 1}})
    rates = evidence.marker_rates(table, classes, MARKERS).set_index(["type", "second"])
    assert ("a", "b") not in rates.index
    assert ("b", "a") in rates.index


def points_of(codes, gap=4.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(codes), 5)) + gap * np.eye(5)[codes]


def test_wrong_labels_are_seen_through():
    truth = np.repeat([0, 1, 2], 100)
    codes = truth.copy()
    codes[:40] = 1  # two fifths of type 0 are called 1
    found = evidence.by_labels(points_of(truth), codes, np.ones(300, dtype=bool), 3)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == truth).mean() > 0.98


def test_cells_outside_the_sample_get_an_answer_and_small_types_stay():
    codes = np.r_[np.repeat([0, 1], 200), [2, 2]]
    sample = np.arange(402) % 2 == 0
    found = evidence.by_labels(points_of(codes), codes, sample, 3)
    assert (found.argmax(axis=1) == codes)[:400].mean() > 0.99
    assert (found[:400, 2] < 0.5).all() and found[:, 2].max() > 0


def test_markers_teach_whatever_the_labels_say():
    truth = np.repeat([0, 1, 2], 200)
    table = pd.DataFrame(np.zeros((600, 4), dtype=bool), columns=["A", "B1", "B2", "C"])
    rng = np.random.default_rng(1)
    for k, gene in enumerate(["A", "B1", "C"]):
        table[gene] = (truth == k) & (rng.random(600) < 0.3)  # a third of the cells shows its marker
    labels = np.where(truth == 1, "b", np.where(truth == 2, "c", "a")).astype(object)
    labels[200:350] = "a"  # most of b is called a
    found, names = evidence.by_markers(points_of(truth), labels, np.ones(600, dtype=bool), table, MARKERS)
    assert names == ["a", "b", "c"]
    assert (found.argmax(axis=1) == truth).mean() > 0.98
    few = table.copy()
    few.loc[few["C"].to_numpy().nonzero()[0][9:], "C"] = False
    assert evidence.by_markers(points_of(truth), labels, np.ones(600, dtype=bool), few, MARKERS)[1] == ["a", "b"]
    nothing = evidence.by_markers(points_of(truth), labels, np.ones(600, dtype=bool), table[["A"]], MARKERS)
    assert nothing[1] == []


def test_unknown_types_are_judged_neither_way():
    codes = np.array([0, 1, 2])
    heard = np.array([[0.2, 0.8], [0.2, 0.8], [0.2, 0.8]])
    total = evidence.combine(codes, ["a", "b", "x"], [(heard, ["a", "b"])])
    assert total[0, 1] > total[0, 0]
    assert total[0, 2] == total[0, 0]  # x is not heard: as good as the own label
    assert (total[2] == 0).all()  # of a cell called x nothing is said
    silent = evidence.combine(codes, ["a", "b", "x"], [(np.full((3, 2), np.nan), ["a", "b"]), (np.empty((3, 0)), [])])
    assert (silent == 0).all()


def test_labels_of_one_class_share_its_evidence():
    total = evidence.combine(np.array([0, 1]), ["a", "a", "b"], [(np.array([[0.1, 0.9]] * 2), ["a", "b"])])
    np.testing.assert_allclose(total[:, 0], total[:, 1])
    assert (total[:, 2] > total[:, 0]).all()


def test_own_markers_have_their_closed_form():
    table, classes = expressed({"a": {"A": 0.9, "B1": 0.2}, "b": {"B1": 0.8}, "c": {"C": 1, "B1": 0.05}}, n=100)
    rates = evidence.marker_rates(table, classes, MARKERS)
    codes = np.repeat([0, 1, 2], 100)
    log = evidence.by_own_markers(table, codes, ["a", "b", "c"], rates)
    assert log[0, 1] == pytest.approx(np.log(0.8 / 0.05))  # the first cells of a express B1
    assert log[50, 1] == pytest.approx(np.log(0.2 / 0.95))
    assert (log[np.arange(300), codes] == 0).all()
