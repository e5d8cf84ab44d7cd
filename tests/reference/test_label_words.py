import numpy as np
import pandas as pd
import pytest

from hpvade.reference import _label_words
from hpvade.reference._labels import LabelCheck


@pytest.fixture
def check():
    types = pd.DataFrame(
        {
            "class": ["CD4 T", "CD4 T", "CD8 T", "B"],
            "n_cells": [600, 400, 250, 10],
            "doublets": [0.0, 0.05, 0.0, 0.2],
            "flagged": [0.1, 0.0, 0.1, 0.0],
            "predicted": [0.9, 0.9, 0.8, 0.1],
        },
        index=["Naive CD4 T", "Treg", "CD8 T", "B"],
    )
    pairs = pd.DataFrame(
        [
            ["Naive CD4 T", "CD8 T", 0.25, 150.0, 0.5, "markers", 0.0],
            ["CD8 T", "Treg", 0.1, 25.0, 0.94, "cells", 0.1],
            ["B", "Treg", 0.2, 2.0, 0.99, "cells", 0.2],  # two cells are no finding
            ["Treg", "Naive CD4 T", 0.02, 8.0, 0.98, "cells", 0.02],
        ],
        columns=["type", "second", "share", "n_cells", "read", "by", "cells"],
    )
    markers = pd.DataFrame(
        [
            ["CD4 T", "CD8 T", "CD8A, CD8B", 0.2, 0.8, 0.05, "B", 0.25, 9.0],
            ["CD8 T", "NK", "KLRF1", 0.3, np.nan, 0.05, "B", np.nan, 8.0],
            ["B", "CD4 T", "CD3D", 0.5, 0.9, 0.1, "CD8 T", 0.5, 2.0],  # not significant
        ],
        columns=["type", "second", "genes", "rate", "full", "background", "yardstick", "excess", "z"],
    )
    nothing = np.zeros(4)
    return LabelCheck(types, pairs, markers, nothing, nothing, np.array([1, 0, 0, 0], dtype=bool), nothing)


def test_one_sentence_per_finding(check):
    table = _label_words.findings(check, "labels", "label_check")
    assert table[["type", "second"]].to_numpy().tolist() == [
        ["Naive CD4 T + Treg", "CD8 T"],
        ["CD8 T", "NK"],
        ["CD8 T", "Treg"],
        ["Treg", "doublets"],
    ]
    by_markers, nameless, cells, doublets = table["text"]
    assert by_markers.startswith("20% of the cells labelled 'Naive CD4 T' or 'Treg' express CD8A or CD8B; ambient RNA")
    assert "explain 5% (as in B), and 80% of CD8 T do: about 25% of them are CD8 T" in by_markers
    assert "read at about 50% of its share" in by_markers  # 250 of 250 + 0.25 * 1000
    assert "types=['CD4 T', 'CD8 T', 'NK'], mapping={'Naive CD4 T': 'CD4 T', 'Treg': 'CD4 T'})" in by_markers
    assert "no label means NK, which will be read as CD8 T" in nameless
    assert "10% of the cells labelled 'CD8 T' look like 'Treg'; 'Treg' will be read at about 94%" in cells
    assert "obs['label_check_flagged']" in cells
    assert "5% of the cells labelled 'Treg' lie among simulated doublets" in doublets


def test_the_remedy_is_flagged_cells_where_there_are_some(check):
    (cells,) = _label_words.findings(check, "labels", "qc").query("second == 'Treg'")["text"]
    assert "Leave them out (obs['qc_flagged'])" in cells
    check.types.loc["CD8 T", "flagged"] = 0.0
    (cells,) = _label_words.findings(check, "labels", "qc").query("second == 'Treg'")["text"]
    assert (
        "qc_flagged" not in cells
        and "None of them is sure enough to be flagged: look at the highest obs['qc_score']" in cells
    )


def test_labels_that_the_others_do_not_predict(check):
    words = "The other cells' labels predict 34% of the labels"
    assert not any("labels predict" in text for text in _label_words.limits(check, None, {}, []))
    check.types["predicted"] = [0.4, 0.2, 0.4, 1.0]  # 0.34 of the 1260 cells
    assert any(text.startswith(words) for text in _label_words.limits(check, None, {}, []))


def test_limits_say_what_was_not_looked_at(check):
    alone = _label_words.limits(check, None, {}, [])
    assert alone[0].startswith("Without markers and without an anchor")
    assert alone[1] == "Too few cells to say much of B."
    assert "mapping={'own label': 'CD8 T'}" in _label_words.limits(check, None, {}, [], unread=True)[1]
    heard = {"list of markers": ["CD4 T", "CD8 T", "B"], "anchor": ["CD4 T"]}
    found = _label_words.limits(check, {}, heard, ["CD79A"])
    assert found[:2] == ["The anchor says nothing of CD8 T, B.", "Markers that the data lack: CD79A."]


def test_a_type_that_the_anchor_calls_otherwise(check):
    check.types["anchor"] = [0.9, 0.8, 0.4, 0.0]  # of B there are too few cells to say so
    texts = [text for text in _label_words.limits(check, None, {}, []) if "anchor calls" in text]
    assert len(texts) == 1 and texts[0].startswith(
        "The anchor calls 40% of the cells labelled 'CD8 T' so: the label or"
    )
    check.types["anchor"] = [0.1, 0.1, 0.4, 0.0]  # then all of them do not belong
    texts = _label_words.limits(check, None, {}, [])
    assert not any("anchor calls" in text for text in texts) and any("anchor agrees with 16%" in text for text in texts)


def test_everything_flagged(check):
    check.flagged[:3] = True
    assert _label_words.limits(check, None, {}, [])[1].startswith("75% of the cells are flagged")
