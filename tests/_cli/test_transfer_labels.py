import anndata as ad
import pandas as pd
import pytest

import hpvade as hp

TYPES = ["--type", "CD4 T", "--type", "CD8 T", "--type", "NK"]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "ref.h5ad"
    hp.datasets.pbmc_reference()[::3].copy().write_h5ad(path)
    return path


def test_the_labels_of_the_python_interface(run, cells, tmp_path):
    run("transfer-labels", cells, "-o", tmp_path / "new.h5ad", "--labels-key", "cell_type", *TYPES)
    result = run("transfer-labels", cells, "-o", tmp_path / "new.csv", "--labels-key", "cell_type", *TYPES)
    adata = ad.read_h5ad(cells)
    hp.pp.transfer_labels(adata, hp.datasets.blood_anchor(), labels_key="cell_type", types=["CD4 T", "CD8 T", "NK"])
    expected = adata.obs["transferred_labels"].dropna().astype(str)
    written, table = ad.read_h5ad(tmp_path / "new.h5ad"), pd.read_csv(tmp_path / "new.csv", index_col="cell")
    for labels in (written.obs["transferred_labels"], table["transferred_labels"]):
        pd.testing.assert_series_equal(labels.astype(str), expected, check_names=False, check_index_type=False)
    n_open = adata.obs["transferred_labels"].isna().sum()
    assert f"{n_open} of {adata.n_obs} got no label" in result.stdout
    run(
        "train",
        cells,
        "--obs",
        tmp_path / "new.csv",
        "--labels-key",
        "transferred_labels",
        "--epochs",
        1,
        "-o",
        tmp_path / "m",
    )
    assert "CD8 T" in hp.HPVADE.load(tmp_path / "m").cell_types


def test_what_is_refused(run, cells, tmp_path):
    output = ["-o", tmp_path / "new.h5ad", "--labels-key", "cell_type"]
    assert "T cell" in run("transfer-labels", cells, *output, "--type", "T cell", "--type", "NK", code=1).stderr
    said = run("transfer-labels", cells, *output, "--key-added", "cell_type", code=1).stderr
    assert "--key-added" in said and not (tmp_path / "new.h5ad").exists()
    assert "does not exist" in run("transfer-labels", cells, *output, "--anchor", tmp_path / "no.h5ad", code=2).stderr
