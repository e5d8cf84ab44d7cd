"""Merges are found where sums are sure and parts are not, and only there."""

import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade.tl._resolution import candidates, helpful, messages, of_sums, resolution, typical

TYPES = ["A", "B", "C", "D"]


def bounds(**spans):
    table = pd.DataFrame(spans, index=["lower", "upper"]).T
    return table.assign(width=table["upper"] - table["lower"], open=True)


def test_typical_bounds_are_medians():
    columns = pd.MultiIndex.from_product([["A"], ["lower", "median", "upper"]])
    table = pd.DataFrame([[0.1, 0.2, 0.3], [0.2, 0.3, 0.6], [0.3, 0.4, 0.5], [np.nan] * 3], columns=columns)
    np.testing.assert_allclose(typical(table).loc["A"], [0.2, 0.5, 0.2])


def test_candidates_are_the_most_similar_each_pair_once():
    similarity = pd.DataFrame(1 - np.abs(np.subtract.outer(range(6), range(6))) / 10, list("ABCDEF"), list("ABCDEF"))
    assert candidates(["A", "B"], similarity) == [("A", "B"), ("A", "C"), ("A", "D"), ("B", "C"), ("B", "D")]


def test_disjoint_pairs_are_asked_for_together():
    asked = []

    def intervals(mapping):
        asked.append(mapping)
        names = list(dict.fromkeys(mapping.values()))
        return pd.DataFrame({"lower": 0.0, "upper": 1.0, "width": 1.0}, index=names)

    found = of_sums([("A", "B"), ("A", "C"), ("C", "D")], TYPES, intervals)
    assert set(found) == {("A", "B"), ("A", "C"), ("C", "D")} and len(asked) == 2
    assert asked[0] == {"A": "A + B", "B": "A + B", "C": "C + D", "D": "C + D"}
    assert asked[1] == {"A": "A + C", "B": "B", "C": "A + C", "D": "D"}


def test_the_surest_sum_is_proposed_where_it_is_much_surer():
    types = bounds(A=(0.0, 0.49), B=(0.05, 0.5), C=(0.0, 0.45), D=(0.1, 0.12))
    sums = {("A", "B"): (0.41, 0.58), ("A", "C"): (0.3, 0.6), ("B", "C"): (0.1, 0.6)}
    sums = {pair: pd.Series({"lower": a, "upper": b, "width": b - a}) for pair, (a, b) in sums.items()}
    merges = helpful(types, ["A", "B", "C"], sums)
    assert list(zip(merges["first"], merges["second"], strict=True)) == [("A", "B"), ("A", "C")]
    said = messages(types, ["A", "B", "C"], merges.iloc[:1])
    assert said[0].startswith(
        "'A' and 'B' cannot be told apart here: 0.00 to 0.49 and 0.05 to 0.50; together 0.41 to 0.58"
    )
    assert said[1].startswith("This bulk leaves open how much there is of 'C' (0.00 to 0.45)")


def test_what_is_sure_enough_is_not_mentioned():
    types = bounds(A=(0.3, 0.6), B=(0.0, 0.2))
    assert messages(types, ["A", "B"], helpful(types, ["A", "B"], {})) == []


@pytest.fixture(scope="module")
def twins(planted, fit):
    """A model in which the cells of one type carry two labels at random, and its bulk."""
    reference, bulk = planted()
    labels = reference.obs["cell_type"].astype(str).to_numpy()
    split = (labels == "type_0") & (np.random.default_rng(0).random(len(labels)) < 0.5)
    reference.obs["cell_type"] = pd.Categorical(np.where(split, "twin_0", labels))
    return fit(reference, 30, train={"early_stopping": False}), bulk


def test_twins_are_named_and_their_sum_is_proposed(twins):
    model, bulk = twins
    types, merges, said = resolution(model, bulk)
    assert types.loc[["type_0", "twin_0"], "open"].all()
    assert [{row["first"], row["second"]} for _, row in merges.iterrows()] == [{"type_0", "twin_0"}]
    truth = bulk.obsm["proportions"]["type_0"].median()
    assert merges["lower"].iloc[0] - 0.05 < truth < merges["upper"].iloc[0] + 0.05
    assert "'twin_0' and 'type_0' cannot be told apart here" in said[0]
    result = hp.tl.diagnose(bulk, model, n_simulated=24, copy=True).uns["hpvade_qc"]
    assert said[0] in list(result["messages"])
    pd.testing.assert_frame_equal(result["merges"], merges)


def test_types_that_can_be_told_apart_are_not_merged(trained):
    _, merges, said = resolution(trained.model, trained.bulk)
    assert len(merges) == 0 and said == []
