import html
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade._cli._io import read_table

TRAINING = ["--labels-key", "cell_type", "--epochs", 2, "--accelerator", "cpu"]


def test_hp17_the_cli_writes_the_csv_of_the_python_interface(run, files, model, tmp_path):
    run("deconvolve", files.bulk, "--model", model, "-o", tmp_path / "p.csv")
    bulk = ad.read_h5ad(files.bulk)
    expected = hp.HPVADE.load(model).deconvolve(bulk)
    written = read_table(tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().startswith("sample,type_0,type_1,type_2\n")
    assert list(written.index) == list(bulk.obs_names)
    np.testing.assert_allclose(written, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(written.sum(axis=1), 1, atol=1e-5)


def test_training_and_deconvolving_equals_train_then_deconvolve(run, files, model, tmp_path):
    run("deconvolve", files.bulk, "--model", model, "-o", tmp_path / "two.csv")
    run("deconvolve", files.ref, files.bulk, *TRAINING, "-o", tmp_path / "one.csv", "--save-model", tmp_path / "m")
    np.testing.assert_allclose(read_table(tmp_path / "one.csv"), read_table(tmp_path / "two.csv"), rtol=0, atol=1e-6)
    run("deconvolve", files.bulk, "--model", tmp_path / "m", "-o", tmp_path / "again.csv")
    np.testing.assert_allclose(read_table(tmp_path / "one.csv"), read_table(tmp_path / "again.csv"), rtol=0, atol=1e-6)


def test_csv_h5ad_and_nnls_in_one_run(run, files, model, tmp_path):
    outputs = ["-o", tmp_path / "p.csv", "-o", tmp_path / "p.h5ad", "--nnls", tmp_path / "nnls.csv"]
    result = run("deconvolve", files.bulk, "--model", model, *outputs)
    assert "p.csv: 6 samples x 3 types." in result.stdout and "p.h5ad: 6 samples" in result.stdout
    bulk, before = ad.read_h5ad(tmp_path / "p.h5ad"), ad.read_h5ad(files.bulk)
    np.testing.assert_array_equal(bulk.X, before.X)
    written = read_table(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(bulk.obsm["hpvade_proportions"].astype(float), written, check_names=False, rtol=1e-6)
    nnls = read_table(tmp_path / "nnls.csv")
    pd.testing.assert_frame_equal(
        bulk.obsm["hpvade_proportions_nnls"].astype(float), nnls, check_names=False, rtol=1e-6
    )


def test_the_options_reach_the_model(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.layers["log"] = np.log1p(bulk.X)
    bulk.write_h5ad(tmp_path / "b.h5ad")
    options = ["--bulk-layer", "log", "--input-type", "log1p", "--fractions", "rna"]
    run("deconvolve", tmp_path / "b.h5ad", "--model", model, *options, "-o", tmp_path / "p.csv")
    expected = hp.HPVADE.load(model).deconvolve(bulk, fractions="rna")
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), expected, atol=1e-3)
    lacking = bulk[:, :180].copy()
    lacking.write_h5ad(tmp_path / "few.h5ad")
    result = run(
        "deconvolve", tmp_path / "few.h5ad", "--model", model, "--missing", "error", "-o", tmp_path / "q.csv", code=1
    )
    assert "missing are 20" in result.stderr and not (tmp_path / "q.csv").exists()


def test_logged_bulk_is_refused_before_training(run, files, tmp_path, monkeypatch):
    def fit(*_, **__):
        pytest.fail("trained before the bulk was checked")

    monkeypatch.setattr("hpvade._cli._fit.fit", fit)
    bulk = ad.read_h5ad(files.bulk)
    bulk.X = np.log1p(bulk.X)
    bulk.write_h5ad(tmp_path / "b.h5ad")
    result = run("deconvolve", files.ref, tmp_path / "b.h5ad", *TRAINING, "-o", tmp_path / "p.csv", code=1)
    assert "looks log-transformed" in result.stderr and result.stderr.count("\n") == 1
    bulk.var_names = [f"ENSG{i:011d}" for i in range(bulk.n_vars)]
    bulk.write_h5ad(tmp_path / "b.h5ad")
    result = run("deconvolve", files.ref, tmp_path / "b.h5ad", *TRAINING, "-o", tmp_path / "p.csv", code=1)
    assert "Ensembl" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["b.h5ad"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["b.h5ad"], "Got 1 files (b.h5ad); expected REF BULK"),
        (["r.h5ad", "b.h5ad"], "--labels-key KEY is missing"),
        (["r.h5ad", "b.h5ad", "--model", "m"], "Got 2 files"),
        (["b.h5ad", "--model", "m", "--labels-key", "k", "--epochs", "3"], "--labels-key, --epochs belong to training"),
        (["r.h5ad", "b.h5ad", "--labels-key", "k"], "b.h5ad does not exist"),
        (["b.h5ad", "--model", "m", "-o", "p.txt"], "p.txt cannot be written: expected a name that ends in .csv"),
    ],
)
def test_usage_errors_say_what_to_do(run, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    result = run("deconvolve", *arguments, "-o", "p.csv", code=2)
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_model_folder_is_refused(run, files, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.pt").write_bytes(b"foreign")
    result = run("deconvolve", files.bulk, "--model", tmp_path / "m", "-o", tmp_path / "p.csv", code=1)
    assert "not loaded" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "p.csv").exists()


def test_hp16_intervals_and_unknown_beside_the_proportions(run, files, model, tmp_path):
    outputs = ["-o", tmp_path / "p.csv", "-o", tmp_path / "p.h5ad"]
    run("deconvolve", files.bulk, "--model", model, "--intervals", "--unknown", *outputs)
    bounds = read_table(tmp_path / "p.intervals.csv")
    assert list(bounds.columns[:3]) == ["type_0_lower", "type_0_median", "type_0_upper"]
    expected = hp.HPVADE.load(model).get_proportion_intervals(ad.read_h5ad(files.bulk))
    np.testing.assert_allclose(bounds, expected, atol=1e-6)
    bulk = ad.read_h5ad(tmp_path / "p.h5ad")
    lower, upper = (bulk.obsm[f"hpvade_proportions_{bound}"] for bound in ("lower", "upper"))
    assert (lower <= upper).all(axis=None) and list(lower.columns) == ["type_0", "type_1", "type_2"]
    assert read_table(tmp_path / "p.csv").columns[-1] == "unknown"


def test_bad_samples_are_an_error_or_skipped(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.X = np.asarray(bulk.X.toarray() if hasattr(bulk.X, "toarray") else bulk.X, dtype=np.float32)
    bulk.X[1] = 0
    name = bulk.obs_names[1]
    bulk.obs["study"] = np.where(np.arange(bulk.n_obs) % 2, "a", "b")
    bulk.write_h5ad(tmp_path / "bad.h5ad")
    output = ["-o", tmp_path / "p.csv"]
    result = run("deconvolve", tmp_path / "bad.h5ad", "--model", model, *output, code=1)
    assert f"'{name}' (no expression at all)" in result.stderr and not (tmp_path / "p.csv").exists()
    options = ["--on-bad-sample", "skip", "--batch-key", "study"]
    run("deconvolve", tmp_path / "bad.h5ad", "--model", model, *options, *output)
    with pytest.warns(UserWarning, match="no expression at all"):
        expected = hp.HPVADE.load(model).deconvolve(bulk, on_bad_sample="skip", batch_key="study")
    table = read_table(tmp_path / "p.csv")
    assert table.loc[name].isna().all()
    np.testing.assert_allclose(table, expected, atol=1e-6)


def test_tables_give_the_same_as_h5ad_files(run, files, model, tmp_path):
    bulk, reference = ad.read_h5ad(files.bulk), ad.read_h5ad(files.ref)
    bulk.to_df().T.to_csv(tmp_path / "bulk.tsv.gz", sep="\t", index_label="gene")
    result = run("deconvolve", tmp_path / "bulk.tsv.gz", "--model", model, "-o", tmp_path / "p.csv")
    assert "note: bulk.tsv.gz: 6 x 200 genes; fields separated by tabs" in result.stderr
    run("deconvolve", files.bulk, "--model", model, "-o", tmp_path / "q.csv")
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), read_table(tmp_path / "q.csv"), rtol=0, atol=1e-6)
    reference.to_df().to_csv(tmp_path / "cells.csv", index_label="cell")
    reference.obs[["cell_type"]].to_csv(tmp_path / "labels.csv", index_label="barcode")
    labels = ["--obs", tmp_path / "labels.csv"]
    run("deconvolve", tmp_path / "cells.csv", tmp_path / "bulk.tsv.gz", *labels, *TRAINING, "-o", tmp_path / "r.csv")
    np.testing.assert_allclose(read_table(tmp_path / "r.csv"), read_table(tmp_path / "q.csv"), rtol=0, atol=1e-6)
    result = run("deconvolve", tmp_path / "bulk.tsv.gz", "--model", model, *labels, "-o", tmp_path / "s.csv", code=2)
    assert "--obs belong to training" in result.stderr


def test_genes_are_translated_on_request(run, files, model, tmp_path):
    ad.read_h5ad(files.bulk).to_df().T.to_csv(tmp_path / "bulk.csv", index_label="gene")
    result = run("deconvolve", tmp_path / "bulk.csv", "--model", model, "--map-genes", "-o", tmp_path / "p.csv", code=1)
    assert "no genes of human or mouse that the tables know" in result.stderr


def test_blood_needs_no_reference(run, tmp_path):
    bulk = hp.datasets.pbmc_bulk()
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    run("deconvolve", tmp_path / "bulk.h5ad", "--model", "blood", "-o", tmp_path / "p.csv")
    expected = hp.HPVADE.load(hp.datasets.blood_model()).deconvolve(bulk)
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), expected, atol=1e-6)


def test_one_command_from_versioned_ids_to_a_report(run, tmp_path):
    bulk = hp.pp.map_genes(hp.datasets.pbmc_bulk(), "ensembl", duplicates="first")
    bulk = bulk[:, bulk.var_names.str.startswith("ENSG")].to_df().T
    bulk.index = [f"{name}.{i % 20}" for i, name in enumerate(bulk.index)]
    bulk.to_csv(tmp_path / "quant.tsv", sep="\t", index_label="gene_id")
    options = ["--map-genes", "--intervals", "--report", tmp_path / "page.html", "-o", tmp_path / "out.csv", "--json"]
    result = json.loads(run("deconvolve", tmp_path / "quant.tsv", "--model", "blood", *options).stdout)
    data = hp.io.read_bulk(tmp_path / "quant.tsv")
    model = hp.HPVADE.load(hp.datasets.blood_model())
    expected = model.deconvolve(data, map_genes=True)
    np.testing.assert_allclose(read_table(tmp_path / "out.csv"), expected, atol=1e-6)
    bounds = read_table(tmp_path / "out.intervals.csv")
    assert (bounds["B_lower"] <= expected["B"]).all() and (expected["B"] <= bounds["B_upper"]).all()
    page = html.unescape((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "quant.tsv" in page and all(message[:60] in page for message in result["result"]["messages"])
    assert {Path(name).name for name in result["outputs"]} == {"page.html", "out.csv", "out.intervals.csv"}
    assert result["result"]["genes_mapped"]["species"] == "human"
    assert result["result"]["proportions"][expected.index[0]]["B"] == pytest.approx(expected.iloc[0]["B"], abs=1e-6)


def test_types_that_vary_and_their_profiles(run, files, model, tmp_path):
    vary = ["--variable-type", "type_1"]
    output = ["-o", tmp_path / "p.csv", "--intervals", "--profiles", tmp_path / "profiles.h5ad"]
    run("deconvolve", files.bulk, "--model", model, *vary, *output)
    bulk, trained = ad.read_h5ad(files.bulk), hp.HPVADE.load(model)
    expected = trained.deconvolve(bulk, variable_types=["type_1"])
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), expected, atol=1e-6)
    bounds = trained.get_proportion_intervals(bulk, variable_types=["type_1"])
    np.testing.assert_allclose(read_table(tmp_path / "p.intervals.csv"), bounds, atol=1e-6)
    profiles, found = ad.read_h5ad(tmp_path / "profiles.h5ad"), trained.get_variable_profiles(bulk, ["type_1"])
    assert list(profiles.obs_names) == list(found.obs_names) and list(profiles.obs) == list(found.obs)
    np.testing.assert_allclose(profiles.layers["log_ratio"], found.layers["log_ratio"], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--variable-type", "type_9"], 1, "--variable-type names type_9"),
        (["--variable-type", "type_1", "--unknown"], 1, "--variable-type and --unknown both explain"),
        (["--profiles", "v.h5ad"], 2, "needs --variable-type NAME"),
        (["--profiles", "v.h5ad", "--variable-type", "type_1", "--batch-key", "b"], 2, "leave out --batch-key"),
    ],
)
def test_types_that_cannot_vary(run, files, model, tmp_path, options, code, said):
    result = run("deconvolve", files.bulk, "--model", model, "-o", tmp_path / "p.csv", *options, code=code)
    assert said in result.stderr and not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("command", ["deconvolve", "solve"])
@pytest.mark.parametrize("kind", ["table", "h5ad"])
def test_files_in_the_wrong_order_are_said_to_be(run, files, tmp_path, command, kind):
    bulk = files.bulk
    if kind == "table":
        bulk = tmp_path / "bulk.tsv"
        ad.read_h5ad(files.bulk).to_df().T.to_csv(bulk, sep="\t", index_label="gene")
    options = ["--labels-key", "cell_type", "-o", tmp_path / "p.csv"]
    said = run(command, bulk, files.ref, *options, code=1).stderr
    assert "--labels-key cell_type is a column of BULK.obs (240 rows), and not of REF.obs (6 rows)" in said
    assert "look swapped. Expected REF BULK" in said and not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("command", ["deconvolve", "solve"])
def test_a_missing_column_is_no_wrong_order(run, files, tmp_path, command):
    """A mistyped column, also where the bulk has it: sorted samples are labelled, too."""
    bulk = ad.read_h5ad(files.bulk)
    bulk.obs["type"] = "sorted"
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    said = run(command, files.ref, tmp_path / "bulk.h5ad", "--labels-key", "type", "-o", tmp_path / "p.csv", code=1)
    assert "--labels-key type is not a column of REF.obs; found 'cell_type'" in said.stderr
