import anndata as ad
import numpy as np
import scvi

import hpvade as hp


def test_the_cells_of_the_python_interface(run, files, tmp_path):
    options = ["--batch-key", "donor", "--labels-key", "cell_type", "--epochs", 2, "--accelerator", "cpu"]
    result = run("clean", files.ref, "-o", tmp_path / "c.h5ad", *options)
    adata = ad.read_h5ad(files.ref)
    scvi.settings.seed = 0
    hp.AmbientRegularizedSCVI.setup_anndata(adata, batch_key="donor")
    model = hp.AmbientRegularizedSCVI(adata)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    expected = model.get_clean_reference(labels_key="cell_type")
    written = ad.read_h5ad(tmp_path / "c.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), expected.X.toarray())
    assert not [key for key in written.obs if key.startswith("_scvi")] and "cell_type" in written.obs
    for name, share in expected.uns["ambient_share"]["share"].items():
        assert f"- {name}: {share:.1%} of the counts were ambient" in result.stdout


def test_a_column_that_is_not_there(run, files, tmp_path):
    said = run("clean", files.ref, "-o", tmp_path / "c.h5ad", "--batch-key", "lane", code=1).stderr
    assert "lane" in said and "REF.obs" in said and not (tmp_path / "c.h5ad").exists()
