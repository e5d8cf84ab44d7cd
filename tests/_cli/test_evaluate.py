import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

OUTPUTS = ["heatmap.png", "metrics.csv", "per_type_metrics.csv", "provenance.json", "scatter.png", "summary.txt"]


@pytest.fixture
def tables(tmp_path):
    """Truth of 8 samples; the prediction splits T in two and is in another order; NNLS is worse."""
    rng = np.random.default_rng(0)
    samples = [f"s{i}" for i in range(8)]
    truth = pd.DataFrame(rng.dirichlet([4, 2, 2], 8), index=samples, columns=["T", "Mono", "B"])
    p = 0.8 * truth + 0.2 / 3
    prediction = pd.DataFrame({"B": p["B"], "CD4 T": 0.6 * p["T"], "CD8 T": 0.4 * p["T"], "Mono": p["Mono"]})
    truth.to_csv(tmp_path / "t.csv")
    prediction.iloc[::-1].to_csv(tmp_path / "p.csv", index_label="sample")
    (0.5 * prediction + 0.125).to_csv(tmp_path / "nnls.csv", index_label="sample")
    (tmp_path / "m.json").write_text(json.dumps({"CD4 T": "T", "CD8 T": "T", "Mono": "Mono", "B": "B"}))
    return tmp_path, truth, p


def _run(run, folder, *options, code=0):
    files = ["--pred", folder / "p.csv", "--truth", folder / "t.csv", "-o", folder / "out"]
    return run("evaluate", *files, *options, code=code)


def test_metrics_from_two_csv_files(run, tables):
    folder, truth, p = tables
    result = _run(run, folder, "--mapping", folder / "m.json")
    assert sorted(path.name for path in (folder / "out").iterdir()) == OUTPUTS
    metrics = pd.read_csv(folder / "out" / "metrics.csv", index_col=0)
    assert list(metrics.index) == ["prediction", "nnls", "constant"]
    error = (p - truth).to_numpy()
    baseline = (truth.mean() - truth).to_numpy()
    np.testing.assert_allclose(metrics.loc["prediction", "mae"], np.abs(error).mean())
    np.testing.assert_allclose(metrics.loc["constant", "rmse"], np.sqrt((baseline**2).mean()))
    np.testing.assert_allclose(metrics.loc["prediction", "per_type_r"], 1, atol=1e-6)
    assert metrics.loc["nnls"].isna().all()
    summary = (folder / "out" / "summary.txt").read_text()
    for text in (result.stdout, summary):
        assert "The row nnls is empty" in text and "--nnls NNLS.csv" in text
    assert "8 samples, 3 types" in summary and "nan" not in summary.casefold()
    per_type = pd.read_csv(folder / "out" / "per_type_metrics.csv", index_col=[0, 1])
    assert set(per_type.index.get_level_values("type")) == {"T", "Mono", "B"}
    np.testing.assert_allclose(per_type.loc[("prediction", "T"), "bias"], (p["T"] - truth["T"]).mean())
    assert per_type.loc["nnls", "rmse"].isna().all()


def test_the_nnls_row_from_a_file(run, tables):
    folder, truth, p = tables
    result = _run(run, folder, "--mapping", folder / "m.json", "--nnls", folder / "nnls.csv")
    metrics = pd.read_csv(folder / "out" / "metrics.csv", index_col=0)
    nnls = 0.5 * p + np.array([0.25, 0.125, 0.125])
    np.testing.assert_allclose(metrics.loc["nnls", "mae"], (nnls - truth).abs().to_numpy().mean())
    assert "empty" not in result.stdout + (folder / "out" / "summary.txt").read_text()


def test_without_mapping_equal_names_are_compared_and_the_rest_is_named(run, tables):
    folder, *_ = tables
    _run(run, folder)
    summary = (folder / "out" / "summary.txt").read_text()
    assert "Left out are the types CD4 T, CD8 T." in summary and "Left out are the truth columns T." in summary


def test_one_sample_can_be_evaluated(run, tables):
    folder, truth, p = tables
    truth.iloc[:1].to_csv(folder / "t.csv")
    result = _run(run, folder, "--mapping", folder / "m.json")
    assert "7 samples are in only one of prediction and truth" in result.stderr
    metrics = pd.read_csv(folder / "out" / "metrics.csv", index_col=0)
    assert np.isnan(metrics.loc["prediction", "per_type_r"])
    np.testing.assert_allclose(metrics.loc["prediction", "mae"], (p - truth).iloc[0].abs().mean())


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--mapping", "{}/none.json"], 2, "none.json does not exist"),
        (["--mapping", "{}/t.csv"], 1, "t.csv cannot be read as JSON"),
        (["--mapping", "{}/list.json"], 1, "holds no mapping"),
        (["--mapping", "{}/wrong.json"], 1, "unknown reference types (CD9 T)"),
        (["--nnls", "{}/few.csv", "--mapping", "{}/m.json"], 1, "NNLS lacks 7 of the 8 samples"),
        (["--bulk", "{}/b.h5ad"], 2, "together with --model DIR"),
        (["--model", "{}/model"], 2, "model does not exist"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(run, tables, options, code, said):
    folder, *_ = tables
    (folder / "list.json").write_text("[1]")
    (folder / "wrong.json").write_text('{"CD9 T": "T"}')
    pd.read_csv(folder / "nnls.csv", index_col=0).iloc[:1].to_csv(folder / "few.csv")
    result = _run(run, folder, *(option.format(folder) for option in options), code=code)
    assert said in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (folder / "out").exists()


def test_signatures_and_nnls_from_a_model(run, files, model, tmp_path):
    run("deconvolve", files.bulk, "--model", model, "-o", tmp_path / "p.csv", "-o", tmp_path / "p.h5ad")
    tables = ["--pred", tmp_path / "p.csv", "--truth", files.truth, "-o", tmp_path / "out"]
    result = run("evaluate", *tables, "--model", model, "--bulk", files.bulk)
    signature = hp.HPVADE.load(model).get_signature_matrix()
    np.testing.assert_allclose(np.load(tmp_path / "out" / "signature_matrix.npy"), signature)
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv", index_col=0)
    expected = hp.tl.evaluate(ad.read_h5ad(tmp_path / "p.h5ad")).rename({"hpvade_proportions": "prediction"})
    pd.testing.assert_frame_equal(metrics, expected, rtol=1e-5)
    assert "empty" not in result.stdout


def test_the_bulk_of_nnls_is_read_as_that_of_deconvolve(run, files, model, tmp_path):
    bulk = ad.read_h5ad(files.bulk)
    bulk.X = np.asarray(bulk.X.toarray() if hasattr(bulk.X, "toarray") else bulk.X, dtype=np.float32)
    bulk.X[1] = np.nan
    bulk.write_h5ad(tmp_path / "bad.h5ad")
    bad = ["--on-bad-sample", "skip"]
    files_out = ["-o", tmp_path / "p.csv", "-o", tmp_path / "p.h5ad"]
    run("deconvolve", tmp_path / "bad.h5ad", "--model", model, *bad, *files_out)
    tables = ["--pred", tmp_path / "p.csv", "--truth", files.truth, "-o", tmp_path / "out"]
    run("evaluate", *tables, "--model", model, "--bulk", tmp_path / "bad.h5ad", *bad)
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv", index_col=0)
    expected = hp.tl.evaluate(ad.read_h5ad(tmp_path / "p.h5ad")).rename({"hpvade_proportions": "prediction"})
    pd.testing.assert_frame_equal(metrics, expected, rtol=1e-5)
    said = run("evaluate", *tables, "--model", model, "--bulk", files.bulk, "--map-genes", code=1).stderr
    assert "no genes of human or mouse" in said
    assert "--map-genes serves --bulk BULK" in run("evaluate", *tables, "--map-genes", code=2).stderr
