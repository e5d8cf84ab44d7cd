import base64

import numpy as np
import pandas as pd

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
    assert len(figures.stacked_bars(many).src) < 300_000


def test_the_same_figure_again():
    one, two = (figures.intervals(table(8), 0.5 * table(8), 1.2 * table(8)) for _ in range(2))
    assert one == two and "<dc:date>" not in drawn(one)


def test_intervals_of_all_types_but_the_unknown():
    wide = table(8).assign(unknown=0.1)
    assert drawn(figures.intervals(wide, 0.5 * table(8), 1.2 * table(8))).count('id="axes_') == 3


def test_one_panel_per_type():
    labels = np.array(["x", "y"] * 4)
    assert drawn(figures.groups(table(8), labels)).count('id="axes_') == 3
    assert figures.groups(table(8), labels).min_width > 300
