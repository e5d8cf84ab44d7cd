"""The documentation names what exists, and everything that exists is documented."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import hpvade

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if not {"_build", "generated"} & set(page.parts))
SUBPACKAGES = ["pp", "tl", "pl", "io", "datasets", "simulate", "solvers", "nn"]
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=fence)`*$", re.MULTILINE | re.DOTALL)


def fences(page: Path):
    return [(match["language"].strip(), match["body"]) for match in FENCE.finditer(page.read_text(encoding="utf-8"))]


def stub_names() -> list[str]:
    """`__all__` of the type stub, which the lazy top level follows."""
    tree = ast.parse((ROOT / "src/hpvade/__init__.pyi").read_text(encoding="utf-8"))
    (names,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
    return ast.literal_eval(names)


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_pages_are_found():
    assert {"docs/index.md", "docs/physics.md", "docs/api/index.md"} <= {page_id(page) for page in PAGES}
    assert len(fences(ROOT / "README.md")) >= 3


@pytest.mark.parametrize("name", [name for name in stub_names() if name not in SUBPACKAGES])
def test_every_class_of_the_stub_is_in_the_api(name):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    assert re.search(rf"^   (nn\.)?{name}$|`(hpvade|hp)\.{name}`", pages, re.MULTILINE), f"{name} is on no page"


def test_the_stub_names_every_subpackage():
    assert set(SUBPACKAGES) <= set(stub_names())


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_every_function_is_in_the_api(subpackage):
    module = importlib.import_module(f"hpvade.{subpackage}")
    page = (DOCS / "api" / f"{subpackage}.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"\b(\w+)\b", page))
    assert module.__all__, f"hpvade.{subpackage} has no public names"
    assert not set(module.__all__) - shown, f"docs/api/{subpackage}.md does not show these names"


@pytest.mark.parametrize("page", sorted((DOCS / "api").glob("*.md")), ids=page_id)
def test_the_api_lists_only_what_exists(page):
    listed = [
        name
        for language, body in fences(page)
        if language == "{eval-rst}"
        for name in re.findall(r"^   ([A-Za-z_][\w.]*)$", body, re.MULTILINE)
    ]
    for name in listed:
        target = hpvade
        for part in name.split("."):
            target = getattr(target, part)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_toctree_entries_exist(page):
    for language, body in fences(page):
        if language != "{toctree}":
            continue
        for entry in (line.strip() for line in body.splitlines()):
            if entry and not entry.startswith(":"):
                found = [path for suffix in (".md", ".ipynb") for path in page.parent.glob(entry + suffix)]
                assert found, f"{entry} is no page"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_page_is_in_a_toctree(page):
    entries = {
        (parent.parent / line.strip()).relative_to(DOCS).as_posix()
        for parent in PAGES
        for language, body in fences(parent)
        if language == "{toctree}"
        for line in body.splitlines()
    }
    name = page.relative_to(DOCS).with_suffix("").as_posix()
    assert name == "index" or name in entries


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES], ids=page_id)
def test_links_to_files_resolve(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{target} does not exist"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=page_id)
def test_python_blocks_are_valid(page):
    for language, body in fences(page):
        if language == "python":
            ast.parse(body)


def test_both_commands_of_the_readme_are_one_line():
    blocks = [body.strip() for language, body in fences(ROOT / "README.md") if language == "bash"]
    assert len(blocks) == 2
    assert all("\n" not in block and " && " in block for block in blocks)
    assert blocks[0].endswith("hpvade demo")
    assert blocks[1].split(" && ")[-1].startswith("python -m pytest")


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=page_id)
def test_python_blocks_call_what_exists(page):
    roots = {"hp": hpvade, "model": hpvade.HPVADE}
    code = "\n".join(body for language, body in fences(page) if language == "python")
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.Call):
            continue
        root, *parts = ast.unparse(node.func).split(".")
        if root not in roots or not all(part.isidentifier() for part in parts):
            continue
        target = roots[root]
        for part in parts:
            target = getattr(target, part)
        known = inspect.signature(target).parameters
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
            assert {keyword.arg for keyword in node.keywords} <= set(known), ast.unparse(node)
