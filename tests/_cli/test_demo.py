import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade._cli._io import read_table


@pytest.mark.slow
def test_the_demo_writes_all_it_names(run, tmp_path):
    result = run("demo", "-o", tmp_path / "demo", "--epochs", 1, "--accelerator", "cpu")
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    plots = {"proportions.png", "agreement.png", "training.png", "signatures.png"}
    assert names == {"bulk.h5ad", "proportions.csv", "metrics.csv", "model", "provenance.json", *plots}
    metrics = pd.read_csv(tmp_path / "demo" / "metrics.csv", index_col=0)
    assert list(metrics.index) == ["hpvade", "hpvade (spec)", "nnls", "constant"]
    assert metrics["rmse"].notna().all() and metrics["rmse"].nunique() == 4
    bulk = ad.read_h5ad(tmp_path / "demo" / "bulk.h5ad")
    again = hp.HPVADE.load(tmp_path / "demo" / "model").deconvolve(hp.datasets.pbmc_bulk())
    np.testing.assert_allclose(read_table(tmp_path / "demo" / "proportions.csv"), again, atol=1e-6)
    np.testing.assert_allclose(bulk.obsm["hpvade_proportions"], again, atol=1e-6)
    for said in ("Proportions of cells", "hpvade (spec)", "nnls", "constant", str(tmp_path / "demo"), "Wall time"):
        assert said in result.stdout
    assert "nan" not in result.stdout.casefold()


def test_an_output_that_is_a_file_is_refused_before_the_work(run, tmp_path):
    (tmp_path / "demo").touch()
    assert "is a file; expected the name of a folder" in run("demo", "-o", tmp_path / "demo", code=2).stderr
