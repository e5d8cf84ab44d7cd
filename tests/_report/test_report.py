"""The page holds the numbers it was given, escapes what users wrote, and loads nothing."""

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp
from hpvade._report._contents import fingerprint_of_bulk
from hpvade._report._fingerprint import fingerprint

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Tags that are balanced, text, and every address."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.addresses, self.rows = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.rows and self.open and self.open[-1] in ("td", "th", "small"):
            self.rows[-1].append(data.strip())


@pytest.fixture(scope="module")
def done(trained):
    """Bulk with proportions, bounds and diagnosis."""
    bulk = trained.bulk.copy()
    trained.model.deconvolve(bulk)
    intervals = trained.model.get_proportion_intervals(bulk)
    for bound in ("lower", "upper"):
        bulk.obsm[f"hpvade_proportions_{bound}"] = intervals.xs(bound, axis=1, level="bound")
    hp.tl.diagnose(bulk, trained.model, n_simulated=24)
    bulk.obs["group"] = ["a", "b"] * 6
    return bulk


def written(bulk, trained, folder, **options):
    return hp.report(bulk, trained.model, folder / "r.html", **options).read_text(encoding="utf-8")


def test_the_page_shows_the_numbers(done, trained, tmp_path):
    page = Page(written(done, trained, tmp_path, truth_key="proportions", groupby="group"))
    table = done.obsm["hpvade_proportions"]
    rows = {row[0]: row for row in page.rows if row and row[0] in table.index}
    assert set(rows) == set(table.index)
    for name, row in rows.items():
        cells = [float(cell) for cell in row[1:] if re.fullmatch(r"\d+\.\d", cell)]
        np.testing.assert_allclose(cells, 100 * table.loc[name], atol=0.0501)
        bounds = [cell for cell in row if re.fullmatch(r"\d+\.\d–\d+\.\d", cell)]
        low = 100 * done.obsm["hpvade_proportions_lower"].loc[name]
        np.testing.assert_allclose([float(cell.split("–")[0]) for cell in bounds], low, atol=0.0501)
    scores = hp.tl.evaluate(done, "proportions")
    shown = {row[0]: row[1:] for row in page.rows if row and row[0] in ("hpvade", "nnls", "constant")}
    assert shown["hpvade"][list(scores.columns).index("rmse")] == f"{scores['rmse'].iloc[0]:.3f}"
    assert shown["nnls"][list(scores.columns).index("rmse")] == f"{scores.loc['nnls', 'rmse']:.3f}"
    words = " ".join(page.words)
    assert hp.__version__ in words and "a (n = 6)" in words and "No test was made" not in words
    for message in done.uns["hpvade_qc"]["messages"]:
        assert message in words
    means = table.groupby(done.obs["group"].to_numpy()).mean()
    row = next(row for row in page.rows if row and row[0] == table.columns[0] and len(row) == 3)
    assert row[1].startswith(f"{100 * means.iloc[0, 0]:.1f} (")


def test_nothing_is_loaded_from_elsewhere(done, trained, tmp_path):
    text = written(done, trained, tmp_path, truth_key="proportions", groupby="group")
    assert all(address.startswith("data:image/svg+xml;base64,") for address in Page(text).addresses)
    assert not re.search(r"https?://|@import|url\(|fetch\(|XMLHttp", text)
    assert len(text) < 3e6


def test_the_bulk_is_unchanged_and_the_page_is_the_same_again(done, trained, tmp_path, unchanged):
    with unchanged(done):
        first = written(done, trained, tmp_path)
    assert written(done, trained, tmp_path) == first
    assert (
        "Against measured" not in first
        and "Do the groups differ" not in first
        and "labels of the reference" not in first
    )


def test_what_is_missing_is_computed(trained, tmp_path, unchanged, done):
    with unchanged(trained.bulk):
        page = Page(written(trained.bulk, trained, tmp_path))
    table = done.obsm["hpvade_proportions"]
    row = next(row for row in page.rows if row and row[0] == table.index[0])
    cells = [float(cell) for cell in row[1:] if re.fullmatch(r"\d+\.\d", cell)]
    np.testing.assert_allclose(cells, 100 * table.iloc[0], atol=0.0501)


def test_a_type_whose_name_no_file_can_hold(planted, fit, tmp_path):
    """Proportions are stored under a look-alike of "T/NK"; they are shown, and compared, as the type that they are."""
    reference, bulk = planted()
    reference.obs["cell_type"] = reference.obs["cell_type"].cat.rename_categories({"type_0": "T/NK"})
    bulk.obsm["proportions"] = bulk.obsm["proportions"].rename(columns={"type_0": "T/NK"})
    model = fit(reference, 0, keys={"sample_key": "donor"})
    even = 1 / len(model.cell_types)
    shown = 0.98 * model.deconvolve(bulk) + 0.02 * even  # not what the page would make by itself
    bulk.obsm["hpvade_proportions"] = 0.98 * bulk.obsm["hpvade_proportions"] + 0.02 * even
    mapping = {name: name for name in model.cell_types}
    path = hp.report(bulk, model, tmp_path / "r.html", truth_key="proportions", mapping=mapping)
    text = path.read_text(encoding="utf-8")
    assert "T/NK" in text and "T\N{DIVISION SLASH}NK" not in text
    row = next(row for row in Page(text).rows if row and row[0] == bulk.obs_names[0])
    cells = [float(cell) for cell in row[1:] if re.fullmatch(r"\d+\.\d", cell)]
    np.testing.assert_allclose(cells, 100 * shown.iloc[0], atol=0.0501)


def test_bad_samples_are_skipped_where_that_is_asked_for(trained, tmp_path):
    bulk = trained.bulk.copy()
    bulk.X = np.asarray(bulk.X, dtype=float)
    bulk.X[2, 0] = np.nan
    with pytest.raises(ValueError, match="on_bad_sample='skip'"):
        written(bulk, trained, tmp_path)
    with pytest.warns(UserWarning, match="1 of 12 samples that cannot be used"):
        text = written(bulk, trained, tmp_path, on_bad_sample="skip")
    assert "Skipped: NaN at var" in text


def test_what_users_wrote_is_escaped(done, trained, tmp_path):
    bulk = done.copy()
    bulk.obs_names = ["<script>alert(1)</script>", *bulk.obs_names[1:]]
    text = written(bulk, trained, tmp_path, title='<b>"quoted" & bold</b>')
    assert (
        "<script>alert" not in text and "&lt;script&gt;alert(1)" in text and "<b>&#34;" not in text.split("<h1>")[1][:5]
    )
    Page(text)


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"groupby": "none"}, KeyError, "not a column"),
        ({"truth_key": "none"}, KeyError, "not in bulk.obsm"),
        ({"groupby": "one"}, ValueError, "1 groups for 12 samples"),
        ({"groupby": "each"}, ValueError, "12 groups for 12 samples"),
    ],
)
def test_what_cannot_be_shown_is_refused(done, trained, tmp_path, options, error, reason):
    bulk = done.copy()
    bulk.obs["one"], bulk.obs["each"] = "a", list(map(str, range(12)))
    with pytest.raises(error, match=reason):
        written(bulk, trained, tmp_path, **options)
    assert not (tmp_path / "r.html").exists()


def test_other_objects_are_refused(done, trained, tmp_path):
    with pytest.raises(TypeError, match="model is a NoneType; expected a trained hpvade.HPVADE"):
        hp.report(done, None, tmp_path / "r.html")
    with pytest.raises(TypeError, match="The bulk is a HPVADE; expected an AnnData or a DataFrame"):
        hp.report(trained.model, done, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_proportions_of_another_model_are_refused(done, trained, tmp_path):
    bulk = trained.bulk.copy()
    own = trained.model.deconvolve(bulk)
    bulk.obsm["hpvade_proportions"] = own.set_axis([*own.columns[1:], own.columns[0]], axis=1)
    with pytest.raises(ValueError, match="% of the proportions.*outside of this model's intervals: another model"):
        hp.report(bulk, trained.model, tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_a_table_is_bulk(trained, tmp_path):
    of_table = hp.report(trained.bulk.to_df(), trained.model, tmp_path / "t.html").read_text(encoding="utf-8")
    of_adata = hp.report(ad.AnnData(trained.bulk.to_df()), trained.model, tmp_path / "a.html")
    assert of_table == of_adata.read_text(encoding="utf-8")


def test_the_name_of_the_page(done, trained, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.html"):
        hp.report(done, trained.model, tmp_path / "r.pdf")


def test_a_page_that_cannot_be_finished_leaves_the_earlier_one(done, trained, tmp_path, monkeypatch):
    page, write = written(done, trained, tmp_path), Path.write_text

    def full(path, text, **options):
        write(path, text[:100], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        written(done, trained, tmp_path, title="Another")
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == page
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_samples_without_a_group_are_their_own(done, trained, tmp_path):
    bulk = done.copy()
    bulk.obs["group"] = pd.Categorical(["a"] * 5 + ["b"] * 5 + [None] * 2)
    assert "not given (n = 2)" in written(bulk, trained, tmp_path, groupby="group")


def test_many_samples_stay_small(trained, tmp_path, done):
    many = 500
    bulk = done[np.arange(many) % done.n_obs].copy()
    bulk.obs_names = [f"s{i}" for i in range(many)]
    for key in list(bulk.obsm):
        bulk.obsm[key].index = bulk.obs_names
    text = written(bulk, trained, tmp_path, truth_key="proportions", groupby="group")
    assert len(text) < 3e6 and text.count("<tr") > many


def test_sums_to_report_are_shown(done, trained, tmp_path):
    bulk = done.copy()
    merges = pd.DataFrame(
        {"first": ["type_0"], "second": ["type_1"], "lower": [0.41], "upper": [0.58], "width": [0.17]}
    )
    bulk.uns["hpvade_qc"] = {**done.uns["hpvade_qc"], "merges": merges}
    page = Page(written(bulk, trained, tmp_path))
    assert ["type_0 + type_1", "41.0–58.0"] in page.rows


def test_the_comparison_of_groups_is_that_of_tl(done, trained, tmp_path):
    bulk = done.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = hp.tl.compare_groups(bulk.copy(), "group")
    page = Page(written(bulk, trained, tmp_path, groupby="group"))
    rows = {row[0]: row for row in page.rows if len(row) == 8 and row[0] in bulk.obsm["hpvade_proportions"]}
    for row in expected.itertuples():
        shown = rows[row.type]
        assert shown[1] == f"{100 * row.difference:+.1f}" and shown[3] == f"{row.log2_ratio:+.2f}"
        assert shown[4] == f"{row.log2_lower:+.2f} to {row.log2_upper:+.2f}"
        assert (shown[5], shown[6]) == (f"{row.p_value:.2g}", f"{row.fdr:.2g}")
    assert "centred log-ratios" in " ".join(page.words)


def test_a_stored_comparison_is_taken(done, trained, tmp_path):
    bulk = done.copy()
    bulk.obs["subject"] = [f"p{i // 2}" for i in range(12)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = hp.tl.compare_groups(bulk, "group", paired="subject", reference="b", method="ols")
    words = " ".join(Page(written(bulk, trained, tmp_path, groupby="group")).words)
    assert "Adjusted for subject" in words and "within subjects (subject)" in words
    assert f"{found['log2_ratio'].iloc[0]:+.2f}" in words
    bulk.uns["compare_groups"]["params"]["groupby"] = "another"
    assert "Adjusted for" not in " ".join(Page(written(bulk, trained, tmp_path, groupby="group")).words)


def test_a_group_of_one_sample_is_shown_without_a_test(done, trained, tmp_path):
    bulk = done.copy()
    bulk.obs["group"] = ["a"] * 11 + ["b"]
    words = " ".join(Page(written(bulk, trained, tmp_path, groupby="group")).words)
    assert "No test was made" in words and "one sample" in words and "b (n = 1)" in words


def test_more_groups_and_their_order(done, trained, tmp_path):
    bulk = done.copy()
    bulk.obs["group"] = pd.Categorical(["late", "early", "mid"] * 4, ["early", "mid", "late"])
    page = Page(written(bulk, trained, tmp_path, groupby="group"))
    assert [row[1] for row in page.rows if len(row) == 9 and row[0] == "type_0"] == ["mid", "late"]
    assert any(row[1:] == ["early (n = 4)", "mid (n = 4)", "late (n = 4)"] for row in page.rows)


def test_labels_of_the_reference(done, trained, tmp_path):
    reference = trained.reference.copy()
    with pytest.raises(KeyError, match="run hpvade.tl.check_labels"):
        written(done, trained, tmp_path, reference=reference)
    hp.tl.check_labels(reference, "cell_type", markers=None)
    check = reference.uns["label_check"]
    check["findings"] = pd.DataFrame({"type": ["x"], "second": ["y"], "share": [0.2], "text": ["21% of <x> is y."]})
    words = " ".join(Page(written(done, trained, tmp_path, reference=reference)).words)
    assert "Do the labels of the reference hold?" in words and "21% of <x> is y." in words
    check["findings"] = check["findings"].iloc[:0]
    assert "No label contradicts" in " ".join(Page(written(done, trained, tmp_path, reference=reference)).words)


def test_fingerprint_names_the_numbers_of_the_bulk(done, trained, tmp_path):
    other = done.copy()
    other.X = sparse.csr_matrix(done.X.astype(np.float64))
    assert fingerprint_of_bulk(other) == fingerprint_of_bulk(done)
    other.X[0, 0] += 1
    assert fingerprint_of_bulk(other) != fingerprint_of_bulk(done)
    assert fingerprint_of_bulk(done[::-1].copy()) != fingerprint_of_bulk(done)
    words = " ".join(Page(written(done, trained, tmp_path)).words)
    assert fingerprint_of_bulk(done) in words and fingerprint(trained.model) in words
    assert "HPVADE, preset default, of hpvade" in words and "fractions of cells" in words


def test_tables_keep_names_in_sight_and_say_that_there_is_more(done, trained, tmp_path):
    """First cells stay at the left, in the heading, too; on paper nothing scrolls."""
    text = written(done, trained, tmp_path)
    assert '<table class="sortable samples">' in text
    screen, paper = text[: text.index("@media print")], text[text.index("@media print") :]
    assert "tbody th, thead th:first-child { position: sticky; left: 0;" in screen and ".scroll:has(table)" in screen
    assert "tbody th, thead th:first-child { position: static;" in paper


def test_the_page_judges_batches_by_their_own_fit(trained, tmp_path):
    """Batches on two platforms: the page has the bounds and the verdict of the batches that made the proportions."""
    bulk = ad.concat({"a": trained.bulk, "b": trained.bulk}, label="study", index_unique="-")
    factor = np.exp(np.random.default_rng(0).normal(0, 1.2, bulk.n_vars))
    bulk.X[12:] = np.rint(bulk.X[12:] * factor)
    trained.model.deconvolve(bulk, batch_key="study")
    page = written(bulk, trained, tmp_path)
    for text in ("2: a (12), b (12)", "in each of 2 batches"):
        assert text in page
    named = bulk.copy()
    del named.obsm["hpvade_proportions"], named.uns["hpvade_proportions"]
    assert written(named, trained, tmp_path, batch_key="study") == page
    done = hp.tl.diagnose(bulk, trained.model, batch_key="study", copy=True)
    for message in done.uns["hpvade_qc"]["messages"]:
        assert message in "".join(Page(page).words)
