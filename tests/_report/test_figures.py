import base64

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from hpvade._figures._palette import BASE
from hpvade._report import _figures as figures


def drawn(image) -> str:
    return base64.b64decode(image.src.removeprefix("data:image/svg+xml;base64,")).decode()


def table(n):
    values = np.random.default_rng(0).dirichlet([2, 3, 4], n)
    return pd.DataFrame(values, [f"s{i}" for i in range(n)], ["A", "B", "C"])


def test_few_samples_are_vectors_and_many_are_pixels():
    few, many = table(20), table(600)
    assert "<image" not in drawn(figures.intervals(few, 0.5 * few, 1.2 * few))
    assert "<image" in drawn(figures.intervals(many, 0.5 * many, 1.2 * many))
    assert len(figures.composition(many).src) < 300_000


def test_the_same_figure_again():
    one, two = (figures.intervals(table(8), 0.5 * table(8), 1.2 * table(8)) for _ in range(2))
    assert one == two and "<dc:date>" not in drawn(one)


def test_intervals_of_all_types_but_the_unknown():
    wide = table(8).assign(unknown=0.1)
    assert drawn(figures.intervals(wide, 0.5 * table(8), 1.2 * table(8))).count('id="axes_') == 3


def test_types_in_rows_and_groups_in_colours():
    labels = pd.Series(["x", "y"] * 4, table(8).index, dtype="category")
    assert drawn(figures.groups(table(8), labels)).count('id="PathCollection_') >= 2
    assert figures.groups(table(8), labels).min_width > 300


def test_groups_have_one_colour_in_both_figures():
    labels = pd.Series(["x", "y"] * 4, table(8).index, dtype="category")
    results = pd.DataFrame({"type": ["A"], "group": "y", "reference": "x", "log2_ratio": 1.0, "fdr": 0.01})
    results = results.assign(log2_lower=0.5, log2_upper=1.5)
    of_y = BASE[1].lower()
    assert of_y in drawn(figures.groups(table(8), labels)) and of_y in drawn(figures.differences(results, labels))
    assert BASE[0].lower() not in drawn(figures.differences(results, labels))


def test_long_names_leave_the_panels_their_room(monkeypatch):
    monkeypatch.setattr(figures, "as_image", lambda figure: figure)
    heights = []
    for names in (
        [f"sample_{i}" for i in range(8)],
        [f"TCGA-AB-2803-03A-01T-0734-13_of_a_patient_with_number_{i}" for i in range(8)],
    ):
        one = table(8).set_axis(names)
        figure = figures.intervals(one, 0.5 * one, 1.2 * one)
        figure.canvas.draw()
        heights.append(min(ax.get_position().height for ax in figure.axes))
        plt.close(figure)
    assert heights[1] > 0.6 * heights[0]
    assert figures._short("TCGA-AB-2803-03A-01T") == "TCGA-AB-2803-03A-01T" and len(figures._short("a" * 21)) == 20
