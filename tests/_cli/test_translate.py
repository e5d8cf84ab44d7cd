import anndata as ad
import numpy as np
import pytest
import scvi

import hpvade as hp


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    path = tmp_path_factory.mktemp("contexts") / "ref.h5ad"
    adata = hp.datasets.planted_contexts(n_cells=300, seed=1)
    (adata[0] if isinstance(adata, tuple) else adata).write_h5ad(path)
    return path


def test_the_cells_of_the_python_interface(run, cells, tmp_path):
    adata = ad.read_h5ad(cells)
    field, other = hp_fields(adata)
    value = str(adata.obs[field].iloc[0])
    options = ["--to", f"{field}={value}", "--field", other, "--epochs", 2, "--accelerator", "cpu"]
    run("translate", cells, "-o", tmp_path / "t.h5ad", *options)
    scvi.settings.seed = 0
    hp.CycleAE.setup_anndata(adata, [field, other])
    model = hp.CycleAE(adata)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    expected = model.translate_reference(adata, to={field: adata.obs[field].iloc[0]})
    written = ad.read_h5ad(tmp_path / "t.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), expected.X.toarray())
    assert set(written.obs[field].astype(str)) == {value}


def hp_fields(adata):
    """Two columns with a few categories."""
    few = [key for key in adata.obs if 1 < adata.obs[key].nunique() < 10]
    return few[:2]


def test_what_is_refused(run, cells, tmp_path):
    field, _ = hp_fields(ad.read_h5ad(cells))
    output = ["-o", tmp_path / "t.h5ad", "--epochs", 1]
    assert "expected FIELD=VALUE" in run("translate", cells, *output, "--to", field, code=2).stderr
    said = run("translate", cells, *output, "--to", f"{field}=nowhere", code=2).stderr
    assert "has no nowhere; found" in said
    said = run("translate", cells, *output, "--to", "nofield=x", code=2).stderr
    assert "--to nofield=x: REF.obs has no column nofield; found cell_type" in " ".join(said.split())
    assert not (tmp_path / "t.h5ad").exists()
