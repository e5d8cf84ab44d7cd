"""The rule for Snakemake and the process for Nextflow that the documentation shows."""

import json
import os
import re
import shutil
import string
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
from typer.testing import CliRunner

import hpvade as hp
from hpvade._cli import app
from hpvade._cli._io import read_table

ROOT = Path(__file__).parents[1]
FILES = ["hpvade/proportions.csv", "hpvade/proportions.intervals.csv", "hpvade/report.html", "hpvade/summary.json"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A table of bulk, the folder of a small model, and the model's answer."""
    folder = tmp_path_factory.mktemp("pipeline")
    reference, bulk = hp.datasets.planted_cohort(n_types=3, n_genes=200, n_cells=240, n_samples=6, seed=3)
    reference.write_h5ad(folder / "ref.h5ad")
    bulk.to_df().T.to_csv(folder / "bulk.tsv", sep="\t", index_label="gene")
    train = ["train", folder / "ref.h5ad", "-o", folder / "model", "--labels-key", "cell_type", "--epochs", 1]
    result = CliRunner().invoke(app, [str(argument) for argument in train])
    assert result.exit_code == 0, result.output
    expected = hp.HPVADE.load(folder / "model").deconvolve(hp.io.read_bulk(folder / "bulk.tsv"))
    return SimpleNamespace(folder=folder, bulk=folder / "bulk.tsv", model=folder / "model", expected=expected)


def environment(folder: Path) -> dict:
    """Where `hpvade` is the command of this interpreter, and caches go to `folder`."""
    tool = folder / "bin" / "hpvade"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from hpvade._cli import app; app()" "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    home = {name: str(folder) for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HOME")}
    return os.environ | home | {"PATH": path}


def test_snakemake_runs_the_rule(planted, tmp_path):
    pytest.importorskip("snakemake")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", tmp_path]
    command += ["--snakefile", ROOT / "examples/snakemake/Snakefile", "--config", f"bulk={planted.bulk}"]
    command += [f"model={planted.model}", "options=--seed 2"]
    options = {"env": environment(tmp_path), "capture_output": True, "text": True, "check": False}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(read_table(tmp_path / FILES[0]), planted.expected, atol=1e-6)
    summary = json.loads((tmp_path / "hpvade/summary.json").read_text())
    assert summary["status"] == "ok" and set(summary["outputs"]) == set(FILES[:3])
    assert all((tmp_path / name).stat().st_size for name in FILES)
    options_noted = json.loads((tmp_path / "hpvade/proportions.csv.provenance.json").read_text())["options"]
    assert options_noted["seed"] == 2 and options_noted["map_genes"] is False


def test_the_process_of_nextflow_does_what_it_declares(planted, tmp_path):
    text = (ROOT / "examples/nextflow/hpvade.nf").read_text()
    (script,) = re.findall(r'"""(.*?)"""', text, re.DOTALL)
    names = {"bulk": planted.bulk.name, "model": planted.model, "args": "--seed 2"}
    script = string.Template(script.replace("\\\\\n", "\\\n")).substitute(names)
    shutil.copy(planted.bulk, tmp_path)
    options = {"cwd": tmp_path, "env": environment(tmp_path), "capture_output": True, "text": True, "check": False}
    done = subprocess.run(["bash", "-ue", "-c", script], **options)
    assert done.returncode == 0, done.stderr[-3000:]
    for pattern in re.findall(r"path '([^']+)', emit", text):
        assert list(tmp_path.glob(pattern)), pattern
    np.testing.assert_allclose(read_table(tmp_path / "proportions.csv"), planted.expected, atol=1e-6)
    assert json.loads((tmp_path / "summary.json").read_text())["result"]["n_samples"] == 6


def test_a_rule_that_fails_leaves_no_result(planted, tmp_path):
    pytest.importorskip("snakemake")
    bulk = ad.read_h5ad(planted.folder / "ref.h5ad")[:6]
    (np.log1p(bulk.to_df()).T).to_csv(tmp_path / "logged.tsv", sep="\t", index_label="gene")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", tmp_path]
    command += ["--snakefile", ROOT / "examples/snakemake/Snakefile", "--config", "bulk=logged.tsv"]
    command += [f"model={planted.model}", "options=--seed 2"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "looks log-transformed" in (tmp_path / "hpvade/hpvade.log").read_text()
    assert [path.name for path in (tmp_path / "hpvade").iterdir()] == ["hpvade.log"]
