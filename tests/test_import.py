"""`import hpvade` is light and changes nothing in the process."""

import ast
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import hpvade


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ | environment
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_loads_nothing_heavy():
    heavy = ("torch", "scvi", "lightning", "matplotlib", "pandas", "anndata", "scanpy", "scipy", "numpy")
    assert run(f"import sys, hpvade; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


def test_import_changes_nothing_in_the_process():
    code = """
import logging, os, random, signal, sys, warnings
import numpy as np

def state():
    return (list(warnings.filters), warnings.showwarning, random.getstate(), str(np.random.get_state()),
            np.geterr(), logging.root.handlers[:], logging.root.level, dict(os.environ), sys.path[:],
            signal.getsignal(signal.SIGINT), sys.excepthook)

before = state()
import hpvade
assert state() == before
assert not [name for name in logging.root.manager.loggerDict if name.startswith("hpvade")]
"""
    assert run(code) == ""


def test_light_subpackages_load_no_torch():
    code = "import sys, hpvade; hpvade.simulate.draw_mixtures; print('torch' in sys.modules, 'pandas' in sys.modules)"
    assert run(code) == "False False\n"


def test_eager_import():
    code = "import sys, hpvade; print('HPVADE' in vars(hpvade), 'torch' in sys.modules)"
    assert run(code, EAGER_IMPORT="1") == "True True\n"


@pytest.mark.parametrize("name", hpvade.__all__)
def test_every_public_name_resolves(name):
    assert getattr(hpvade, name).__name__.removeprefix("hpvade.") == name


def test_stub_lists_exactly_the_public_names():
    tree = ast.parse(Path(hpvade.__file__).with_suffix(".pyi").read_text())
    imported = {a.asname or a.name for node in tree.body if isinstance(node, ast.ImportFrom) for a in node.names}
    listed = next(ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign))
    assert len(listed) == len(set(listed))
    assert imported == set(listed) == set(dir(hpvade)) == set(hpvade.__all__)


@pytest.mark.parametrize("name", ["io", "nn", "pl", "pp", "simulate", "solvers", "tl"])
def test_every_name_of_a_subpackage_resolves(name):
    subpackage = getattr(hpvade, name)
    assert all(hasattr(subpackage, public) for public in subpackage.__all__)


def test_unknown_names():
    with pytest.raises(AttributeError, match="Hpvade"):
        hpvade.Hpvade  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'HPVADE'"):
        hpvade.nn.HPVADE  # noqa: B018


def test_version():
    assert hpvade.__version__ == version("hpvade")
