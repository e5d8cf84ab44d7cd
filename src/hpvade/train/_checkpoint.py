"""Checkpoints of training runs: written whole, sealed by a checksum, and bound to their model and reference.

A checkpoint is a file of `torch.save` whose zip comment holds the SHA-256 of the rest. It is read with
``weights_only=True``, which executes nothing, and only when the checksum and the fingerprint fit.
"""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as lp
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..io._atomic import install_file, partial
from ..io._rows import iter_rows, some_rows

KEY = "hpvade"
_MARK = b"hpvade sha256 "
_LENGTH = len(_MARK) + 64
_BLOCKS, _ROWS = 4, 64  # of the counts: a reference of another depth or normalisation differs in any of them
_NAMES = {
    "X": "genes",
    "labels": "cell types",
    "sample": "donors",
    "batch": "batches",
    "perturbation": "perturbations",
    "size_factor": "size factors",
    "extra_categorical_covs": "categorical covariates",
    "extra_continuous_covs": "continuous covariates",
    "context": "contexts",
}
_STEPS = "Pass a checkpoint of this model and reference, or leave ckpt_path out to train from the start."


class SealedCheckpoints(TorchCheckpointIO):
    """Lightning's reader and writer of checkpoints: a file is replaced in one step, and damage is noticed."""

    def save_checkpoint(self, checkpoint: dict, path, storage_options=None) -> None:
        """Write a checkpoint beside `path`, flush it, and rename it."""
        write_sealed(checkpoint, path)

    def load_checkpoint(self, path, map_location=None, weights_only=None) -> dict:
        """Read a checkpoint; see :func:`read_checkpoint`."""
        return read_checkpoint(path)


def write_sealed(document: dict, path) -> None:
    """Write a file of `torch.save` with its checksum: beside `path`, flushed, and renamed."""
    buffer = io.BytesIO()
    torch.save(document, buffer)
    data = buffer.getvalue()
    # the comment of a zip file stands at its end, its length in the two bytes before
    comment = _MARK + hashlib.sha256(data).hexdigest().encode()
    with partial(path) as part:
        part.write_bytes(data[:-2] + len(comment).to_bytes(2, "little") + comment)
        install_file(part, path)


def unsealed(path) -> tuple[bytes, bool]:
    """Content of a file, and whether it has a checksum; ValueError that names the file when that differs."""
    payload = Path(path).read_bytes()
    body, comment = payload[:-_LENGTH], payload[-_LENGTH:]
    if not comment.startswith(_MARK) or body[-2:] != _LENGTH.to_bytes(2, "little"):
        return payload, False
    data = body[:-2] + b"\0\0"
    if hashlib.sha256(data).hexdigest().encode() != comment[len(_MARK) :]:
        raise ValueError(f"{path} was changed after it was written (its checksum differs). Use an unchanged copy.")
    return data, True


def read_checkpoint(path) -> dict:
    """Read a checkpoint that a training run of this package wrote; nothing in it is executed.

    Raises
    ------
    FileNotFoundError
        There is no file `path`.
    ValueError
        The file was written by another program, is damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt_path={str(path)!r} is not a file; expected a checkpoint to resume.")
    data, is_sealed = unsealed(path)
    if not is_sealed:
        raise ValueError(
            f"{path} ({len(data)} bytes) is truncated, or no checkpoint of hpvade: its checksum is missing. {_STEPS}"
        )
    try:
        document = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} holds no tensors and plain values ({type(error).__name__}); it is not read. {_STEPS}"
        ) from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}; expected a checkpoint. {_STEPS}")
    return document


def read_own_checkpoint(path, fingerprint: dict) -> dict:
    """Read a checkpoint, and refuse it with ValueError unless its fingerprint is that of this model and reference."""
    document = read_checkpoint(path)
    state = document.get(KEY)
    saved = state.get("fingerprint") if isinstance(state, dict) else None
    if not isinstance(saved, dict):
        raise ValueError(f"{path} does not say which reference it was made with. {_STEPS}")
    if saved != fingerprint:
        raise ValueError(f"{path} was made with {'; '.join(_differences(saved, fingerprint))}. {_STEPS}")
    return document


def fingerprint(model, cells: dict | None = None) -> dict:
    """What must be the same for a checkpoint to be resumed: model and options, genes, cells, their types and donors.

    Parameters
    ----------
    model
        Model with its data.
    cells
        The part that describes the cells, for a model whose cells are not in an AnnData.

    Returns
    -------
    Plain values by name. Lists of names are kept as their number and two hashes, of the names in order and of the set.
    """
    found = {"model": type(model).__name__, "options": _options(model)}
    for key, entry in model.registry["field_registries"].items():
        state = {name: value for name, value in entry["state_registry"].items() if name != "n_obs"}
        names = state.get("categorical_mapping", state.get("column_names"))
        found[_name(key)] = listed(_flat(state) if names is None else [str(name) for name in names])
    if cells is not None:
        return found | cells
    manager = model.adata_manager
    found["cells"] = listed(manager.adata.obs_names.astype(str))
    for key in manager.data_registry:
        values = manager.get_from_registry(key)
        if key.partition("_")[0] == "X":
            found[f"counts of {_name(key)}" if key != "X" else "counts"] = _hash_of_rows(values)
        else:
            found[f"{_name(key)} of the cells"] = digest(np.asarray(values))
    return found


class RunState(lp.Callback):
    """Keep in every checkpoint what it was made with, the seed and the history of the run, and its random numbers.

    A resumed run goes on with these random numbers, so that on a CPU it ends with the bits of an uninterrupted one.

    Parameters
    ----------
    fingerprint
        Gives the fingerprint; asked once, when the first checkpoint is written.
    seed
        Seed that the run drew for everything but its steps; see :func:`hpvade.train._fit.run_seed`.

    Attributes
    ----------
    history
        History of the checkpoint that is resumed, one-column DataFrames by name; None in a new run.
    """

    def __init__(self, fingerprint: Callable[[], dict], seed: int | None = None):
        self._fingerprint, self._seed, self._found = fingerprint, seed, None
        self.history: dict[str, pd.DataFrame] | None = None

    def on_save_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        """Add the state."""
        if self._found is None:
            self._found = self._fingerprint()
        random = {"cpu": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        checkpoint[KEY] = {"fingerprint": self._found, "seed": self._seed, "random": random}
        checkpoint[KEY]["history"] = _rows(self.history, trainer)

    def on_load_checkpoint(self, trainer, pl_module, checkpoint: dict) -> None:
        """Go on with the random numbers of the checkpoint."""
        state = checkpoint.get(KEY, {})
        random = state.get("random")
        self.history = {name: pd.DataFrame({name: pd.Series(rows)}) for name, rows in state.get("history", {}).items()}
        if random is None or trainer.world_size > 1:  # one state cannot serve several processes
            return
        torch.set_rng_state(random["cpu"])
        if pl_module.device.type == "cuda" and "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], pl_module.device)


def logged_history(trainer) -> dict[str, pd.DataFrame]:
    """Get the history of the first logger that keeps one, as scvi's default does."""
    histories = (getattr(logger, "history", None) for logger in trainer.loggers)
    return next((history for history in histories if isinstance(history, dict)), {})


def _rows(earlier: dict[str, pd.DataFrame] | None, trainer) -> dict[str, dict[int, float]]:
    """Values by name and epoch: what the loggers have, and the epoch that ends now."""
    found = {name: table.iloc[:, 0].astype(float).to_dict() for name, table in (earlier or {}).items()}
    for name, table in logged_history(trainer).items():
        found[name] = found.get(name, {}) | table.iloc[:, 0].astype(float).to_dict()
    for name, value in trainer.callback_metrics.items():
        found.setdefault(name, {}).setdefault(trainer.current_epoch, float(value))
    return {name: {int(epoch): value for epoch, value in rows.items()} for name, rows in found.items()}


def _name(key: str) -> str:
    kind, _, part = key.partition("_")
    return f"{_NAMES['X']} of {part}" if kind == "X" and part else _NAMES.get(key, key)


def listed(values) -> dict:
    """Number of names, and hashes of them in order and as a set."""
    values = [str(value) for value in values]
    return {"n": len(values), "order": digest(values), "set": digest(sorted(values))}


def _flat(value) -> list[str]:
    """All values of nested containers, in order."""
    if isinstance(value, dict):
        return [item for key, part in value.items() for item in (str(key), *_flat(part))]
    if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "tolist"):
        return [item for part in (value.tolist() if hasattr(value, "tolist") else value) for item in _flat(part)]
    return [str(value)]


def _options(model) -> dict[str, str]:
    """Arguments of the model's `__init__`, as text."""
    given = getattr(model, "init_params_", {})
    groups = [given.get("non_kwargs", {}), *given.get("kwargs", {}).values()]
    return {name: _text(value) for group in groups for name, value in group.items()}


def _text(value) -> str:
    return json.dumps(value, default=lambda item: item.tolist() if hasattr(item, "tolist") else repr(item))


def digest(value) -> str:
    """Hash of an array of numbers, or of plain values."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        payload = np.ascontiguousarray(value, dtype=np.float64).tobytes()
    else:
        payload = _text(value).encode()
    return hashlib.sha256(payload).hexdigest()[:32]


def _hash_of_rows(X) -> str:
    """Hash of some rows of a matrix, without reading all of it."""
    found, n = hashlib.sha256(repr(X.shape).encode()), X.shape[0]
    for start in np.unique(np.linspace(0, max(n - _ROWS, 0), _BLOCKS).astype(int)):
        for _, block in iter_rows(some_rows(X, int(start), int(start) + _ROWS)):
            found.update(np.concatenate([block.indptr, block.indices, block.data], dtype=np.float64).tobytes())
    return found.hexdigest()[:32]


def _differences(saved: dict, found: dict) -> list[str]:
    different = []
    for name in [*found, *(name for name in saved if name not in found)]:
        a, b = saved.get(name), found.get(name)
        if a == b:
            continue
        if a is None or b is None:
            different.append(f"{name}, which only one of the two has")
        elif name == "model":
            different.append(f"a {a}, not a {b}")
        elif name == "options":
            names = sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))
            shown = (f"{key}={a.get(key, 'default')}, not {b.get(key, 'default')}" for key in names[:3])
            different.append(f"other options ({', '.join(shown)})")
        elif not isinstance(a, dict) or not isinstance(b, dict):
            different.append(f"other {name}")
        elif a.get("n") != b["n"]:
            different.append(f"{a.get('n')} {name}, this reference has {b['n']}")
        else:
            different.append(f"{name} in another order" if a.get("set") == b["set"] else f"other {name}")
    return different
