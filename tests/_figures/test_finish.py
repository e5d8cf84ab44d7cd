"""Every plot can be shown, written and drawn in the user's colours; asked of all of them in one place."""

import inspect
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpvade import pl
from hpvade._figures._finish import finished
from hpvade._figures._palette import stored_palette


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


PLOTS = {name: getattr(pl, name) for name in pl.__all__}


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_takes_show_and_save(name):
    taken = inspect.signature(PLOTS[name]).parameters
    assert taken["show"].default is None and taken["save"].default is None
    assert taken["show"].kind is taken["save"].kind is inspect.Parameter.KEYWORD_ONLY
    if "Axes" in str(inspect.signature(PLOTS[name]).return_annotation):
        assert taken["ax"].default is None


def test_what_is_drawn_is_handed_out(tmp_path):
    figure, ax = plt.subplots(figsize=(2, 1))
    assert finished(ax, None, None) is ax and finished(figure, False, None) is figure
    assert finished(ax, None, tmp_path / "a.png") is ax
    assert plt.imread(tmp_path / "a.png").shape[0] > 100
    sub = figure.subfigures()
    assert finished(sub.subplots(), None, tmp_path / "b.svg") is not None
    assert (tmp_path / "b.svg").read_text().lstrip().startswith("<?xml")


def test_a_picture_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    figure, _ = plt.subplots(figsize=(2, 1))
    finished(figure, None, tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()

    def half(self, path, **options):
        Path(path).write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", half)
    for name in ("a.png", "b.png"):
        with pytest.raises(KeyboardInterrupt):
            finished(figure, None, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"] and (tmp_path / "a.png").read_bytes() == whole


def test_names_as_matplotlib_reads_them(tmp_path, monkeypatch):
    """A relative one, and one without an ending."""
    monkeypatch.chdir(tmp_path)
    figure, _ = plt.subplots(figsize=(2, 1))
    finished(figure, None, "a")
    finished(figure, None, "b.v2.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.v2.svg"]


def test_shown_once_and_nothing_returned(monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    _, ax = plt.subplots()
    assert finished(ax, True, None) is None and shown == [1]


def test_a_plot_is_written_and_returned(tmp_path, monkeypatch):
    p = pd.DataFrame({"T": [0.6, 0.7], "B": [0.4, 0.3]}, index=["s1", "s2"])
    assert isinstance(pl.proportions(p, save=tmp_path / "p.pdf"), Axes)
    assert (tmp_path / "p.pdf").read_bytes().startswith(b"%PDF")
    assert isinstance(pl.agreement(p, truth=p, show=False), Figure)
    monkeypatch.setattr(plt, "show", lambda: None)
    assert pl.agreement(p, truth=p, show=True) is None


def test_colours_are_read_where_scanpy_keeps_them():
    adata = ad.AnnData(np.ones((2, 1)), uns={"group_colors": np.array(["red", "blue", "green"])})
    assert stored_palette(adata, "group", ["a", "b"], None) == {"a": "red", "b": "blue"}
    assert stored_palette(adata, "group", list("abcd"), None) is None  # too few for these names
    assert stored_palette(adata, "other", ["a"], None) is None
    assert stored_palette(adata, "group", ["a"], ["black"]) == ["black"]
    adata.uns["group_colors"] = {"a": "cyan"}
    assert stored_palette(adata, "group", ["a"], None) == {"a": "cyan"}
    assert stored_palette(pd.DataFrame(), "group", ["a"], None) is None
