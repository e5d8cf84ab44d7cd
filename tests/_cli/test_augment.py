import anndata as ad
import numpy as np
import pytest


@pytest.fixture(scope="module")
def cells(files, tmp_path_factory):
    """The planted reference with 12 cells of one type left."""
    adata = ad.read_h5ad(files.ref)
    rare = np.flatnonzero(adata.obs["cell_type"] == "type_0")[12:]
    path = tmp_path_factory.mktemp("rare") / "ref.h5ad"
    adata[np.setdiff1d(np.arange(adata.n_obs), rare)].copy().write_h5ad(path)
    return path


def test_rare_types_are_filled_up_beside_the_cells_that_were_there(run, cells, tmp_path):
    options = ["--labels-key", "cell_type", "--min-cells", 40, "--epochs", 1, "--accelerator", "cpu"]
    result = run("augment", cells, "-o", tmp_path / "a.h5ad", *options)
    before, after = ad.read_h5ad(cells), ad.read_h5ad(tmp_path / "a.h5ad")
    new = after.obs["hpvade_generated"].astype(bool).to_numpy()
    counts = after.obs.loc[new, "cell_type"].value_counts()
    assert counts["type_0"] == 28 and new.sum() == 28 and "generated: type_0 28." in result.stdout
    own = after[~new]
    np.testing.assert_array_equal(own.X.toarray(), before.X.toarray() if hasattr(before.X, "toarray") else before.X)
    assert not [key for key in after.obs if key.startswith(("_scvi", "hpvade_no"))]
    run("augment", cells, "-o", tmp_path / "b.h5ad", *options)
    np.testing.assert_array_equal(ad.read_h5ad(tmp_path / "b.h5ad").X.toarray(), after.X.toarray())


def test_what_is_refused(run, cells, tmp_path):
    options = ["-o", tmp_path / "a.h5ad", "--labels-key", "cell_type"]
    assert "--min-cells" in run("augment", cells, *options, code=2).stderr
    said = run("augment", cells, *options, "--min-cells", 40, "--perturbation-key", "drug", code=1).stderr
    assert "drug" in said and not (tmp_path / "a.h5ad").exists()
