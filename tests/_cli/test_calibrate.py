import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade._cli._io import read_table


@pytest.fixture(scope="module")
def distorted(files, tmp_path_factory):
    """Measured fractions in which one type counts twice."""
    truth = pd.read_csv(files.truth, index_col=0)
    truth["type_0"] *= 3
    path = tmp_path_factory.mktemp("truth") / "flow.csv"
    truth.div(truth.sum(axis=1), axis=0).to_csv(path, index_label="sample")
    return path


def test_the_calibrated_model_is_that_of_the_python_interface(run, files, model, distorted, tmp_path):
    options = ["--truth", distorted, "-o", tmp_path / "new", "--table", tmp_path / "offsets.csv"]
    result = run("calibrate", files.bulk, "--model", model, *options)
    bulk, expected = ad.read_h5ad(files.bulk), hp.HPVADE.load(model)
    offsets = expected.calibrate(bulk, read_table(distorted))
    assert "calibrated with 6 samples" in result.stdout
    written = pd.read_csv(tmp_path / "offsets.csv", index_col="type")
    np.testing.assert_allclose(written.loc["type_0", "offset"], offsets.loc["type_0", "offset"], atol=1e-6)
    run("deconvolve", files.bulk, "--model", tmp_path / "new", "-o", tmp_path / "p.csv")
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), expected.deconvolve(bulk), atol=1e-6)


def test_what_is_refused_leaves_no_model(run, files, model, distorted, tmp_path):
    few = read_table(distorted).iloc[:3]
    few.to_csv(tmp_path / "few.csv", index_label="sample")
    options = ["--model", model, "-o", tmp_path / "new"]
    assert "at least 5" in run("calibrate", files.bulk, *options, "--truth", tmp_path / "few.csv", code=1).stderr
    (tmp_path / "m.json").write_text("[1]")
    mapping = ["--truth", distorted, "--mapping", tmp_path / "m.json"]
    assert "holds no mapping of names" in run("calibrate", files.bulk, *options, *mapping, code=1).stderr
    assert not (tmp_path / "new").exists()
    said = run("calibrate", files.bulk, "--model", model, "-o", model, "--truth", distorted, code=2).stderr
    assert "--overwrite" in said
