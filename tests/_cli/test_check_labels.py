import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "ref.h5ad"
    hp.datasets.pbmc_reference()[::3].copy().write_h5ad(path)
    return path


def test_the_findings_of_the_python_interface(run, cells, tmp_path):
    outputs = ["-o", tmp_path / "c.csv", "-o", tmp_path / "c.h5ad"]
    result = run("check-labels", cells, "--labels-key", "cell_type", *outputs, "--json")
    adata = ad.read_h5ad(cells)
    hp.tl.check_labels(adata, "cell_type")
    document = json.loads(result.stdout)["result"]
    findings = adata.uns["label_check"]["findings"]
    assert [row["type"] for row in document["findings"].values()] == list(findings["type"])
    said = [row["text"].split(";")[0] for row in document["findings"].values()]
    assert said == [text.split(";")[0] for text in findings["text"]]
    table = pd.read_csv(tmp_path / "c.csv", index_col="cell")
    np.testing.assert_allclose(table["score"], adata.obs["label_check_score"], atol=1e-6)
    assert (table["label"] == adata.obs["cell_type"].astype(str)).all()
    assert document["n_flagged"] == adata.obs["label_check_flagged"].sum() == table["flagged"].sum()
    assert list(ad.read_h5ad(tmp_path / "c.h5ad").uns["label_check"]["findings"]["text"]) == list(findings["text"])


def test_words_for_people_and_markers_of_ones_own(run, cells, tmp_path):
    text = run("check-labels", cells, "--labels-key", "cell_type").stdout
    assert text.splitlines()[1].startswith("- 15% of the cells labelled 'Mono' look like 'Platelet'")
    (tmp_path / "m.json").write_text(json.dumps({"B": {"has": ["MS4A1"], "lacks": ["CD3E"]}}))
    own = run("check-labels", cells, "--labels-key", "cell_type", "--markers", tmp_path / "m.json").stdout
    assert "36 that look like" not in own
    said = run("check-labels", cells, "--labels-key", "type", code=2).stderr
    assert "--labels-key type is no column of REF.obs" in said
    (tmp_path / "wrong.json").write_text(json.dumps({"Z": {"has": ["MS4A1"]}}))
    wrong = ["--labels-key", "cell_type", "--markers", tmp_path / "wrong.json"]
    assert "names Z, not among REF.obs" in run("check-labels", cells, *wrong, code=1).stderr


def test_all_files_are_written_or_none(run, cells, tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", fail)
    both = ["-o", tmp_path / "c.csv", "-o", tmp_path / "c.h5ad"]
    assert "disk full" in run("check-labels", cells, "--labels-key", "cell_type", *both, code=1).stderr
    assert not list(tmp_path.iterdir())
    twice = ["-o", tmp_path / "c.csv", "-o", tmp_path / "c.csv"]
    assert "one file twice" in run("check-labels", cells, "--labels-key", "cell_type", *twice, code=2).stderr
