import json

import anndata as ad
import numpy as np
import pytest
from mudata import MuData

import hpvade as hp
from hpvade._cli._io import read_table

KEYS = ["--labels-key", "cell_type"]


@pytest.mark.parametrize("method", ["nnls", "robust", "music"])
def test_the_answers_of_the_python_interface(run, files, tmp_path, method):
    keys = [*KEYS, "--sample-key", "donor"]
    result = run("solve", files.ref, files.bulk, *keys, "--method", method, "-o", tmp_path / "p.csv")
    assert f"6 samples x 3 types, by {method}." in result.stdout
    bulk = ad.read_h5ad(files.bulk)
    hp.tl.solve(bulk, ad.read_h5ad(files.ref), method=method, labels_key="cell_type", sample_key="donor")
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), bulk.obsm[f"{method}_proportions"], atol=1e-6)


def test_the_signature_of_a_model_and_the_options(run, files, model, tmp_path):
    options = ["--method", "rlr", "--n-genes", 60, "--cell-size", "umi", "--fractions", "rna"]
    outputs = ["-o", tmp_path / "p.csv", "-o", tmp_path / "p.h5ad"]
    run("solve", files.bulk, "--model", model, *options, *outputs)
    bulk, signature = ad.read_h5ad(files.bulk), hp.HPVADE.load(model).get_signature_matrix()
    hp.tl.solve(bulk, signature, method="rlr", genes=60, cell_size="umi", fractions="rna")
    np.testing.assert_allclose(read_table(tmp_path / "p.csv"), bulk.obsm["rlr_proportions"], atol=1e-6)
    written = ad.read_h5ad(tmp_path / "p.h5ad")
    np.testing.assert_allclose(written.obsm["rlr_proportions"], bulk.obsm["rlr_proportions"], atol=1e-6)
    assert json.loads((tmp_path / "p.csv.provenance.json").read_text())["model"]["path"] == str(model)


def test_modalities_of_mudata_files(run, files, tmp_path):
    """The path names the modality; the file is what the provenance knows."""
    ref, bulk = ad.read_h5ad(files.ref), ad.read_h5ad(files.bulk)
    labels = ref.obs.pop("cell_type")
    for name, adata in (("ref", ref), ("bulk", bulk)):
        other = ad.AnnData(np.ones((adata.n_obs, 2)), obs=adata.obs[[]])
        mdata = MuData({"rna": adata, "other": other})
        if name == "ref":
            mdata.obs["cell_type"] = labels
        mdata.write(tmp_path / f"{name}.h5mu")
    inputs = [tmp_path / "ref.h5mu" / "rna", tmp_path / "bulk.h5mu" / "rna"]
    run("solve", *inputs, *KEYS, "--method", "nnls", "-o", tmp_path / "p.csv")
    run("solve", files.ref, files.bulk, *KEYS, "--method", "nnls", "-o", tmp_path / "q.csv")
    np.testing.assert_array_equal(read_table(tmp_path / "p.csv"), read_table(tmp_path / "q.csv"))
    read = json.loads((tmp_path / "p.csv.provenance.json").read_text())["inputs"]
    assert [one["path"] for one in read] == [str(path.parent) for path in inputs]
    said = run("solve", inputs[0].parent, inputs[1], *KEYS, "-o", tmp_path / "p.csv", code=1).stderr
    assert "ref.h5mu is a MuData of 'other', 'rna'" in said and "ref.h5mu/rna" in said
    said = run("solve", tmp_path / "absent.h5mu" / "rna", inputs[1], *KEYS, "-o", tmp_path / "p.csv", code=2).stderr
    assert "absent.h5mu/rna does not exist" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["REF", "BULK"], 2, "--labels-key KEY is missing"),
        (["BULK"], 2, "expected REF BULK"),
        (["BULK", "--model", "MODEL", *KEYS], 2, "--labels-key belong to REF"),
        (["REF", "BULK", *KEYS, "--method", "music"], 1, "--sample-key"),
        (["REF", "BULK", *KEYS, "--cell-size", "big"], 2, "--cell-size"),
    ],
)
def test_what_is_refused(run, files, model, tmp_path, arguments, code, said):
    paths = {"REF": files.ref, "BULK": files.bulk, "MODEL": model}
    result = run("solve", *(paths.get(name, name) for name in arguments), "-o", tmp_path / "p.csv", code=code)
    assert said in result.stderr and not (tmp_path / "p.csv").exists()
