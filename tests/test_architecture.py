"""Who may import what, read from the source: the rules of "What may import what" in the design."""

import ast
import sys
from pathlib import Path

import pytest

import hpvade

PACKAGE = Path(hpvade.__file__).parent
TESTS = Path(__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

PURE = {"simulate": {"numpy", "scipy"}, "nn": {"numpy", "torch"}, "solvers": {"numpy", "numba", "torch"}}

# A room may import lower ones, and itself. Rooms of one height do not know each other.
HEIGHTS = {
    **dict.fromkeys(["_keys", "_text"], 0),
    **dict.fromkeys(["simulate", "solvers", "nn", "io"], 1),
    **dict.fromkeys(["train", "evaluation", "_figures"], 2),
    "reference": 3,
    "models": 4,  # what all families share; the families themselves are one higher
    **dict.fromkeys(["datasets", "pp", "tl"], 6),
    "pl": 7,
    "_report": 8,
    "_cli": 9,
    "__main__": 10,
}
DRAWS = {"pl", "_report"}
WRITES = ("_report", "hpvade.io._atomic")  # a page appears whole or not at all, as every file

TESTED_ELSEWHERE = {
    "models/_genes.py": "genes by name, in models/test_base.py",
    "tl/_profiles.py": "references of every kind, in tl/test_solve.py",
    "solvers/_variable_problem.py": "the regression of solvers/test_variable.py",
    "models/hpvade/_variable_types.py": "what names are refused, in models/hpvade/test_variable_profiles.py",
    "_text.py": "the messages of every other test",
    "nn/_elsewhere.py": "the public names of test_import.py",
    "nn/cvae.py": "names only; models/cvae/test_network.py uses them",
    "nn/cycleae.py": "names only; models/cycleae/test_network.py uses them",
    "nn/ivae.py": "names only; models/ivae/test_network.py uses them",
    "_cli/_cvae_files.py": "the files of hpvade cvae infer, in _cli/test_cvae.py",
    "_cli/_cycleae_run.py": "a run of hpvade cycleae train, in _cli/test_cycleae.py",
    "models/ambient/_fixed_draws.py": "the same answer at every call, in models/ambient/test_model.py",
    "models/ambient/_likelihood.py": "one formula, against scipy in models/ambient/test_evidence.py",
    "models/cvae/_predict.py": "labels, counterfactuals and effects, in models/cvae/test_answers.py",
    "_cli/_options.py": "declarations of options, used by every command's test",
    "io/_gene_names.py": "messages of io/test_bad_bulk.py and reference/test_checks.py",
    "models/cycleae/_fit.py": "training, in models/cycleae/test_model.py and test_bad_input.py",
    "models/cycleae/_tables.py": "the tables that CycleAE returns, in models/cycleae/test_model.py",
    "models/cycleae/_translate.py": "CycleAE.translate_reference, in models/cycleae/test_model.py",
    "models/ambient/_penalties.py": "the priors of both modules, in models/ambient/test_shared_module.py",
    "models/hpvade/_unknown.py": "deconvolve(unknown=True), in models/hpvade/test_deconvolve.py",
    "models/hpvade/_literal_module.py": "both modules, in models/hpvade/test_scvi_module.py",
    "models/hpvade/_consensus.py": "several studies, in models/hpvade/test_studies.py",
    "models/hpvade/_study_methods.py": "several studies, in models/hpvade/test_studies.py",
    "pl/_heat_map.py": "the heat map of pl/test_proportions.py",
    "pl/_strips.py": "boxes and points of pl/test_proportions.py",
    "_figures/_palette.py": "the colours of pl/test_proportions.py",
    "models/cycleae/_cycle_plan.py": "CycleAE's steps, losses, tags and resuming, in models/cycleae/test_training.py",
    "solvers/_kernels.py": "the loops of solvers/test_cpu.py",
    "evaluation/_align.py": "public as tl.compare, in tl/test_evaluate.py",
}


def module_name(path: Path) -> str:
    parts = ("hpvade", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imports(path: Path, tree: ast.AST):
    """Yield (module, name or None) of every import in a file, relative ones resolved, in functions, too."""
    package = module_name(path).split(".")[: None if path.name == "__init__.py" else -1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{module}.{alias.name}"
                yield (submodule, None) if submodule in MODULES else (module, alias.name)


def unit(module: str) -> str:
    """Sub-package; every family of models is one."""
    parts = module.split(".")[1:] or [""]
    is_family = parts[0] == "models" and len(parts) > 1 and not parts[1].startswith("_")
    return ".".join(parts[:2]) if is_family else parts[0]


def layer(module: str) -> int:
    """Height of a module's room."""
    top = unit(module)
    return HEIGHTS["models"] + 1 if top.startswith("models.") else HEIGHTS[top]


def is_mathematics(module: str) -> bool:
    """Whether a file of a family knows tensors only."""
    return unit(module).startswith("models.") and module.endswith(("_module", "_network"))


def inside(source: str, target: str, name: str | None) -> str | None:
    """What is wrong with an import of one of our own modules."""
    here, there = unit(source), unit(target)
    if target == "hpvade":
        return None if name == "__version__" else "import from the sub-package"
    if here in PURE and here != there:
        return f"{here} imports nothing of hpvade"
    if (here, target) == WRITES:
        return None
    if here in DRAWS and there not in {*DRAWS, "pp", "tl", "evaluation", "_figures", "_keys", "_text"}:
        return "pl draws tables, and so does report"
    if here != there and here.startswith("models.") and there.startswith("models."):
        return "families of models do not know each other"
    if is_mathematics(source) and here != there and there not in {"nn", "solvers", "_text"}:
        return "not a lower layer of mathematics"
    if layer(target) > layer(source) or (layer(target) == layer(source) and here != there):
        return "not a lower layer"
    return None


def outside(source: str, target: str, name: str | None) -> str | None:
    """What is wrong with an import of another package."""
    root, here = target.split(".")[0], unit(source)
    if here in PURE and root not in PURE[here] | sys.stdlib_module_names:
        return f"{here} imports {sorted(PURE[here])} only"
    if is_mathematics(source) and root in {"anndata", "pandas"}:
        return "modules are mathematics on tensors"
    if root == "pytorch_lightning" or (root == "lightning" and not target.startswith("lightning.pytorch")):
        return "lightning.pytorch only"
    if root == "scvi":
        if target.startswith("scvi.external") or (target, name) == ("scvi", "external"):
            return "scvi.external is no base to build on"
        if any(part.startswith("_") for part in [*target.split("."), name or ""]):
            return "private names of scvi"
    return None


def violations(path: Path, text: str) -> list[tuple[str, str, str]]:
    """(file, what it imports or calls, why not) for every broken rule in a file."""
    tree, source, file = ast.parse(text), module_name(path), path.relative_to(PACKAGE).as_posix()
    found = []
    for target, name in imports(path, tree) if source != "hpvade" else ():
        wrong = (inside if target.split(".")[0] == "hpvade" else outside)(source, target, name)
        if wrong:
            found.append((file, target, wrong))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            absolute = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            if absolute.split(".")[0] == "hpvade" and not getattr(node, "level", 0):
                found.append((file, absolute, "relative imports inside the package"))
        is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        if is_print and unit(source) != "_cli":
            found.append((file, "print", "only the command line prints"))
        is_warning = isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
        if is_warning and file != "_text.py":
            found.append((file, "warnings.warn", "_text.warn names the user's line"))
    return found


def test_imports_follow_the_layers():
    assert [found for path in FILES for found in violations(path, path.read_text())] == []


GRAPH = {
    module_name(path): {target for target, _ in imports(path, ast.parse(path.read_text())) if target in MODULES}
    for path in FILES
}


def reached(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Every module that an import of `module` may load, itself only if there is a circle."""
    found, todo = set(), [module]
    while todo:
        new = graph.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def test_no_file_imports_itself_by_a_detour():
    assert {module for module in GRAPH if module in reached(module, GRAPH)} == set()
    assert "a" in reached("a", {"a": {"b"}, "b": {"c"}, "c": {"a"}})


@pytest.mark.parametrize("module", sorted(filter(is_mathematics, MODULES)))
def test_mathematics_reaches_no_anndata(module):
    for other in {module, *reached(module, GRAPH)}:
        path = next(path for path in FILES if module_name(path) == other)
        outer = {target.split(".")[0] for target, _ in imports(path, ast.parse(path.read_text()))}
        assert not outer & {"anndata", "pandas", "mudata"}, f"{module} reaches {other}"


@pytest.mark.parametrize(
    ("file", "line", "why"),
    [
        ("simulate/_chunks.py", "import pandas", "numpy"),
        ("simulate/_chunks.py", "from .._keys import Keys", "imports nothing of hpvade"),
        ("solvers/_linear.py", "from scvi.distributions import NegativeBinomial", "numpy"),
        ("solvers/_linear.py", "from ..nn import Encoder", "imports nothing of hpvade"),
        ("nn/_mlp.py", "def f():\n    from ..models.hpvade._module import HP_VADE", "imports nothing of hpvade"),
        ("models/hpvade/_module.py", "from ...io._bulk import read_bulk", "not a lower layer"),
        ("models/hpvade/_module.py", "import anndata as ad", "tensors"),
        ("models/hpvade/_scvi_module.py", "from pandas import DataFrame", "tensors"),
        ("models/cvae/_network.py", "from ...reference._signature import sum_chunks", "not a lower layer"),
        ("models/hpvade/_model.py", "from ..ivae._module import IVAE", "families"),
        ("models/hpvade/_model.py", "from ... import tl", "not a lower layer"),
        ("models/_base.py", "from .hpvade import _model", "not a lower layer"),
        ("train/_splitter.py", "from ..reference._mixtures import BulkStream", "not a lower layer"),
        ("train/_plan.py", "from ..models.hpvade._model import HPVADE", "not a lower layer"),
        ("evaluation/_evaluate.py", "from ..pl import agreement", "not a lower layer"),
        ("evaluation/_evaluate.py", "from .. import HPVADE", "sub-package"),
        ("pl/_agreement.py", "from ..models.hpvade._model import HPVADE", "pl draws tables"),
        ("pl/_agreement.py", "from ..io._bulk import read_bulk", "pl draws tables"),
        ("pp/_simulate_bulk.py", "from hpvade.simulate import draw_mixtures", "relative"),
        ("pp/_simulate_bulk.py", "import hpvade", "relative"),
        ("train/_runner.py", "import pytorch_lightning as pl", "lightning.pytorch"),
        ("train/_runner.py", "import lightning as L", "lightning.pytorch"),
        ("train/_runner.py", "from scvi.train._trainrunner import TrainRunner", "private"),
        ("train/_runner.py", "from scvi.model.base import _utils", "private"),
        ("train/_runner.py", "from scvi.external import SOLO", "scvi.external"),
        ("train/_runner.py", "from scvi import external", "scvi.external"),
        ("train/_runner.py", "print('done')", "prints"),
        ("train/_runner.py", "warnings.warn('odd', UserWarning, stacklevel=2)", "user's line"),
    ],
)
def test_a_broken_rule_is_found(file, line, why):
    assert any(why in reason for _, _, reason in violations(PACKAGE / file, line))


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("_cli/_demo.py", "from .. import datasets\nfrom ..pl import agreement\nprint('done')"),
        ("pl/_agreement.py", "from ..tl._align import compare"),
        ("evaluation/_evaluate.py", "from ..solvers import nnls"),
        ("pp/_simulate_bulk.py", "from ..reference._simulate import simulate_from_cells"),
        ("models/hpvade/_model.py", "import pandas\nfrom .._base import BaseModel\nfrom ._module import HP_VADE"),
        ("models/hpvade/_scvi_module.py", "import lightning.pytorch as lp\nfrom ._module import HP_VADE"),
        ("models/_saving.py", "from .. import __version__"),
    ],
)
def test_good_imports_are_not_refused(file, line):
    assert violations(PACKAGE / file, line) == []


def test_every_source_file_has_a_test_file():
    without = set()
    for path in FILES:
        file = path.relative_to(PACKAGE)
        if path.name != "__init__.py" and not (TESTS / file.parent / f"test_{file.name.removeprefix('_')}").exists():
            without.add(file.as_posix())
    assert without == set(TESTED_ELSEWHERE)
