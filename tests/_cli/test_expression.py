import anndata as ad
import numpy as np
import pytest

import hpvade as hp


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_the_table_of_the_python_interface(run, files, model, tmp_path, ending):
    bulk, path = ad.read_h5ad(files.bulk), tmp_path / f"e.{ending}"
    (tmp_path / "genes.txt").write_text("\n".join(bulk.var_names[:20]) + "\n")
    result = run("expression", files.bulk, "--model", model, "-o", path, "--gene-list", tmp_path / "genes.txt")
    expected = hp.HPVADE.load(model).get_cell_type_expression(bulk, genes=list(bulk.var_names[:20]))
    written = (ad.read_zarr if ending == "zarr" else ad.read_h5ad)(path)
    assert list(written.obs_names) == list(expected.obs_names) and list(written.var_names) == list(expected.var_names)
    for layer in ("expression", "variance"):
        np.testing.assert_allclose(written.layers[layer], expected.layers[layer], rtol=1e-5)
    assert f"6 samples x 3 types x {expected.n_vars} genes." in result.stdout


def test_a_type_that_varies(run, files, model, tmp_path):
    trained, path = hp.HPVADE.load(model), tmp_path / "e.h5ad"
    name = trained.cell_types[0]
    run("expression", files.bulk, "--model", model, "-o", path, "--variable-type", name)
    expected = trained.get_cell_type_expression(ad.read_h5ad(files.bulk), variable_types=[name])
    np.testing.assert_allclose(ad.read_h5ad(path).layers["expression"], expected.layers["expression"], rtol=1e-5)


def test_what_is_refused(run, files, model, tmp_path):
    (tmp_path / "genes.txt").write_text("none\n")
    (tmp_path / "e.zarr").mkdir()
    options = ["--model", model, "-o", tmp_path / "e.h5ad"]
    assert "Zebra" in run("expression", files.bulk, *options, "--variable-type", "Zebra", code=1).stderr
    said = run("expression", files.bulk, *options, "--gene-list", tmp_path / "genes.txt", code=1).stderr
    assert "none" in said and not (tmp_path / "e.h5ad").exists()
    assert "exists" in run("expression", files.bulk, "--model", model, "-o", tmp_path / "e.zarr", code=2).stderr


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_bad_samples_have_no_rows(run, files, model, tmp_path, ending):
    bulk = ad.read_h5ad(files.bulk)
    bulk.X = np.asarray(bulk.X.toarray() if hasattr(bulk.X, "toarray") else bulk.X, dtype=np.float32)
    good = bulk[[0, 2, 3, 4, 5]].copy()
    bulk.X[1] = np.nan
    bulk.write_h5ad(tmp_path / "bad.h5ad")
    path = tmp_path / f"e.{ending}"
    arguments = ["expression", tmp_path / "bad.h5ad", "--model", model, "-o", path]
    assert "--on-bad-sample skip" in run(*arguments, code=1).stderr and not path.exists()
    result = run(*arguments, "--on-bad-sample", "skip")
    assert "5 samples x 3 types" in result.stdout
    written = (ad.read_zarr if ending == "zarr" else ad.read_h5ad)(path)
    expected = hp.HPVADE.load(model).get_cell_type_expression(good)
    assert list(written.obs_names) == list(expected.obs_names)
    np.testing.assert_allclose(written.layers["expression"], expected.layers["expression"], rtol=1e-5)


def test_a_zarr_store_is_written_block_by_block(run, files, model, tmp_path, monkeypatch):
    def write(*_, **__):
        raise AssertionError("the table was in memory")

    monkeypatch.setattr(ad.AnnData, "write_zarr", write)
    run("expression", files.bulk, "--model", model, "-o", tmp_path / "e.zarr")
    assert ad.read_zarr(tmp_path / "e.zarr").n_obs == 18
