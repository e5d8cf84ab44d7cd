"""The pages keep their promises: numbers of tables, messages of the source, pictures of plots, code that runs."""

import ast
import re
import sys
from pathlib import Path

import pytest

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
