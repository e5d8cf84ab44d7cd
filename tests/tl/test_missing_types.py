"""Markers of a type that the reference lacks, against genes at their level: planted types, and the null."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, norm

from hpvade.tl._missing_types import asked_markers, missing_message, missing_names, missing_types, score_limit

GENES = pd.Index([f"g{i}" for i in range(2000)])


def planted(n_samples=40, share=0.0, seed=0, platform=0.6, n_markers=8):
    """Bulk of two known types and `share` of a third, whose markers the others hardly have; on another platform."""
    rng = np.random.default_rng(seed)
    profiles = rng.lognormal(0, 1.5, (len(GENES), 3))
    profiles[:n_markers, :2] *= 0.02
    profiles /= profiles.sum(axis=0)
    rna = rng.dirichlet([5, 5], n_samples)
    seen = np.c_[rna * (1 - share), np.full(n_samples, share)] @ profiles.T
    seen = seen * np.exp(platform * rng.standard_normal(seen.shape))
    return seen / seen.sum(axis=1, keepdims=True), rna, profiles[:, :2], {"third": list(GENES[:n_markers])}


def test_scores_are_standard_normal_where_the_type_is_not_there():
    """Platform factors drawn anew for every sample and gene: each sample is an independent draw."""
    scores, table = missing_types(*planted(400)[:3], GENES, {"any": list(GENES[100:108])})
    assert kstest(scores["any"], norm.cdf).pvalue > 0.01
    assert table.loc["any", "share"] < 0.03 and 0.8 < table.loc["any", "fold"] < 1.25


@pytest.mark.parametrize(("share", "power"), [(0.05, 0.5), (0.2, 0.95)])
def test_a_planted_type_is_named(share, power):
    shares, rna, signature, markers = planted(share=share)
    scores, table = missing_types(shares, rna, signature, GENES, markers | {"none": list(GENES[100:108])})
    assert table.loc["third", "share"] > power and table.loc["none", "share"] < 0.1
    assert sum("third" in names for names in missing_names(scores)) / len(scores) == table.loc["third", "share"]
    (message,) = missing_message(table, 0.5)
    assert "markers of third" in message and "g0" in message


def test_the_limit_is_bonferroni_s():
    assert score_limit(1) == pytest.approx(norm.isf(0.01)) and score_limit(10) == pytest.approx(norm.isf(0.001))
    scores = pd.DataFrame({"a": [5.0, 1.0, 4.0], "b": [6.0, 0.0, 1.0]})
    assert missing_names(scores) == ["b, a", "", "a"]
    assert missing_names(pd.DataFrame(index=range(2))) == ["", ""]


def test_blocks_do_not_matter(monkeypatch):
    whole = missing_types(*planted(30, 0.1)[:3], GENES, planted(30, 0.1)[3])
    monkeypatch.setattr("hpvade.tl._missing_types._BLOCK", 7)
    blocks = missing_types(*planted(30, 0.1)[:3], GENES, planted(30, 0.1)[3])
    for a, b in zip(whole, blocks, strict=True):
        pd.testing.assert_frame_equal(a, b)


def test_genes_that_the_bulk_never_shows_are_not_asked():
    shares, rna, signature, _ = planted(5)
    shares[:, 3] = 0
    _, table = missing_types(shares, rna, signature, GENES, {"a": ["g3", "g4", "g5", "absent"], "b": ["g3", "g4"]})
    assert list(table.index) == ["a"] and table.loc["a", "genes"] == "g4, g5"


@pytest.mark.parametrize(
    ("types", "asked", "not_asked"),
    [
        (["B cells", "CD4 T", "CD8 T", "NK", "Monocytes"], {"Neutrophil"}, {"T", "B", "CD8 T"}),
        (["B", "T cells", "NK"], {"Mono"}, {"T", "CD8 T"}),
        (["B", "NK"], {"T", "Mono"}, {"CD8 T"}),
        (["B", "CD4 T"], {"CD8 T"}, {"T"}),
    ],
)
def test_types_that_no_label_means(types, asked, not_asked):
    found = set(asked_markers("blood", types))
    assert asked <= found and not not_asked & found


def test_other_tissue_and_own_markers():
    assert asked_markers("blood", ["alpha", "beta", "B"]) == {} == asked_markers(None, ["B", "NK"])
    assert asked_markers({"beta": ["INS"], "alpha": ["GCG"]}, ["alpha"]) == {"beta": ["INS"]}


@pytest.mark.parametrize(
    ("markers", "words"), [("skin", "'skin' is unknown"), (3, "is a int"), ({"B": "CD19"}, "list")]
)
def test_markers_that_cannot_be_read(markers, words):
    with pytest.raises(ValueError, match=words):
        asked_markers(markers, ["B"])
