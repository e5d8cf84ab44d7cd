"""The pages keep their promises: numbers of tables, messages of the source, pictures of plots, code that runs."""

import ast
import re
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse

import hpvade as hp

ROOT = Path(__file__).parents[1]
DOCS, SOURCE = ROOT / "docs", ROOT / "src" / "hpvade"
PAGES = sorted(page for page in DOCS.rglob("*.md") if not {"_build", "generated", "results"} & set(page.parts))
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["body"] for match in found if match["language"] == language]


@pytest.fixture(scope="module")
def extensions():
    """`measured` and `mathml`, as Sphinx finds them."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS / "_ext"))
    import mathml
    import measured

    yield measured, mathml
    sys.path.remove(str(DOCS / "_ext"))


# ---------------------------------------------------------------- numbers


NUMBERS = [
    pytest.param(text, id=f"{page.name}-{text[:60]}")
    for page in PAGES
    for text in re.findall(r"\{measured\}`([^`]*)`", page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_stands_in_its_table(extensions, text):
    value = extensions[0].lookup(text)
    assert re.search(r"\d", value) and value in (ROOT / "benchmarks" / text.split("::")[0].strip()).read_text()


TABLES = """
# A

| row | x | `y z` |
|---|---|---|
| one | 1 | 2 |
| one | 3 | 4 |

## B

| row | kind | x |
|---|---|---|
| one | p | 5 |
| one | q | 6 |
"""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("t.md :: ## B :: one & q :: x", "6"),
        ("t.md :: # A :: one & 3 :: y z", "4"),
        ("t.md :: ## B :: one & p :: x", "5"),
    ],
)
def test_a_cell_is_found_by_its_names(extensions, tmp_path, monkeypatch, text, value):
    measured = extensions[0]
    (tmp_path / "t.md").write_text(TABLES)
    monkeypatch.setattr(measured, "BENCHMARKS", tmp_path)
    measured.tables.cache_clear()
    assert measured.lookup(text) == value
    for wrong in ("# C :: one :: x", "## B :: one :: x", "## B :: two :: x", "# A :: one & 3 :: w"):
        with pytest.raises(KeyError):
            measured.lookup(f"t.md :: {wrong}")
    measured.tables.cache_clear()


def test_the_table_of_peers_is_there_to_be_included():
    """The first page takes what lies between two lines of the file."""
    start, end = re.search(r':start-after: "(.*)"\n:end-before: "(.*)"', (DOCS / "index.md").read_text()).groups()
    text = (ROOT / "benchmarks" / "RESULTS_peers.md").read_text()
    assert text.count(start) == 1 and text.count(end) == 1
    table = text.split(start)[1].split(end)[0]
    for part in ("| NNLS |", "| constant |", "| hpvade's RMSE |"):
        assert part in table


# ---------------------------------------------------------------- formulas


FORMULAS = [
    pytest.param(text, block, id=f"{page.name}-{i}")
    for page in PAGES
    for block, pattern in ((True, r"\$\$(.*?)\$\$"), (False, r"(?<![\\$`])\$([^$\n]+)\$(?!\$)"))
    for i, text in enumerate(re.findall(pattern, BLOCK.sub("", page.read_text(encoding="utf-8")), re.DOTALL))
]


@pytest.mark.parametrize(("text", "block"), FORMULAS)
def test_a_formula_is_mathml(extensions, text, block):
    from xml.etree import ElementTree

    mathml = re.sub(r"&(?!lt|gt|amp)\w+;", "?", extensions[1].to_mathml(text, block=block))  # names that HTML knows
    tree = ElementTree.fromstring(mathml)
    assert tree.tag.endswith("math") and "".join(tree.itertext()).strip()


def test_brackets_keep_their_places(extensions):
    plain, sized = (extensions[1].to_mathml(text, block=False) for text in ("(a)", r"\big(a\Big)"))
    assert plain == sized


# ---------------------------------------------------------------- messages


def source_texts() -> list[str]:
    """Every text in the source, implicit joins made, with a gap where a value is put in."""
    texts = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
                texts.append("".join(map(str, parts)))
    return texts


TEXTS = source_texts()


@pytest.mark.parametrize("message", blocks(DOCS / "user_guide" / "troubleshooting.md", "text"))
def test_a_quoted_message_is_one(message):
    parts = [re.escape(" ".join(part.split())) for part in message.split("...")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in TEXTS), f"no message of the source reads {message.strip()!r}"


# ---------------------------------------------------------------- pictures


def test_every_picture_is_of_a_plot_and_shown():
    page = (DOCS / "api" / "pl.md").read_text()
    pictures = {path.stem for path in (DOCS / "_static" / "pl").glob("*.png")}
    assert pictures and pictures == set(re.findall(r"_static/pl/(\w+)\.png", page))
    assert pictures <= set(hp.pl.__all__)


# ---------------------------------------------------------------- code


def test_the_tutorial_runs(tmp_path, monkeypatch):
    """From files to the page, block after block; the answer is near the measured one."""
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(DOCS / "tutorial.md", "python"):
        exec(compile(block, "tutorial.md", "exec"), names)
    scores = names["scores"]["rmse"]
    assert scores["hpvade_proportions"] < scores["constant"] < scores["nnls"]
    assert (tmp_path / "report.html").stat().st_size < 3_000_000
    assert names["bulk"].obsm["hpvade_proportions"].shape[0] == 8


def test_preparing_the_bulk_runs():
    names: dict = {}
    for block in blocks(DOCS / "user_guide" / "prepare_bulk.md", "python"):
        exec(compile(block, "prepare_bulk.md", "exec"), names)
    table = names["model"].deconvolve(names["bulk"].to_df())
    assert table.shape == names["bulk"].obsm["hpvade_proportions"].shape


@pytest.fixture
def two_epochs(monkeypatch):
    """Networks of two epochs on the CPU; what the numbers become is not asked here."""
    for family in ("RegularizedMultimodalVI", "ConditionalVAE", "CycleAE", "IVAE", "HPVADE"):
        whole = getattr(hp, family).train

        def train(self, *args, whole=whole, **options):
            options |= {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False}
            return whole(self, **options)

        monkeypatch.setattr(getattr(hp, family), "train", train)


def two_modalities():
    rng, parts = np.random.default_rng(0), {}
    obs = pd.DataFrame({"sample": ["a", "b"] * 60, "cell_type": ["B", "T", "B"] * 40, "site": ["s1", "s1", "s2"] * 40})
    for name, n_features in (("rna", 50), ("atac", 40)):
        counts = sparse.csr_matrix(rng.poisson(2.0, (120, n_features)).astype(np.float32))
        parts[name] = ad.AnnData(counts, obs=obs.set_axis([f"c{i}" for i in range(120)]))
        parts[name].var_names = [f"{name}{i}" for i in range(n_features)]
    mdata = MuData(parts)
    mdata.obs[list(obs)] = parts["rna"].obs
    return {"mdata": mdata}


def write_chunks():
    """`chunks/` of the page of CycleAE, and `batches/` of that of ConditionalVAE."""
    cells = hp.datasets.planted_contexts(120, 30)
    Path("chunks").mkdir()
    Path("genes.txt").write_text("\n".join(cells.var_names))
    for i in (1, 2):
        part = cells[i - 1 :: 2]
        sparse.save_npz(f"chunks/counts_{i}.npz", sparse.csr_matrix(part.X, dtype=np.float32))
        for folder in (".", "chunks"):
            part.obs.to_csv(Path(folder, f"meta_{i}.csv"), index=False)
    Path("batches").mkdir()
    with h5py.File("batches/batch_0.h5", "w") as file:
        file["X"], file["genes"] = cells.X.toarray(), np.array(cells.var_names, dtype="S")
        file["cells"] = np.array(cells.obs_names, dtype="S")
        for name, values in cells.obs.astype(str).items():
            file[f"obs/{name}"] = values.to_numpy(dtype="S")


def few_cells():
    cells = hp.datasets.pbmc_reference()
    return cells[::6, np.argsort(-np.asarray(cells.X.mean(axis=0)).ravel())[:300]].copy()


def write_droplets(cells):
    """The raw matrix of the ambient page: the cells, and droplets with a hundredth of their counts."""
    empty = np.random.default_rng(0).binomial(cells.X.toarray().astype(int), 0.01)
    counts = sparse.csc_matrix(np.vstack([cells.X.toarray(), empty]).T)
    with h5py.File("raw_feature_bc_matrix.h5", "w") as file:
        group = file.create_group("matrix")
        group["data"], group["indices"], group["indptr"] = counts.data, counts.indices, counts.indptr
        group["shape"], group["barcodes"] = counts.shape, np.arange(counts.shape[1]).astype("S")
        features, genes = group.create_group("features"), np.array(cells.var_names, "S")
        features["id"], features["name"] = genes, genes
        features["feature_type"] = np.array(["Gene Expression"] * len(genes), "S")
        features["genome"] = np.array(["GRCh38"] * len(genes), "S")


@pytest.mark.parametrize("page", ["ambient", "multimodal", "conditional_vae", "cycleae", "ivae"])
def test_the_blocks_of_a_family_run(page, two_epochs, tmp_path, monkeypatch):
    """Block after block, as a reader would, on few cells."""
    monkeypatch.chdir(tmp_path)
    cells, planted = few_cells(), hp.datasets.planted_contexts
    monkeypatch.setattr(hp.datasets, "pbmc_reference", cells.copy)
    monkeypatch.setattr(
        hp.datasets, "planted_contexts", lambda *size, **options: planted(*(size or (240, 60)), **options)
    )
    write_chunks()
    write_droplets(cells)
    names: dict = two_modalities() if page == "multimodal" else {}
    for i, block in enumerate(blocks(DOCS / "user_guide" / f"{page}.md", "python")):
        exec(compile(block, f"{page}.md, block {i}", "exec"), names)
