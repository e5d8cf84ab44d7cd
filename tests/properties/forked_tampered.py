"""Model files and checkpoints that were tampered with: loaded as they were, or refused by name; nothing runs.

A few dozen in the profile `ci`; more than a thousand with ``--hypothesis-profile=deep``. Every family's files are
read in a child process, so that a crash, a hang or a flood of memory would be counted, too.
"""

import faulthandler
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from property_inputs import cells

from hpvade.models import _saving as saving
from hpvade.train._checkpoint import _MARK, read_own_checkpoint

FAMILIES = ["hpvade", "ambient", "multimodal", "cvae", "cycleae", "ivae"]
SECONDS, MEMORY = 20, 6 * 2**30


class Evil:
    """Touches a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def sealed(folder: Path, document=None, tensors: bytes | None = None, data: bool = False) -> None:
    """Write changed parts of a model with checksums that fit, as one would who means harm."""
    path = folder / "model.json"
    document = json.loads(path.read_text()) if document is None else document
    document.pop("sha256", None)
    if tensors is not None:
        (folder / "model.safetensors").write_bytes(tensors)
        document["tensors"] = {"size": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()}
    if data:
        document["adata_sha256"] = hashlib.sha256((folder / document["adata"]).read_bytes()).hexdigest()
    document["sha256"] = saving._json_hash(document)
    path.write_text(saving._json(document))


# ---------------------------------------------------------------- ways to tamper: (folder, path of a file, rng, others)


def flipped(folder, path, rng, others):
    raw = bytearray(path.read_bytes())
    for at in rng.integers(len(raw), size=rng.integers(1, 9)):
        raw[at] ^= 1 << rng.integers(8)
    path.write_bytes(raw)


def truncated(folder, path, rng, others):
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def stretched(folder, path, rng, others):
    raw, at = path.read_bytes(), int(rng.integers(path.stat().st_size))
    path.write_bytes(raw[:at] + rng.bytes(int(rng.integers(1, 500))) + raw[at:])


def zeroed(folder, path, rng, others):
    raw = bytearray(path.read_bytes())
    at = int(rng.integers(len(raw)))
    raw[at : at + 100] = bytes(len(raw[at : at + 100]))
    path.write_bytes(raw)


def swapped(folder, path, rng, others):
    other = others[rng.integers(len(others))]
    shutil.copy(rng.choice([p for p in other.iterdir() if p.is_file()]), path)


def pickled(folder, path, rng, others):
    payload, buffer = Evil(folder.parent / "PWNED"), io.BytesIO()
    if rng.random() < 0.5:
        torch.save(payload, buffer)
    else:
        pickle.dump(payload, buffer, protocol=int(rng.integers(6)))
    path.write_bytes(buffer.getvalue())


def pickled_and_sealed(folder, path, rng, others):
    pickled(folder, path, rng, others)
    raw = path.read_bytes()
    if path.suffix == ".safetensors":
        sealed(folder, tensors=raw)
    elif path.suffix == ".ckpt":
        comment = _MARK + hashlib.sha256(raw).hexdigest().encode()
        path.write_bytes(raw[:-2] + len(comment).to_bytes(2, "little") + comment)


def linked(folder, path, rng, others):
    path.unlink()
    path.symlink_to(rng.choice(["/dev/zero", "/dev/full", "/", "nowhere", path.name, "/etc/hostname"]))


def replaced_by_a_folder(folder, path, rng, others):
    path.unlink()
    path.mkdir()


def changed_value(folder, path, rng, others):
    """Another value, of another kind perhaps, at a random place of the document."""
    document = json.loads((folder / "model.json").read_text())
    place = document
    for _ in range(int(rng.integers(8))):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        inner = [key for key in keys if isinstance(place[key], dict | list) and place[key]]
        if not inner:
            break
        place = place[inner[rng.integers(len(inner))]]
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.2:
        del place[key]
    else:
        deep, kinds = [], [None, True, -1, 2**70, 1e308, "", "../../x", "a" * 10_000, [], {}, [[1]], {"a": {"b": 1}}]
        kinds += [{"__type__": "ndarray", "dtype": "<f4", "shape": [2**40], "values": [1.0]}, {"__type__": "object"}]
        kinds += [{"__type__": "ndarray", "dtype": "O", "shape": [1], "values": [1]}, {"__reduce__": ["os.system"]}]
        for _ in range(500):
            deep = [deep]
        place[key] = [*kinds, deep][rng.integers(len(kinds) + 1)]
    sealed(folder, document)


def huge_text(folder, path, rng, others):
    texts = ["[" * 200_000, '{"a":' * 100_000, "1" * 100_000, '"' + "\\u0000" * 100_000, "NaN", "\xff\xfe", "{}" * 10]
    (folder / "model.json").write_text(texts[rng.integers(len(texts))], encoding="latin-1")


def tensor_header(folder, path, rng, others):
    """A header of safetensors that lies about lengths, places, shapes or dtypes."""
    raw = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header, body = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    entry = header[names[rng.integers(len(names))]]
    how = rng.integers(9)
    if how == 0:
        return sealed(folder, tensors=struct.pack("<Q", int(rng.choice([2**63, 2**40, 2**32, 0, 7]))) + raw[8:])
    if how == 1:
        entry["data_offsets"] = [0, 2**60]
    elif how == 2:
        entry["data_offsets"] = [5, 1]
    elif how == 3:
        entry["shape"] = [2**40, 2**40]
    elif how == 4:
        entry["dtype"] = str(rng.choice(["F64", "I8", "BOOL", "X9", ""]))
    elif how == 5:
        header["../../evil"] = header.pop(names[0])
    elif how == 6:
        entry["shape"] = entry["shape"][::-1] + [1]
    elif how == 7:
        del header[names[0]]
    else:
        header[names[0]] = [[[]]] * 1000
    text = json.dumps(header).encode()
    return sealed(folder, tensors=struct.pack("<Q", len(text)) + text + body)


def tensor_values(folder, path, rng, others):
    """Other weights: NaN, infinite, anything."""
    raw = bytearray((folder / "model.safetensors").read_bytes())
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    raw[begin:] = rng.bytes(len(raw) - begin)
    sealed(folder, tensors=bytes(raw))


def damaged_cells(folder, path, rng, others):
    """Parts of the saved cells gone or replaced, with a checksum that fits.

    Bytes of them are not changed under a new checksum: libhdf5 itself may then hang (docs/user_guide/security.md).
    """
    data = folder / json.loads((folder / "model.json").read_text())["adata"]
    with h5py.File(data, "r+") as file:
        names = []
        file.visit(names.append)
        name = names[rng.integers(len(names))]
        is_array = isinstance(file[name], h5py.Dataset)
        del file[name]
        if is_array and rng.random() < 0.5:
            file[name] = rng.choice([3.5, -1.0, np.nan])
    sealed(folder, data=True)


ALL = [flipped, truncated, stretched, zeroed, swapped, pickled, pickled_and_sealed, linked, replaced_by_a_folder]
DOCUMENT = [changed_value] * 5 + [huge_text, tensor_header, tensor_header, tensor_values, damaged_cells, damaged_cells]


# ---------------------------------------------------------------- reading


def outcome(read, folder: Path, path: Path) -> str:
    """What reading a tampered file came to: "loads", "refused", or what is wrong."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(SECONDS + 5, exit=True)  # also where no Python runs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        found = "loads"
    except (ValueError, OSError) as error:
        plain = type(error) in (ValueError, OSError, FileNotFoundError, IsADirectoryError, PermissionError)
        found = "refused" if plain and str(folder) in str(error) else f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001
        found = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
    return f"RAN CODE in {path.name}" if (folder.parent / "PWNED").exists() else found


def cases(seeds, original: Path, others: list[Path], work: Path, model, tell) -> None:
    """Tamper with copies of a model's folder, read them, and tell what came of each."""

    def hang(*_):
        raise TimeoutError(f"longer than {SECONDS} s")

    signal.signal(signal.SIGALRM, hang)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for seed in seeds:
        rng, folder = np.random.default_rng(seed), work / "model"
        shutil.copytree(original, folder)
        files = sorted(folder.iterdir())
        path = files[rng.integers(len(files))]
        ways = ALL + (DOCUMENT if path.suffix != ".ckpt" else [])
        way = ways[rng.integers(len(ways))]
        way(folder, path, rng, others)

        def read(folder=folder, path=path):
            if path.suffix == ".ckpt":
                read_own_checkpoint(path, {})
            else:
                type(model).load(folder, accelerator="cpu")

        tell({"seed": seed, "way": way.__name__, "file": path.name, "outcome": outcome(read, folder, path)})
        shutil.rmtree(folder)


def in_children(seeds, *args) -> list[dict]:
    """Run :func:`cases` in a child process, and in another one after a crash."""
    found, seeds = [], list(seeds)
    while seeds:
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(read_end)
                with os.fdopen(write_end, "w") as pipe:
                    cases(seeds, *args, lambda line: print(json.dumps(line), file=pipe, flush=True))
                status = 0
            finally:
                os._exit(status)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            lines = [json.loads(line) for line in pipe]
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        found += lines
        seeds = seeds[len(lines) :]
        if seeds:
            found.append({"seed": seeds.pop(0), "way": "?", "file": "?", "outcome": f"the process ended with {status}"})
            shutil.rmtree(args[2] / "model", ignore_errors=True)
    return found


@pytest.fixture(scope="module")
def originals(models, tmp_path_factory):
    """Folder of every family with its model, its cells and a checkpoint."""
    folders = {}
    for name in FAMILIES:
        folders[name] = tmp_path_factory.mktemp("original") / name
        models[name].save(folders[name], save_anndata=True)
        run = tmp_path_factory.mktemp("run")
        fresh = models["make"][name](cells())
        fresh.train(1, checkpoint_dir=run, accelerator="cpu", enable_progress_bar=False, early_stopping=False)
        shutil.copy(run / "last.ckpt", folders[name] / "last.ckpt")
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_tampered_files_are_refused_by_name(name, originals, models, request, tmp_path):
    deep = request.config.getoption("--hypothesis-profile", None) == "deep"
    first = 10_000 * FAMILIES.index(name)
    seeds = range(first, first + (200 if deep else 25))
    found = in_children(seeds, originals[name], list(originals.values()), tmp_path, models[name])
    counts = {what: sum(case["outcome"] == what for case in found) for what in ("loads", "refused")}
    print(f"{name}: {len(found)} tampered files, {counts}")  # noqa: T201
    assert [case for case in found if case["outcome"] not in counts] == []
    assert len(found) == len(seeds) and counts["refused"] > 0.6 * len(found)
