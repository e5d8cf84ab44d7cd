"""A cohort in a Dask array against the same cohort in memory."""

import os
import signal
import threading
import time

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hpvade as hp
from hpvade.models.hpvade._dask import _row_blocks, _rows

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
KEY = "hpvade_proportions"
KEYS = [KEY, f"{KEY}_rna", f"{KEY}_nnls"]
N_SAMPLES = 330  # more than the gene factor is taken from


@pytest.fixture(scope="module")
def model():
    reference, _ = hp.datasets.planted_cohort(n_types=4, n_genes=300, n_cells=400, n_samples=2, seed=1)
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor")
    model = hp.HPVADE(reference, n_genes=150)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False, logger=False)
    return model


@pytest.fixture(scope="module")
def bulk(model):
    """Counts of another platform."""
    rng = np.random.default_rng(0)
    signature = model.get_signature_matrix(normalize="cpm").to_numpy() / 1e6
    truth = rng.dirichlet(np.ones(4), N_SAMPLES)
    mean = truth @ signature.T * np.exp(0.5 * rng.standard_normal(300)) * rng.uniform(2e4, 2e5, (N_SAMPLES, 1))
    genes = rng.permutation(300)
    names = pd.Index(np.asarray(model.get_var_names())[genes])
    obs = pd.DataFrame(index=[f"s{i}" for i in range(N_SAMPLES)])
    return ad.AnnData(rng.poisson(mean[:, genes]).astype(np.float32), obs=obs, var=pd.DataFrame(index=names))


def in_dask(bulk, kind=None, chunks=(100, -1)):
    X = da.from_array(bulk.X, chunks=chunks)
    return ad.AnnData(X.map_blocks(kind) if kind else X, obs=bulk.obs.copy(), var=bulk.var.copy())


def lazy(bulk, path):
    pytest.importorskip("xarray")
    ad.AnnData(sparse.csr_matrix(bulk.X), obs=bulk.obs, var=bulk.var).write_zarr(path)
    return ad.experimental.read_lazy(path)


def zarr_array(bulk, path):
    ad.AnnData(bulk.X, obs=bulk.obs, var=bulk.var).write_zarr(path)
    adata = ad.read_zarr(path)
    adata.X = da.from_zarr(str(path / "X"))
    return adata


KINDS = {
    "dense": lambda bulk, path: in_dask(bulk),
    "small blocks": lambda bulk, path: in_dask(bulk, chunks=(1, -1)),
    "cut between genes": lambda bulk, path: in_dask(bulk, chunks=(70, 90)),
    "csr": lambda bulk, path: in_dask(bulk, sparse.csr_matrix),
    "csr_array": lambda bulk, path: in_dask(bulk, sparse.csr_array),
    "zarr": zarr_array,
    "read_lazy": lazy,
}


def assert_same(found, expected):
    for key in KEYS:
        table = found.obsm[key]
        assert isinstance(table, pd.DataFrame)
        pd.testing.assert_index_equal(table.index, expected.obsm[key].index, check_names=False)
        np.testing.assert_allclose(table, expected.obsm[key], atol=1e-5, err_msg=key)
    made, wanted = found.uns[KEY], expected.uns[KEY]
    assert made.keys() == wanted.keys()
    assert made["platform_distance"] == pytest.approx(wanted["platform_distance"], abs=1e-5)
    np.testing.assert_allclose(made["cell_sizes"], wanted["cell_sizes"], rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_cohort_in_memory(model, bulk, tmp_path, kind):
    expected, found = bulk.copy(), KINDS[kind](bulk, tmp_path / "x.zarr")
    model.deconvolve(expected)
    result = model.deconvolve(found)
    assert_same(found, expected)
    np.testing.assert_array_equal(result, found.obsm[KEY])
    assert type(found.X).__module__.startswith("dask")


def test_the_gene_factor_is_one_for_the_cohort(model, bulk):
    """Without a factor of its own, a block would answer otherwise: the test can tell."""
    alone, whole = bulk[:40].copy(), bulk.copy()
    model.deconvolve(alone)
    model.deconvolve(whole)
    assert np.abs(alone.obsm[KEY].to_numpy() - whole.obsm[KEY].to_numpy()[:40]).max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [
        {"refine": False},
        {"fractions": "rna", "key_added": KEY},
        {"prior": "network", "prior_weight": 0.5},
        {"prior": {"type_0": 0.7, "type_1": 0.1, "type_2": 0.1, "type_3": 0.1}, "prior_weight": 0.5},
        {"prior": "table", "prior_weight": 0.5},
        {"solver_kwargs": {"gene_factor": False}},
        {"solver_kwargs": {"factor_samples": 20}},
        {"layer": "counts", "input_type": "log1p"},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_options_reach_the_blocks(model, bulk, options):
    if options.get("prior") == "table":
        table = np.random.default_rng(2).dirichlet(np.ones(4), N_SAMPLES)
        options = options | {"prior": pd.DataFrame(table, index=bulk.obs_names, columns=model.cell_types)}
    expected, found = bulk.copy(), in_dask(bulk)
    if "layer" in options:
        expected.layers["counts"], found.layers["counts"] = np.log1p(expected.X), da.log1p(found.X)
    model.deconvolve(expected, **options)
    model.deconvolve(found, **options)
    assert_same(found, expected)


def test_no_block_solves_a_baseline_that_is_not_asked_for(model, bulk, monkeypatch):
    def refuse(*args):
        raise AssertionError("plain NNLS was not asked for")

    monkeypatch.setattr("hpvade.models.hpvade._dask.nnls", refuse)
    expected, found = bulk.copy(), in_dask(bulk)
    model.deconvolve(expected, baseline=False)
    model.deconvolve(found, baseline=False)
    np.testing.assert_allclose(found.obsm[KEY], expected.obsm[KEY], atol=1e-5)
    assert f"{KEY}_nnls" not in found.obsm
    model.get_cell_type_expression(found[:5].copy(), genes=list(bulk.var_names[:2]))
    with pytest.raises(AssertionError, match="not asked for"):  # the patch reaches the blocks
        model.deconvolve(found)


def test_gene_lengths_are_used(model, bulk):
    lengths = np.random.default_rng(3).uniform(500, 5000, bulk.n_vars)
    expected, found = bulk.copy(), in_dask(bulk)
    expected.var["length"], found.var["length"] = lengths, lengths
    model.deconvolve(expected, gene_length_key="length")
    model.deconvolve(found, gene_length_key="length")
    assert_same(found, expected)


def test_a_bad_sample_in_any_block_is_named_and_nothing_is_written(model, bulk):
    X = bulk.X.copy()
    X[201, 7] = np.nan
    found = in_dask(ad.AnnData(X, obs=bulk.obs, var=bulk.var))
    with pytest.raises(ValueError, match="s201"):
        model.deconvolve(found)
    assert not found.obsm and not found.uns


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unknown": True}, "learns from all samples"),
        ({"input_type": "log2"}, "block by block"),
        ({"prior": "x"}, "prior"),
    ],
)
def test_what_blocks_cannot_tell_is_refused(model, bulk, options, message):
    found = in_dask(bulk)
    with pytest.raises(ValueError, match=message):
        model.deconvolve(found, **options)
    assert not found.obsm


def test_row_blocks_and_rows_are_those_of_the_array():
    X = np.arange(5000 * 6.0).reshape(5000, 6)
    for chunks in ((1, 6), (5000, 2), (700, -1)):
        blocks = _row_blocks(da.from_array(X, chunks=chunks))
        assert blocks.chunks[1] == (6,) and len(blocks.chunks[0]) <= 5000 / 64 + 1
        np.testing.assert_array_equal(blocks.compute(), X)
        rows = np.array([0, 3, 699, 700, 4999])
        np.testing.assert_array_equal(_rows(blocks, rows), X[rows])
    wide = da.zeros((1000, 2**20), chunks=(1000, 1000), dtype=np.float32)
    assert max(_row_blocks(wide).chunks[0]) == 64


def slowly(block):
    time.sleep(0.3)
    return block


def holder(dask_scheduler):
    """Address of a worker that holds the only copy of a solved block; None so far."""
    for key, task in dask_scheduler.tasks.items():
        if "_solve" in str(key) and task.state == "memory" and len(task.who_has) == 1:
            return next(iter(task.who_has)).address
    return None


@pytest.mark.slow
def test_the_result_is_whole_when_a_worker_is_killed(model, bulk):
    """The worker dies with blocks that it has solved, while others are still to come."""
    distributed = pytest.importorskip("distributed")
    expected, found = bulk.copy(), in_dask(bulk, chunks=(40, -1))
    model.deconvolve(expected)
    found.X = found.X.map_blocks(slowly, meta=bulk.X[:0])
    finished, killed = threading.Event(), []

    def kill():
        pids, address = client.run(os.getpid), None
        while address is None and not finished.is_set():
            time.sleep(0.02)
            address = client.run_on_scheduler(holder)
        if not finished.is_set():
            os.kill(pids[address], signal.SIGKILL)
            killed.append(address)

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        killer = threading.Thread(target=kill)
        killer.start()
        model.deconvolve(found)
        finished.set()
        killer.join()
        assert client.run_on_scheduler(lambda dask_scheduler: killed[0] not in dask_scheduler.workers)
    assert_same(found, expected)
    assert found.obsm[KEY].notna().all().all()
