import json

import anndata as ad
import numpy as np
import pytest
import scvi
from scipy import sparse

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
    for name, (share, lower, upper) in expected.uns["ambient_share"].iterrows():
        ambient = f"{share:.1%} of the counts were ambient ({lower:.1%} to {upper:.1%})"
        none = f"no evidence of ambient RNA, left as it is (up to {upper:.1%})"
        assert f"- {name}: {ambient if share else none}" in result.stdout


def test_a_column_that_is_not_there(run, files, tmp_path):
    said = run("clean", files.ref, "-o", tmp_path / "c.h5ad", "--batch-key", "lane", code=1).stderr
    assert "lane" in said and "REF.obs" in said and not (tmp_path / "c.h5ad").exists()


@pytest.fixture(scope="module")
def droplets(files):
    """Raw matrices of two libraries: empty droplets of two profiles, and one droplet with a cell."""
    adata, rng = ad.read_h5ad(files.ref), np.random.default_rng(0)
    libraries, paths = sorted(adata.obs["donor"].astype(str).unique()), {}
    for name in libraries:
        X = rng.multinomial(60, rng.dirichlet(np.ones(adata.n_vars)), size=200).astype(np.float32)
        X[0] *= 50
        raw = ad.AnnData(sparse.csr_matrix(X), var=adata.var[[]])
        raw.obs_names = [f"{name}-{i}" for i in range(200)]
        paths[name] = files.folder / f"raw_{name}.h5ad"
        raw.write_h5ad(paths[name])
    return paths


QUICK = ["--batch-key", "donor", "--labels-key", "cell_type", "--epochs", 1, "--accelerator", "cpu"]


def test_measured_profiles_of_every_library_or_of_all(run, files, droplets, tmp_path):
    one = [option for name, path in droplets.items() for option in ("--raw", f"{name}={path}")]
    document = json.loads(run("clean", files.ref, "-o", tmp_path / "c.h5ad", *QUICK, *one, "--json").stdout)["result"]
    written = ad.read_h5ad(tmp_path / "c.h5ad")
    empty = {name: ad.read_h5ad(path).X[1:].sum(axis=0).A1 for name, path in droplets.items()}
    names = list(written.uns["ambient_share"].index)
    assert sorted(names) == sorted(droplets)
    expected = np.stack([empty[name] / empty[name].sum() for name in names], axis=1)
    np.testing.assert_allclose(written.varm["ambient_profile"], expected, atol=1e-12)
    table = written.uns["ambient_share"]
    assert document["ambient_interval"] == {name: list(table.loc[name, ["lower", "upper"]]) for name in names}
    first = next(iter(droplets))
    run("clean", files.ref, "-o", tmp_path / "a.h5ad", *QUICK, "--raw", droplets[first])
    shared = ad.read_h5ad(tmp_path / "a.h5ad").varm["ambient_profile"]
    np.testing.assert_allclose(shared, np.tile((empty[first] / empty[first].sum())[:, None], len(names)), atol=1e-12)


def test_raw_files_that_do_not_fit_the_libraries(run, files, droplets, tmp_path):
    (first, path), (second, other) = list(droplets.items())[:2]
    for options, message in [
        (["--raw", f"lane={path}"], "REF has no library lane"),
        (["--raw", f"{first}={path}"], f"--raw {second}=FILE"),
        (["--raw", path, "--raw", f"{first}={path}"], "Put LIBRARY= before each file"),
        (["--raw", path, "--raw", other], "Give each library one"),
        (["--raw", tmp_path / "none.h5"], "does not exist"),
    ]:
        said = run("clean", files.ref, "-o", tmp_path / "c.h5ad", *QUICK, *options, code=2).stderr
        assert message in " ".join(said.split()) and not (tmp_path / "c.h5ad").exists()
