import hashlib
import json
from importlib.metadata import version

import anndata as ad
import numpy as np
import pytest

import hpvade as hp
from hpvade._cli import _io
from hpvade._cli._run import sha256
from hpvade._report._fingerprint import fingerprint


def _sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_beside_every_table(run, files, model, tmp_path):
    run(
        "deconvolve",
        files.bulk,
        "--model",
        model,
        "-o",
        tmp_path / "p.csv",
        "--intervals",
        "--nnls",
        tmp_path / "n.csv",
    )
    tables = ["p.csv", "p.intervals.csv", "n.csv"]
    assert {path.name for path in tmp_path.iterdir()} == {*tables, *(f"{name}.provenance.json" for name in tables)}
    documents = [json.loads((tmp_path / f"{name}.provenance.json").read_text()) for name in tables]
    for name, document in zip(tables, documents, strict=True):
        assert document.pop("output") == {"path": str(tmp_path / name), "sha256": _sha(tmp_path / name)}
        assert document == documents[0]
    document = documents[0]
    assert document["command"] == "deconvolve" and document["seed"] == 0
    assert document["inputs"] == [{"path": str(files.bulk), "sha256": _sha(files.bulk)}]
    assert document["options"]["intervals"] is True and document["options"]["input_type"] == "auto"
    assert document["versions"]["hpvade"] == hp.__version__
    for name in ("torch", "scvi-tools", "anndata"):
        assert document["versions"][name] == version(name)
    assert document["model"] == {"path": str(model), "sha256": fingerprint(hp.HPVADE.load(model))}


def test_a_trained_model_has_the_hash_of_the_saved_one(run, files, model, tmp_path):
    options = ["--labels-key", "cell_type", "--epochs", 2, "--accelerator", "cpu"]
    run("deconvolve", files.ref, files.bulk, *options, "-o", tmp_path / "p.csv")
    document = json.loads((tmp_path / "p.csv.provenance.json").read_text())
    assert document["model"] == {"path": None, "sha256": fingerprint(hp.HPVADE.load(model))}
    assert [entry["sha256"] for entry in document["inputs"]] == [_sha(files.ref), _sha(files.bulk)]
    inside = json.loads((model / "provenance.json").read_text())
    assert inside["command"] == "train" and inside["output"]["sha256"] == sha256(model)


def test_the_same_run_gives_the_same_file(run, files, model, tmp_path, monkeypatch):
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        run("deconvolve", files.bulk, "--model", model, "-o", "p.csv", "--seed", 3)
        texts.append((tmp_path / name / "p.csv.provenance.json").read_text())
    assert texts[0] == texts[1] and json.loads(texts[0])["output"]["path"] == "p.csv"


def test_inputs_are_recorded_as_they_were_read(run, files, model, tmp_path, monkeypatch):
    """Another program replaces the bulk after it was read, while the model answers."""
    path = tmp_path / "bulk.h5ad"
    ad.read_h5ad(files.bulk).write_h5ad(path)
    before, answer = _sha(path), hp.HPVADE.deconvolve

    def replaced(*args, **kwargs):
        path.write_bytes(b"another file")
        return answer(*args, **kwargs)

    monkeypatch.setattr(hp.HPVADE, "deconvolve", replaced)
    run("deconvolve", path, "--model", model, "-o", tmp_path / "p.csv")
    assert path.read_bytes() == b"another file"
    document = json.loads((tmp_path / "p.csv.provenance.json").read_text())
    assert document["inputs"] == [{"path": str(path), "sha256": before}]


def test_an_input_that_changes_while_it_is_read_is_refused(run, files, model, tmp_path, monkeypatch):
    path = tmp_path / "bulk.h5ad"
    ad.read_h5ad(files.bulk).write_h5ad(path)
    said = _io._said

    def written_to(adata):
        path.write_bytes(path.read_bytes() + b" ")
        return said(adata)

    monkeypatch.setattr(_io, "_said", written_to)
    error = run("deconvolve", path, "--model", model, "-o", tmp_path / "p.csv", code=1).stderr
    assert "bulk.h5ad changed while it was read" in error and not (tmp_path / "p.csv").exists()


def test_an_input_is_not_replaced(run, files, model, tmp_path):
    path = tmp_path / "bulk.h5ad"
    ad.read_h5ad(files.bulk).write_h5ad(path)
    before = _sha(path)
    assert "is an input" in run("deconvolve", path, "--model", model, "-o", path, code=2).stderr
    assert _sha(path) == before and [found.name for found in tmp_path.iterdir()] == ["bulk.h5ad"]


def test_nothing_is_left_by_a_run_that_fails(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.X = np.log1p(bulk.X)
    bulk.write_h5ad(tmp_path / "b.h5ad")
    run("deconvolve", tmp_path / "b.h5ad", "--model", model, "-o", tmp_path / "p.csv", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5ad"]


def test_the_hash_of_a_folder_is_that_of_names_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "x").write_bytes(b"1")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    (tmp_path / "b" / "provenance.json").write_text("{}")
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    (tmp_path / "b" / "deep" / "x").rename(tmp_path / "b" / "deep" / "y")
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        sha256(tmp_path / "none")
