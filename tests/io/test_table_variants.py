"""Real-looking variants of one planted table: each is read right, or refused with the reason."""

import io
import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from table_variants import COUNTS, ENSEMBL, MAPPED, READ, REFUSED, SAMPLES, SAMPLES_OF, SYMBOLS, UNITS, table, turned

import hpvade as hp

DOCS = Path(__file__).parents[2] / "docs" / "user_guide" / "files.md"


def write(folder, name: str, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("variant", READ)
def test_a_variant_is_read_right(variant, tmp_path):
    name, content, values, genes = READ[variant]
    if content == b"":
        pytest.importorskip("openpyxl")
    bulk = hp.io.read_bulk(write(tmp_path, name, content))
    expected = UNITS[values] if isinstance(values, str) else values
    np.testing.assert_allclose(bulk.X, expected.T, rtol=1e-11)
    assert list(bulk.var_names) == genes
    assert list(bulk.obs_names) == SAMPLES_OF.get(variant, SAMPLES[: expected.shape[1]])
    assert bulk.uns["hpvade_read"]["file"] == name
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Excel turned")
        assert list(hp.pp.map_genes(bulk).var_names) == MAPPED.get(variant, SYMBOLS)
    bulk.write_h5ad(tmp_path / "again.h5ad")
    assert list(ad.read_h5ad(tmp_path / "again.h5ad").uns["hpvade_read"]["notes"]) == bulk.uns["hpvade_read"]["notes"]


@pytest.mark.parametrize("variant", REFUSED)
def test_a_variant_is_refused_with_the_reason(variant, tmp_path):
    name, content, reason = REFUSED[variant]
    with pytest.raises(ValueError, match=reason) as caught:
        hp.io.read_bulk(write(tmp_path, name, content))
    assert name in str(caught.value)


def outcomes() -> str:
    """The table of variants in the documentation."""
    import tempfile

    lines = ["| variant | what the reader says |", "|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for variant, (name, content, *_) in READ.items():
            notes = hp.io.read_bulk(write(Path(folder), name, content)).uns["hpvade_read"]["notes"]
            lines.append(f"| {variant} | {_cell('; '.join(notes))} |")
        lines += ["", "| refused | the reason |", "|---|---|"]
        for variant, (name, content, _) in REFUSED.items():
            try:
                hp.io.read_bulk(write(Path(folder), name, content))
            except ValueError as error:
                text = str(error).replace(f"{folder}/", "").split("What is read")[0]
                text = re.sub(r"file \(.*\)\.", "file.", text)  # the words of other libraries
                lines.append(f"| {variant} | {_cell(text)} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= 150 else text[:147].rsplit(" ", 1)[0] + " ..."
    return text.replace("|", "\\|").replace("__", "\\_\\_").replace("<", "&lt;")


def test_the_documentation_has_this_table():
    pytest.importorskip("openpyxl")
    text = DOCS.read_text(encoding="utf-8")
    found = text.split("<!-- variants -->\n")[1].split("<!-- end of variants -->")[0]
    assert found.strip() == outcomes().strip(), (
        "put the text of outcomes() between the marks in docs/user_guide/files.md"
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_truncated_table_is_refused_or_whole_as_far_as_it_goes(seed, tmp_path):
    """A cut inside of the last number leaves no trace; everything before it must be right."""
    rng = np.random.default_rng(seed)
    name = rng.choice(
        ["csv", "decimal commas and semicolons", "nf-core and salmon", "featureCounts", "names in quotes"]
    )
    file, content, values, genes = READ[name]
    path = write(tmp_path, file, content[: int(rng.integers(len(content) // 3, len(content) - 1))])
    try:
        bulk = hp.io.read_bulk(path)
    except ValueError as error:
        assert file in str(error)
    else:
        whole = bulk.n_vars - 1
        assert list(bulk.var_names[:whole]) == genes[:whole]
        np.testing.assert_allclose(bulk.X[:, :whole], UNITS[values].T[:, :whole], rtol=1e-11)


def test_annotation_is_kept_where_it_helps(tmp_path):
    bulk = hp.io.read_bulk(write(tmp_path, *READ["featureCounts"][:2]))
    assert list(bulk.var) == ["length"] and bulk.var["length"].tolist() == list(range(1000, 1008))
    notes = " ".join(bulk.uns["hpvade_read"]["notes"])
    assert "Chr, Start, End, Strand" in notes and "var['length']" in notes and "alignment files" in notes
    bulk = hp.io.read_bulk(write(tmp_path, *READ["nf-core and salmon"][:2]))
    assert bulk.var["gene_name"].tolist() == SYMBOLS
    bulk = hp.io.read_bulk(write(tmp_path, *READ["genes as columns, with annotation"][:2]))
    assert bulk.obs["condition"].tolist() == ["ill", "well", "ill"]


def test_the_side_of_the_genes_can_be_said(tmp_path):
    names = [f"x{i}" for i in range(8)]
    path = write(tmp_path, "a.csv", table(names=names, sep=",", head="thing"))
    with pytest.raises(ValueError, match="genes='rows' or genes='columns'"):
        hp.io.read_bulk(path)
    np.testing.assert_array_equal(hp.io.read_bulk(path, genes="rows").X, COUNTS.T)
    np.testing.assert_array_equal(hp.io.read_bulk(path, genes="columns").X, COUNTS)
    with pytest.raises(ValueError, match="'auto', 'rows' or 'columns'"):
        hp.io.read_bulk(path, genes="row")


def test_unknown_genes_are_the_longer_side(tmp_path):
    names, values = [f"Zgene{i}" for i in range(40)], np.arange(80.0).reshape(40, 2)
    path = write(tmp_path, "a.csv", table(values, names, SAMPLES[:2], sep=",", head=""))
    bulk = hp.io.read_bulk(path)
    np.testing.assert_array_equal(bulk.X, values.T)
    assert "longer side" in " ".join(bulk.uns["hpvade_read"]["notes"])


def test_two_hundred_samples_of_a_transcriptome_do_not_change(tmp_path):
    names = [f"ENSG{i:011d}.1" for i in range(2000)]
    values = np.random.default_rng(1).gamma(0.3, 50, (2000, 40)).round(4)
    stream = io.StringIO()
    pd.DataFrame(values, names, [f"p{i}" for i in range(40)]).to_csv(stream, sep="\t", index_label="gene_id")
    bulk = hp.io.read_bulk(write(tmp_path, "big.tsv", stream.getvalue()))
    np.testing.assert_allclose(bulk.X, values.T, rtol=1e-12)


@pytest.mark.parametrize(
    "samples", [["p1", "p2"], ["p1", "p2", "p3", "p4"], ["S1", "S2", "T1"], ["CD4", "CD8A", "mix"]]
)
def test_samples_that_are_called_as_genes_are(samples, tmp_path):
    """Names of a species that no table has, and samples with names that aliases of human genes have, too."""
    names = [f"si:dkey-{i}h4.{i % 7}" for i in range(60)]
    values = np.random.default_rng(2).poisson(50, (60, len(samples)))
    bulk = hp.io.read_bulk(write(tmp_path, "a.tsv", table(values, names, samples, head="")))
    np.testing.assert_array_equal(bulk.X, values.T)
    assert list(bulk.obs_names) == samples


def test_a_panel_is_told_by_its_genes_however_few(tmp_path):
    values = np.random.default_rng(3).poisson(50, (8, 50))
    samples = [f"patient {i}" for i in range(50)]
    bulk = hp.io.read_bulk(write(tmp_path, "a.csv", turned(values, samples=samples, head="")))
    np.testing.assert_array_equal(bulk.X, values.T)


def test_a_title_above_one_sample(tmp_path):
    path = write(tmp_path, "a.csv", "Counts of one sample,\n" + table(COUNTS[:, :1], samples=["s1"], sep=",", head=""))
    bulk = hp.io.read_bulk(path)
    np.testing.assert_array_equal(bulk.X, COUNTS[:, :1].T)
    assert list(bulk.obs_names) == ["s1"]


def test_one_cell_with_a_dot_for_thousands_is_enough_to_ask(tmp_path):
    text = "gene;s1\nCD3E;334\nCD19;3.689\nACTB;0\n"
    with pytest.raises(ValueError, match="may mean 3689"):
        hp.io.read_bulk(write(tmp_path, "a.csv", text))


@pytest.mark.parametrize("seed", range(25))
def test_random_tables_are_read_right_or_refused(seed, tmp_path):
    """Any delimiter, decimal sign, notation and side: never silently wrong."""
    rng = np.random.default_rng(seed)
    n_genes, n_samples = int(rng.choice([4, 8])), int(rng.integers(1, 4))
    values = np.round(rng.gamma(0.5, 2000, (n_genes, n_samples)), int(rng.integers(0, 5)))
    sep, decimal = rng.choice(["\t", ";", "|", " "]), rng.choice([".", ","])
    grouped = rng.random() < 0.3

    def form(value):
        text = f"{value:,}" if grouped else repr(float(value))
        return text if decimal == "." else text.translate(str.maketrans(",.", ".,"))

    samples = [f"{rng.choice(['p', 'X-', ''])}{i + 1}" for i in range(n_samples)]
    names = list(rng.permutation(ENSEMBL if rng.random() < 0.5 else SYMBOLS)[:n_genes])
    rows = [["gene", *samples], *([name, *map(form, row)] for name, row in zip(names, values, strict=True))]
    if rng.random() < 0.4:
        rows = [list(column) for column in zip(*rows, strict=True)]
        rows[0][0] = "sample"
    path = write(tmp_path, "a.txt", "\n".join(sep.join(row) for row in rows) + "\n")
    try:
        bulk = hp.io.read_bulk(path)
    except ValueError:
        assert grouped or decimal == ","  # only there can a number mean two things
    else:
        np.testing.assert_allclose(bulk.X, values.T, rtol=1e-9)
        assert list(bulk.var_names) == names and list(bulk.obs_names) == samples
