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
