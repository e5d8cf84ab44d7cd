"""One model for four threads, and in child processes that are forked or spawned: the same answers."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import numpy as np
import pytest

import hpvade as hp

TASKS = {
    "deconvolve": lambda model, bulk: model.deconvolve(bulk.copy()),
    "unknown": lambda model, bulk: model.deconvolve(bulk.copy(), unknown=True),
    "intervals": lambda model, bulk: model.get_proportion_intervals(bulk, n_draws=20),
    "expression": lambda model, bulk: model.get_cell_type_expression(bulk).X,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", TASKS)
def test_four_threads_with_one_model(task, models, bulk):
    model = models["hpvade"]
    parts = [bulk[np.roll(np.arange(bulk.n_obs), i)].copy() for i in range(4)]
    expected = [np.asarray(TASKS[task](model, part)) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: np.asarray(TASKS[task](model, parts[i % 4])), range(24)))
    for i, answer in enumerate(found):
        np.testing.assert_array_equal(answer, expected[i % 4])


@pytest.mark.parametrize("family", ["ambient", "cvae", "cycleae", "ivae"])
def test_four_threads_with_cells_of_their_own(family, models):
    model = models[family]
    parts = [models["cells"][i : i + 40].copy() for i in range(4)]
    expected = [model.get_latent_representation(part.copy()) for part in parts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: model.get_latent_representation(parts[i % 4].copy()), range(16)))
    for i, answer in enumerate(found):
        np.testing.assert_array_equal(answer, expected[i % 4])


def answer(folder, path, send):
    """In a child process."""
    import torch

    torch.set_num_threads(1)
    model = hp.HPVADE.load(folder, adata=False, accelerator="cpu")
    send.send(model.deconvolve(ad.read_h5ad(path)).to_numpy())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(method, models, bulk, tmp_path):
    path = tmp_path / "bulk.h5ad"
    bulk.write_h5ad(path)
    expected = models["hpvade"].deconvolve(bulk.copy()).to_numpy()
    context = multiprocessing.get_context(method)
    receive, send = context.Pipe(False)
    children = [context.Process(target=answer, args=(models["saved"]["hpvade"], path, send)) for _ in range(2)]
    for child in children:
        child.start()
    for _ in children:
        assert receive.poll(120)
        np.testing.assert_allclose(receive.recv(), expected, atol=1e-6)
    for child in children:
        child.join(60)
        assert child.exitcode == 0
