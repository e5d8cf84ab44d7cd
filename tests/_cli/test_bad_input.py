"""Bad files at every door: one line on stderr in the words of the command line, exit code 1, and nothing is written."""

import re
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import hpvade as hp
from hpvade._cli import app
from hpvade._cli._io import read_table

DOORS = ["deconvolve", "diagnose", "report", "solve", "hierarchy", "expression", "calibrate"]
PYTHON = re.compile(
    r"\b[a-z]+_[a-z_]+=|\w+='|\bhp\.|adata\.|\bbulk\.(obs|var|X|layers)"
)  # an argument, a call, an object


@pytest.mark.parametrize(
    "arguments",
    [
        ["deconvolve", "b.h5ad", "--model", "m", "-o", "b.h5ad"],
        ["deconvolve", "b.h5ad", "--model", "m", "-o", "p.csv", "--nnls", "b.csv", "-o", "folder/../b.h5ad"],
        ["solve", "r.h5ad", "b.h5ad", "-o", "link.h5ad", "--labels-key", "cell_type"],
        ["simulate", "r.h5ad", "-o", "r.h5ad", "--labels-key", "cell_type"],
        [
            "simulate",
            "r.h5ad",
            "-o",
            "s.h5ad",
            "--truth",
            "t.csv",
            "--labels-key",
            "cell_type",
            "--obs",
            "t.csv",
        ],
        ["clean", "r.h5ad", "-o", "r.h5ad", "--labels-key", "cell_type", "--batch-key", "donor"],
        ["transfer-labels", "r.h5ad", "-o", "r.h5ad", "--labels-key", "cell_type", "--type", "a", "--type", "b"],
        ["compare", "p.csv", "--samples", "s.csv", "--groupby", "g", "-o", "s.csv"],
    ],
    ids=lambda arguments: " ".join(arguments[:4]),
)
def test_an_input_is_never_overwritten(run, files, model, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    shutil.copy(files.ref, "r.h5ad"), shutil.copy(files.bulk, "b.h5ad"), shutil.copytree(model, "m")
    bulk, reference = ad.read_h5ad("b.h5ad"), ad.read_h5ad("r.h5ad")
    reference.obs.to_csv("t.csv"), bulk.obsm["proportions"].to_csv("p.csv")
    pd.DataFrame({"g": ["x", "y"] * 3}, index=bulk.obs_names).to_csv("s.csv")
    (tmp_path / "folder").mkdir(), (tmp_path / "link.h5ad").symlink_to("b.h5ad")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert "is an input, and the result would overwrite it" in run(*arguments, code=2).stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.fixture(scope="module")
def bad(files, tmp_path_factory):
    """Files that no door takes, and what is said of each."""
    folder = tmp_path_factory.mktemp("bad")
    bulk = ad.read_h5ad(files.bulk)
    good = bulk.to_df().T.to_csv(index_label="gene")
    lines = good.splitlines(keepends=True)
    ids = [f"ENSG{i:011d}" for i in range(bulk.n_vars)]
    whole = (folder / "whole.h5ad", files.bulk.read_bytes())
    texts = {
        "unreadable": (bytes(range(256)), "binary file"),
        "truncated": (good[: len(good) // 2], r"line \d+ has \d fields|empty or NA"),
        "truncated.h5ad": (whole[1][: len(whole[1]) // 2], "damaged or truncated"),
        "mislabelled.h5ad": ("<html>404</html>", "web page"),
        "mixed": ("".join([*lines[:50], *(line.replace(",", ";") for line in lines[50:])]), "separated by semicolons"),
        "headers": ("".join([lines[0], "type,a,b,a,b,a,b\n", *lines[1:]]), "second header"),
        "twice": (good.replace("sample_1,", "sample_0,", 1), "more than once"),
        "empty": ("", "empty"),
        "sides": ("thing,zq1,zq2\nx1,1,2\nx2,3,4\n", "--genes-in rows or --genes-in columns"),
        "logged": (np.log1p(bulk.to_df()).T.to_csv(index_label="gene"), "--input-type log1p"),
        "negative": ((-bulk.to_df()).T.to_csv(index_label="gene"), "negative|logarithm|log-transformed"),
        "others": (bulk.to_df().T.set_axis(ids).to_csv(index_label="gene"), "--map-genes"),
    }  # fmt: skip
    for name, (text, _) in texts.items():
        path = folder / (name if "." in name else f"{name}.csv")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return {name: (folder / (name if "." in name else f"{name}.csv"), said) for name, (_, said) in texts.items()}


NAMES = ["unreadable", "truncated", "truncated.h5ad", "mislabelled.h5ad", "mixed", "headers", "twice", "empty", "sides"]
NAMES += ["logged", "negative", "others"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("door", DOORS)
def test_a_door_refuses_it_in_one_line(door, name, bad, files, model, tmp_path):
    path, said = bad[name]
    output = {"report": "r.html", "hierarchy": "levels", "expression": "e.h5ad", "calibrate": "m"}.get(door, "p.csv")
    arguments = [door, path, "--model", model, "-o", tmp_path / output]
    arguments += ["--truth", files.truth] if door == "calibrate" else []
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("hpvade: error: ")]
    assert len(errors) == 1 and re.search(said, errors[0]), result.stderr
    assert not PYTHON.search(errors[0]), errors[0]
    assert list(tmp_path.iterdir()) == [] and result.stdout == ""


def test_labels_without_a_shared_barcode(run, files, tmp_path):
    pd.DataFrame({"barcode": ["x", "y"], "cell_type": ["A", "B"]}).to_csv(tmp_path / "t.csv", index=False)
    for command in ("train", "simulate", "check-labels"):
        output = [] if command == "check-labels" else ["-o", tmp_path / ("m" if command == "train" else "b.h5ad")]
        labels = ["--obs", tmp_path / "t.csv", "--labels-key", "cell_type"]
        assert "share no name" in run(command, files.ref, *output, *labels, code=1).stderr
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_unknown_and_other_species(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.to_df().T.to_csv(tmp_path / "unknown.csv", index_label="gene")
    options = ["--model", model, "--map-genes", "-o", tmp_path / "p.csv"]
    said = run("deconvolve", tmp_path / "unknown.csv", *options, code=1).stderr
    assert "no genes of human or mouse that the tables know" in said
    mouse = hp.datasets.pbmc_bulk()[:2]
    mouse = mouse[:, mouse.var_names != mouse.var_names.str.capitalize()]
    mouse.to_df().T.rename(index=str.capitalize).to_csv(tmp_path / "mouse.tsv", sep="\t", index_label="gene")
    options = ["--model", "blood", "-o", tmp_path / "p.csv"]
    for more in ([], ["--map-genes"]):
        said = run("deconvolve", tmp_path / "mouse.tsv", *options, *more, code=1).stderr
        assert "mouse" in said and "human" in said and "orthologs" in said
    assert not (tmp_path / "p.csv").exists()


def test_half_mapped_ids_are_said(run, tmp_path):
    bulk = hp.pp.map_genes(hp.datasets.pbmc_bulk(), "ensembl", duplicates="first")
    bulk = bulk[:, bulk.var_names.str.startswith("ENSG")].to_df().T
    bulk.index = [name if i % 2 else f"ENSG{99_000_000_000 + i}" for i, name in enumerate(bulk.index)]
    bulk.to_csv(tmp_path / "half.tsv", sep="\t", index_label="gene_id")
    options = ["--model", "blood", "--map-genes", "-o", tmp_path / "p.csv"]
    result = run("deconvolve", tmp_path / "half.tsv", *options)
    share = int(re.search(r"genes: human, (\d+)% of the reference's found", result.stderr)[1])
    assert 20 < share < 40
    table = read_table(tmp_path / "p.csv")
    assert table.notna().all(axis=None) and len(table) == 8


def test_a_damaged_model(run, files, model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    weights = next(path for path in (tmp_path / "m").iterdir() if path.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    for door in ("deconvolve", "diagnose", "solve"):
        result = run(door, files.bulk, "--model", tmp_path / "m", "-o", tmp_path / "p.csv", code=1)
        assert weights.name in result.stderr and not (tmp_path / "p.csv").exists()
