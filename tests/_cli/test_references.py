import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade._cli._io import read_table
from hpvade._cli._references import read_references

OPTIONS = ["--labels-key", "cell_type", "--epochs", 2, "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two files of one planted reference: other cells, other genes, donors of the same names."""
    folder = tmp_path_factory.mktemp("studies")
    adata, bulk = hp.datasets.planted_cohort(n_types=3, n_genes=200, n_cells=480, n_samples=6, seed=3)
    adata.obs["donor"] = np.where(np.arange(480) % 2, "d1", "d2")
    first, second = adata[::2, :180].copy(), adata[1::2, 20:].copy()
    first.obs["donor"] = ["d1", "d2"] * 120
    second.obs["donor"] = ["d1", "d2"] * 120
    first.write_h5ad(folder / "lab_a.h5ad")
    second.write_h5ad(folder / "lab_b.h5ad")
    bulk.write_h5ad(folder / "bulk.h5ad")
    return folder


def _joined(folder, **changes):
    keys = {"--labels-key": "cell_type", "--sample-key": "donor"}
    options = {"obs": None, "genes_in": "auto", "map_genes": False, "layer": None, "study_key": None, "keys": keys}
    return read_references([folder / "lab_a.h5ad", folder / "lab_b.h5ad"], **(options | changes))


def test_each_file_is_a_study_over_the_union_of_genes(studies):
    adata, layer, key = _joined(studies)
    assert (adata.shape, layer, key) == ((480, 200), None, "study")
    parts = {name: ad.read_h5ad(studies / f"{name}.h5ad") for name in ("lab_a", "lab_b")}
    for name, part in parts.items():
        own = adata[(adata.obs["study"] == name).to_numpy()]
        np.testing.assert_array_equal(
            own[:, part.var_names].X.toarray(), part.X.toarray() if hasattr(part.X, "toarray") else part.X
        )
        assert own[:, ~adata.var_names.isin(part.var_names)].X.sum() == 0
    assert set(adata.obs["donor"]) == {f"{name}: {d}" for name in parts for d in ("d1", "d2")}


def test_the_answer_is_that_of_the_python_interface(run, studies, tmp_path):
    refs = [studies / "lab_a.h5ad", studies / "lab_b.h5ad"]
    result = run("train", *refs, "-o", tmp_path / "m", *OPTIONS, "--sample-key", "donor")
    assert "trained on 480 cells of 2 studies" in result.stdout
    assert "2 references over 200 genes: lab_a (240 cells), lab_b (240 cells)" in result.stderr
    run("deconvolve", studies / "bulk.h5ad", "--model", tmp_path / "m", "-o", tmp_path / "p.csv")
    run("deconvolve", *refs, studies / "bulk.h5ad", *OPTIONS, "--sample-key", "donor", "-o", tmp_path / "q.csv")
    model = hp.HPVADE.load(tmp_path / "m")
    assert model.studies == ["lab_a", "lab_b"]
    bulk = ad.read_h5ad(studies / "bulk.h5ad")
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), model.deconvolve(bulk), atol=1e-6)
    np.testing.assert_allclose(read_table(tmp_path / "q.csv"), read_table(tmp_path / "p.csv"), atol=1e-6)
    inputs = json.loads((tmp_path / "m" / "provenance.json").read_text())["inputs"]
    assert [entry["path"] for entry in inputs] == [str(ref) for ref in refs]


def test_studies_that_the_files_name_themselves(studies, tmp_path):
    for name in ("lab_a", "lab_b"):
        part = ad.read_h5ad(studies / f"{name}.h5ad")
        part.obs["cohort"] = [f"{name}_1", f"{name}_2"] * 120
        part.write_h5ad(tmp_path / f"{name}.h5ad")
    adata, _, key = _joined(tmp_path, study_key="cohort")
    assert key == "cohort" and set(adata.obs["cohort"]) == {"lab_a_1", "lab_a_2", "lab_b_1", "lab_b_2"}
    adata, _, key = _joined(studies, study_key="cohort")
    assert set(adata.obs["cohort"]) == {"lab_a", "lab_b"}


def test_other_names_of_genes_are_translated_on_request(run, tmp_path):
    symbols = hp.datasets.pbmc_reference()[::20, ::10].copy()
    mapped = hp.pp.map_genes(symbols, "ensembl")
    symbols.write_h5ad(tmp_path / "a.h5ad")
    mapped.write_h5ad(tmp_path / "b.h5ad")
    options = ["-o", tmp_path / "m", "--labels-key", "cell_type", "--epochs", 1]
    result = run("train", tmp_path / "a.h5ad", tmp_path / "b.h5ad", *options, code=1)
    assert "name genes differently" in result.stderr and "--map-genes" in result.stderr
    run("train", tmp_path / "a.h5ad", tmp_path / "b.h5ad", *options, "--map-genes")
    assert hp.HPVADE.load(tmp_path / "m").studies == ["a", "b"]


def test_what_is_refused(run, studies, tmp_path):
    refs, output = [studies / "lab_a.h5ad", studies / "lab_b.h5ad"], ["-o", tmp_path / "m"]
    pd.DataFrame({"cell": ["x"]}).to_csv(tmp_path / "labels.csv")
    said = run("train", *refs, *output, *OPTIONS, "--obs", tmp_path / "labels.csv", code=2).stderr
    assert "--obs TABLE belongs to one reference file" in said
    said = run("train", *refs, *output, "--labels-key", "type", code=1).stderr
    assert "--labels-key type" in said and "lab_a.h5ad has no such column" in said
    said = run("train", *refs, *output, *OPTIONS, "--layer", "raw", code=1).stderr
    assert "--layer raw" in said and "lab_a.h5ad has no such layer" in said
    said = run("train", refs[0], refs[0], *output, *OPTIONS, code=2).stderr
    assert "each file is a study named after it; rename one" in said
    assert not (tmp_path / "m").exists()
