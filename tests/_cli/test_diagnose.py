import json

import anndata as ad
import pandas as pd

import hpvade as hp
from hpvade._cli._words import in_words


def test_the_words_and_numbers_of_the_python_interface(run, files, model, tmp_path):
    result = run("diagnose", files.bulk, "--model", model, "-o", tmp_path / "q.csv", "-o", tmp_path / "q.h5ad")
    bulk = ad.read_h5ad(files.bulk)
    hp.tl.diagnose(bulk, hp.HPVADE.load(model))
    messages, flagged = bulk.uns["hpvade_qc"]["messages"], bulk.obs["hpvade_qc_flagged"]
    first, *rest = result.stdout.splitlines()
    assert first == f"6 samples, {flagged.sum()} to look at; {len(messages)} remarks on the cohort."
    for message in messages:
        assert f"- {in_words(message, frozenset())}" in rest
    for name in bulk.obs_names[flagged]:
        assert f"- {name}: {bulk.obs.loc[name, 'hpvade_qc_verdict']}" in rest
    table = pd.read_csv(tmp_path / "q.csv", index_col="sample")
    pd.testing.assert_series_equal(
        table["residual"], bulk.obs["hpvade_qc_residual"], check_names=False, check_index_type=False, rtol=1e-4
    )
    assert list(ad.read_h5ad(tmp_path / "q.h5ad").uns["hpvade_qc"]["messages"]) == list(messages)


def test_all_files_are_written_or_none(run, files, model, tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", fail)
    both = ["-o", tmp_path / "q.csv", "-o", tmp_path / "q.h5ad"]
    assert "disk full" in run("diagnose", files.bulk, "--model", model, *both, code=1).stderr
    assert not list(tmp_path.iterdir())


def test_one_file_twice_is_refused(run, files, model, tmp_path):
    twice = ["-o", tmp_path / "q.csv", "-o", tmp_path / "q.csv"]
    assert "one file twice" in run("diagnose", files.bulk, "--model", model, *twice, code=2).stderr


def test_every_column_is_in_the_table_and_markers_are_asked(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    markers = {"mast": [str(name) for name in bulk.var_names[:4]]}
    (tmp_path / "m.json").write_text(json.dumps(markers))
    output = ["-o", tmp_path / "q.csv", "-o", tmp_path / "q.h5ad"]
    run("diagnose", files.bulk, "--model", model, *output, "--markers", tmp_path / "m.json")
    hp.tl.diagnose(bulk, hp.HPVADE.load(model), markers=markers)
    columns = [name.removeprefix("hpvade_qc_") for name in bulk.obs if name.startswith("hpvade_qc_")]
    assert list(pd.read_csv(tmp_path / "q.csv", index_col="sample")) == columns and "missing" in columns
    written = ad.read_h5ad(tmp_path / "q.h5ad").uns["hpvade_qc"]["missing_types"]
    pd.testing.assert_frame_equal(
        written, bulk.uns["hpvade_qc"]["missing_types"], check_names=False, check_dtype=False, rtol=1e-4
    )
    assert list(written.index) == ["mast"]


def test_markers_that_cannot_be_read_are_refused(run, files, model, tmp_path):
    (tmp_path / "m.json").write_text('{"mast": "TPSAB1"}')
    said = run("diagnose", files.bulk, "--model", model, "--markers", tmp_path / "m.json", code=1).stderr
    assert "m.json holds no markers" in said
    assert "blod does not exist" in run("diagnose", files.bulk, "--model", model, "--markers", "blod", code=2).stderr


def test_batches_are_judged_apart(run, files, model, tmp_path):
    """Also in the verdict and page of `deconvolve --report` and in `report`."""
    bulk = ad.read_h5ad(files.bulk)
    bulk.obs["study"] = ["a", "b"] * 3
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    common = [tmp_path / "bulk.h5ad", "--model", model, "--batch-key", "study"]
    hp.tl.diagnose(bulk, hp.HPVADE.load(model), batch_key="study")
    said = [f"- {in_words(text, frozenset())}" for text in bulk.uns["hpvade_qc"]["messages"]]
    for command, output in (("diagnose", "q.h5ad"), ("report", "r.html"), ("deconvolve", "d.h5ad")):
        more = ["--report", tmp_path / "s.html"] if command == "deconvolve" else []
        lines = run(command, *common, "-o", tmp_path / output, *more).stdout.splitlines()
        assert [line for line in lines if line.startswith("- Batch")] == [line for line in said if "Batch" in line]
    for name in ("q.h5ad", "d.h5ad"):
        batches = ad.read_h5ad(tmp_path / name).uns["hpvade_qc"]["batches"]
        pd.testing.assert_frame_equal(batches, bulk.uns["hpvade_qc"]["batches"], check_index_type=False, rtol=1e-3)
    for name in ("r.html", "s.html"):
        assert "2: a (3), b (3)" in (tmp_path / name).read_text(encoding="utf-8")
