"""The same reference in every kind of storage gives the same model."""

import anndata as ad
import numpy as np
import pytest
import scvi
from scipy import sparse

import hpvade as hp


@pytest.fixture(scope="module")
def cohort():
    reference, bulk = hp.datasets.planted_cohort(n_types=3, n_genes=120, n_cells=240, n_samples=6, seed=0)
    reference.X = sparse.csr_matrix(reference.X)
    return ad.AnnData(reference.X, obs=reference.obs[["cell_type", "donor"]], var=reference.var[[]]), bulk


def dask_of(adata, kind=None, columns=-1):
    dask_array = pytest.importorskip("dask.array")
    X = dask_array.from_array(adata.X.toarray(), chunks=(50, columns))
    return ad.AnnData(X.map_blocks(kind) if kind else X, obs=adata.obs.copy(), var=adata.var.copy())


def stored(adata, path, kind, suffix="h5ad"):
    copy = ad.AnnData(kind(adata.X), obs=adata.obs.copy(), var=adata.var.copy())
    getattr(copy, f"write_{suffix}")(path / f"x.{suffix}")
    return path / f"x.{suffix}"


def lazy(path):
    pytest.importorskip("xarray")
    return ad.experimental.read_lazy(path)


def on_zarr(adata, path):
    X = ad.io.sparse_dataset(pytest.importorskip("zarr").open(stored(adata, path, sparse.csr_matrix, "zarr"))["X"])
    return ad.AnnData(X, obs=adata.obs.copy(), var=adata.var.copy())


def dense(X):
    return X.toarray() if sparse.issparse(X) else X


KINDS = {
    "dense": lambda a, path: ad.AnnData(dense(a.X), obs=a.obs.copy(), var=a.var.copy()),
    "csc": lambda a, path: ad.AnnData(a.X.tocsc(), obs=a.obs.copy(), var=a.var.copy()),
    "csr_array": lambda a, path: ad.AnnData(sparse.csr_array(a.X), obs=a.obs.copy(), var=a.var.copy()),
    "backed csr": lambda a, path: ad.read_h5ad(stored(a, path, sparse.csr_matrix), backed="r"),
    "backed csc": lambda a, path: ad.read_h5ad(stored(a, path, sparse.csc_matrix), backed="r"),
    "backed dense": lambda a, path: ad.read_h5ad(stored(a, path, dense), backed="r"),
    "zarr csr": on_zarr,
    "dask": lambda a, path: dask_of(a),
    "dask two-way": lambda a, path: dask_of(a, columns=31),
    "dask csr": lambda a, path: dask_of(a, sparse.csr_matrix),
    "dask csr_array": lambda a, path: dask_of(a, sparse.csr_array),
    "lazy h5ad": lambda a, path: lazy(stored(a, path, sparse.csr_matrix)),
    "lazy h5ad dense": lambda a, path: lazy(stored(a, path, dense)),
    "lazy zarr": lambda a, path: lazy(stored(a, path, sparse.csr_matrix, "zarr")),
}


def answers(adata, bulk, path):
    scvi.settings.seed = 0
    hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor")
    model = hp.HPVADE(adata, n_genes=60)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, logger=False)
    model.save(path / "model")
    loaded = hp.HPVADE.load(path / "model", adata, accelerator="cpu")
    bulk = bulk.copy()
    return {
        "proportions": loaded.deconvolve(bulk).to_numpy(),
        "network": loaded.deconvolve(bulk, refine=False).to_numpy(),
        "signature": loaded.get_signature_matrix().to_numpy(),
        "latent": loaded.get_latent_representation(indices=[5, 2, 190]),
        "written": adata.varm["hpvade_signatures"].to_numpy(),
    }


@pytest.fixture(scope="module")
def expected(cohort, tmp_path_factory):
    adata, bulk = cohort
    return answers(adata.copy(), bulk, tmp_path_factory.mktemp("csr"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_does_not_depend_on_where_the_cells_lie(tmp_path, cohort, expected, kind):
    adata, bulk = cohort
    found = answers(KINDS[kind](adata, tmp_path), bulk, tmp_path)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["lazy h5ad", "lazy zarr", "dask csr"])
def test_solvers_and_simulation_read_the_same_references(tmp_path, cohort, kind):
    adata, bulk = cohort
    other, keys = KINDS[kind](adata, tmp_path), {"labels_key": "cell_type", "sample_key": "donor"}
    tables = [bulk.copy(), bulk.copy()]
    for reference, table in zip((adata, other), tables, strict=True):
        hp.tl.solve(table, reference, **keys)
    for key in tables[0].obsm:
        np.testing.assert_allclose(tables[1].obsm[key], tables[0].obsm[key], atol=1e-6)
    sums = [hp.pp.summarize(x, **keys) for x in (adata, other)]
    np.testing.assert_array_equal(dense(sums[1].X), dense(sums[0].X))
    assert sums[1].obs.equals(sums[0].obs) and (sums[1].var_names == sums[0].var_names).all()
    simulated = [hp.pp.simulate_bulk(x, n_samples=3, n_cells=50, seed=0, **keys) for x in (adata, other)]
    np.testing.assert_array_equal(dense(simulated[1].X), dense(simulated[0].X))


def test_a_lazy_reference_is_unchanged_on_an_error(tmp_path, cohort):
    adata = lazy(stored(cohort[0], tmp_path, lambda X: -X))
    with pytest.raises(ValueError, match="negative value"):
        hp.HPVADE.setup_anndata(adata, "cell_type")
    assert type(adata.obs).__name__ == "Dataset2D" and not adata.uns
