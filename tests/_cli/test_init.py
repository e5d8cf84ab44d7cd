import subprocess
import sys

import pytest

import hpvade as hp

COMMANDS = ["demo", "train", "deconvolve", "solve", "simulate", "evaluate", "diagnose", "calibrate", "hierarchy"]
COMMANDS += ["expression", "check-labels", "transfer-labels", "clean", "translate", "augment", "report", "compare"]
FAMILIES = ["cvae", "cycleae", "ivae"]


@pytest.mark.parametrize("arguments", [["--help"], ["deconvolve", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments):
    code = f"""
import sys
from hpvade._cli import app
try:
    app({arguments})
except SystemExit as end:
    assert end.code == 0, end.code
heavy = [m for m in ("torch", "scvi", "lightning", "matplotlib", "anndata", "pandas", "numpy") if m in sys.modules]
sys.exit(f"loaded {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(run):
    assert run("--version").stdout == f"hpvade {hp.__version__}\n"


def test_the_help_lists_the_commands(run):
    text = run("--help").stdout
    assert all(name in text for name in COMMANDS + FAMILIES)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(run, name):
    text = run(name, "--help").stdout
    assert f"Example: hpvade {name}" in text
    assert all(option in text for option in ("--debug", "--json", "--quiet"))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "ref.h5ad", "-o", "m"], "--labels-key"),
        (["deconvolve", "b.h5ad", "--input-type", "rpkm", "-o", "p.csv"], "rpkm"),
        (["simulate", "ref.h5ad", "-o", "b.h5ad", "--labels-key", "k", "--n-samples", "0"], "--n-samples"),
        (["evaluate", "--pred", "p.csv", "-o", "d"], "--truth"),
        (["learn"], "learn"),
    ],
)
def test_usage_errors_exit_with_2(run, arguments, named):
    assert named in run(*arguments, code=2).stderr
