"""Death at scripted points of every kind of write, in every family: the old or the new file is there, and whole.

A few points of each in the profile `ci`; all of them with ``--hypothesis-profile=deep``.
"""

import os
import signal
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from property_inputs import cells

from hpvade._cli._io import complete, write_table
from hpvade.io._atomic import NEW, PREFIX
from hpvade.train._checkpoint import read_checkpoint

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": False}
NAMES = ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "open")
FAMILIES = ["hpvade", "ambient", "multimodal", "cvae", "cycleae", "ivae"]
TOTALS = {}


def dies_at(step: int) -> None:
    """Kill this process at its `step`-th change of names, flush or write, from 0; a write dies half done, too."""
    count = [0]

    def now() -> bool:
        count[0] += 1
        return count[0] > step

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def before(real):
        return lambda *args, **kwargs: die() if now() else real(*args, **kwargs)

    def half(real):
        def write(self, payload, *args, **kwargs):
            if now():
                real(self, payload[: len(payload) // 2], *args, **kwargs)
                die()
            return real(self, payload, *args, **kwargs)

        return write

    def cut(real):
        def write(self, path, *args, **kwargs):
            result = real(self, path, *args, **kwargs)
            if now():
                os.truncate(path, os.path.getsize(path) // 2)
                die()
            return result

        return write

    for name in NAMES:
        setattr(os, name, before(getattr(os, name)))
    for name in ("write_bytes", "write_text"):
        setattr(Path, name, half(getattr(Path, name)))
    ad.AnnData.write_h5ad = cut(ad.AnnData.write_h5ad)
    pd.DataFrame.to_csv = cut(pd.DataFrame.to_csv)


def killed(task, step: int) -> bool:
    """Whether a process that dies at `step` of a task died there, and did not come to the task's end."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        status = 1
        try:
            dies_at(step)
            task()
            status = 0
        finally:
            os._exit(status)
    found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert found in (0, -signal.SIGKILL), found
    return found != 0


def every_step(request, task, check, family, *, few=(1, 4, 9)) -> int:
    """Kill `task` at every step in the profile `deep`, else at a `few`; `check` what each death left."""
    deep = request.config.getoption("--hypothesis-profile", None) == "deep"
    steps, kills = iter(range(300)) if deep else iter(few), 0
    for step in steps:
        died = killed(task, step)
        check(died)
        kills += died
        if not died:
            break
    TOTALS[family] = TOTALS.get(family, 0) + kills
    print(f"{family}: {kills} kills, {TOTALS[family]} in all")  # noqa: T201
    assert kills >= (4 if deep else 1)
    return kills


def weights(model) -> bytes:
    return b"".join(value.detach().numpy().tobytes() for value in model.module.state_dict().values())


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, models):
    """Name of a family, and two models of it with other weights."""
    scvi.settings.seed = 5
    other = models["make"][request.param](cells())
    other.train(1, **QUIET)
    return request.param, models[request.param], other


@pytest.mark.slow
@pytest.mark.parametrize("how", ["save", "save with cells", "command"])
def test_overwriting_a_model(pair, how, request, tmp_path):
    name, old, new = pair
    folder, with_cells = tmp_path / "model", {"save_anndata": how == "save with cells"}
    known = {weights(old), weights(new)}

    def task():
        if how != "command":
            return new.save(folder, overwrite=True, **with_cells)
        with complete(folder) as part:
            new.save(part)

    def check(died):
        found = type(old).load(folder, adata=None if with_cells["save_anndata"] else False, accelerator="cpu")
        assert weights(found) in known and (died or weights(found) == weights(new))
        assert found.adata is None or found.adata.n_obs == 90
        old.save(folder, overwrite=True, **with_cells)  # the next writer leaves nothing of the death
        assert list(tmp_path.rglob(f"{PREFIX}*")) == list(tmp_path.rglob(NEW)) == []
        assert weights(type(old).load(folder, adata=False, accelerator="cpu")) == weights(old)

    old.save(folder, **with_cells)
    every_step(request, task, check, name, few=(2, 9, 15))


@pytest.mark.slow
def test_a_first_save(pair, request, tmp_path):
    name, _, new = pair
    count = [0]

    def task():
        new.save(tmp_path / f"model{count[0]}", save_anndata=True)

    def check(died):
        folder = tmp_path / f"model{count[0]}"
        assert died or folder.exists()
        if folder.exists():
            assert weights(type(new).load(folder, accelerator="cpu")) == weights(new)
        count[0] += 1

    every_step(request, task, check, name)


@pytest.mark.slow
def test_checkpoints(pair, models, request, tmp_path):
    name, _, _ = pair

    def model():
        scvi.settings.seed = 0
        return models["make"][name](cells())

    model().train(1, checkpoint_dir=tmp_path, **QUIET)
    fresh = model()

    def task():
        fresh.train(1, checkpoint_dir=tmp_path, **QUIET)

    def check(died):
        for path in tmp_path.glob("*.ckpt"):
            assert read_checkpoint(path)["epoch"] == 0
        assert (tmp_path / "last.ckpt").exists()

    every_step(request, task, check, name, few=(3, 8))
    model().train(2, ckpt_path=tmp_path / "last.ckpt", **QUIET)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".h5ad", ".csv"])
def test_results(pair, suffix, request, tmp_path):
    name, model, _ = pair
    path = tmp_path / f"result{suffix}"
    modules = model.module.state_dict().values()
    values = np.concatenate([value.detach().numpy().ravel()[:5] for value in modules]).astype(np.float32)

    def write(target, values):
        table = pd.DataFrame(values[:, None], index=[f"s{i}" for i in range(len(values))], columns=["x"])
        with complete(target) as part:
            if suffix == ".csv":
                write_table(table, part)
            else:
                ad.AnnData(table).write_h5ad(part)

    def read():
        return pd.read_csv(path, index_col=0)["x"].to_numpy() if suffix == ".csv" else ad.read_h5ad(path).X[:, 0]

    def check(died):
        found = read()
        assert np.allclose(found, values) or (died and np.allclose(found, values + 1))
        write(path, values + 1)
        assert [p.name for p in tmp_path.iterdir()] == [path.name] and np.allclose(read(), values + 1)

    write(path, values + 1)
    every_step(request, lambda: write(path, values), check, name, few=(1, 3))
