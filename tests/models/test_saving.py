"""Saved models: one step from the old to the new one in every family, and files that were tampered with."""

import json
import os
import re
import signal

import numpy as np
import pytest
import scvi
import torch

import hpvade as hp
from hpvade._cli._io import complete
from hpvade.io._atomic import PREFIX
from hpvade.models import _saving as saving

FILES = ["model.json", "model.safetensors"]


@pytest.fixture(scope="module")
def cells():
    return hp.datasets.planted_contexts(90, 20, seed=0)


@pytest.fixture(scope="module")
def pairs(families, cells):
    """Two trained models of every family."""

    def make(family, seed):
        scvi.settings.seed = seed
        model = family(cells.copy())
        model.train(1, accelerator="cpu", enable_progress_bar=False, early_stopping=False)
        return model

    return {family: (make(family, 0), make(family, 1)) for family in families.values()}


def weights(model) -> bytes:
    return b"".join(value.detach().numpy().tobytes() for value in model.module.state_dict().values())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- death at any step


def dies_at(step: int, calls=("replace", "rename", "fsync", "unlink", "rmdir", "mkdir")):
    """Kill this process before its `step`-th change of names or flush, from 0."""
    count = [0]

    def counted(real):
        def call(*args, **kwargs):
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return real(*args, **kwargs)

        return call

    for name in calls:
        setattr(os, name, counted(getattr(os, name)))


def killed(task) -> bool:
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            task()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def by_api(model, folder):
    model.save(folder, overwrite=True)


def by_command(model, folder):
    with complete(folder) as part:
        model.save(part)


@pytest.mark.slow
@pytest.mark.parametrize("save", [by_api, by_command])
def test_the_old_or_the_new_model_loads_after_death_at_any_step(family, save, pairs, tmp_path):
    old, new = pairs[family]
    folder, step, kills = tmp_path / "model", 0, 0
    old.save(folder)
    (folder / "notes.txt").write_text("mine")
    expected = {weights(old): "old", weights(new): "new"}
    while True:

        def task(step=step):
            dies_at(step)
            save(new, folder)

        if not killed(task):
            break
        kills += 1
        found = expected[weights(type(old).load(folder, adata=False, accelerator="cpu"))]
        assert found in ("old", "new")
        step += 1
        old.save(folder, overwrite=True)
        assert names(folder) == [*FILES, "notes.txt"] and names(tmp_path) == ["model"]
    assert kills >= 10
    assert weights(type(old).load(folder, adata=False, accelerator="cpu")) == weights(new)


def test_a_first_save_is_whole_or_not_there(pairs, families, tmp_path):
    model, _ = pairs[families["hpvade"]]
    for step in range(40):
        folder = tmp_path / f"model{step}"

        def task(step=step, folder=folder):
            dies_at(step)
            model.save(folder)

        died = killed(task)
        if folder.exists():
            assert weights(hp.HPVADE.load(folder, adata=False, accelerator="cpu")) == weights(model)
        if not died:
            break
    assert step > 4
    model.save(tmp_path / "last")  # the next writer removes what was left
    assert not [name for name in names(tmp_path) if name.startswith(PREFIX)]


def test_data_of_an_earlier_model_end_with_it_also_after_death(pairs, families, tmp_path):
    old, new = pairs[families["ivae"]]
    folder = tmp_path / "model"
    for step in range(30):
        old.save(folder, overwrite=True, save_anndata=True)

        def task(step=step):
            dies_at(step)
            new.save(folder, overwrite=True)

        died = killed(task)
        model = hp.IVAE.load(folder, adata=None, accelerator="cpu")
        assert (model.adata is None) == (weights(model) == weights(new))
        if not died:
            break
    assert names(folder) == FILES and step > 4


def test_two_processes_save_into_one_folder(pairs, families, tmp_path):
    models, folder, pids = pairs[families["hpvade"]], tmp_path / "model", []
    for model in models:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(10):
                    model.save(folder, overwrite=True)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert weights(hp.HPVADE.load(folder, adata=False, accelerator="cpu")) in map(weights, models)
    assert names(folder) == FILES and names(tmp_path) == ["model"]


# ---------------------------------------------------------------- files that were tampered with


@pytest.fixture
def saved(pairs, families, tmp_path):
    model, _ = pairs[families["hpvade"]]
    model.save(tmp_path / "model", save_anndata=True)
    return tmp_path / "model"


def change(folder, edit) -> None:
    """Edit the document of a saved model, and give it the checksum of what it then says."""
    path = folder / "model.json"
    document = json.loads(path.read_text())
    document.pop("sha256")
    edited = edit(document)
    document = document if edited is None else edited
    document["sha256"] = saving._json_hash(document)
    path.write_text(saving._json(document))


def setter(*keys, value):
    def edit(document):
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return edit


def remover(*keys):
    def edit(document):
        for key in keys[:-1]:
            document = document[key]
        del document[keys[-1]]

    return edit


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ARRAY = {"__type__": "ndarray", "dtype": "<f4", "shape": [1], "values": [1.0]}
EDITS = {
    "no class": (remover("class_name"), "lacks 'class_name'"),
    "no registry": (remover("registry_"), "lacks 'registry_'"),
    "no setup arguments": (remover("registry_", "setup_args"), "'registry_' lacks 'setup_args'"),
    "no fields": (remover("registry_", "field_registries"), "'registry_' lacks 'field_registries'"),
    "no init arguments": (remover("attributes", "init_params_"), "'attributes' lacks 'init_params_'"),
    "no tensors": (remover("tensors"), "lacks 'tensors'"),
    "no size": (remover("tensors", "size"), "'tensors' lacks 'size'"),
    "no data": (remover("adata"), "lacks 'adata'"),
    "attributes are a list": (setter("attributes", value=[]), "'attributes' is a list"),
    "class is a number": (setter("class_name", value=3), "'class_name' is a int"),
    "data is a number": (setter("adata", value=3), "'adata' is a int"),
    "another method": (setter("registry_", "setup_method_name", value="load"), "'setup_method_name' is 'load'"),
    "a private method": (setter("registry_", "setup_method_name", value="__init__"), "'setup_method_name'"),
    "another attribute": (setter("attributes", "train", value=1), "'train' is no attribute"),
    "a private attribute": (setter("attributes", "__class__", value=1), "'__class__' is no attribute"),
    "genes without names": (setter("var_names", value=[None]), "'var_names' holds what is no name"),
    "genes that are a number": (setter("var_names", value=3), "'var_names' holds what is no name"),
    "unknown option": (
        setter("attributes", "init_params_", "kwargs", value={"o": {"evil": 1}}),
        "do not make a HPVADE",
    ),
    "unknown mark": (setter("attributes", "x_", value={"__type__": "evil"}), "unknown type 'evil'"),
    "mark of another kind": (setter("attributes", "x_", value={"__type__": []}), "no saved model has"),
    "shape": (setter("attributes", "x_", value=ARRAY | {"shape": [3]}), "no saved model has"),
    "dtype": (setter("attributes", "x_", value=ARRAY | {"dtype": "V8"}), "dtype 'V8'"),
    "large items": (setter("attributes", "x_", value=ARRAY | {"dtype": "<U2000000"}), "dtype '<U2000000'"),
    "deep": (setter("attributes", "x_", value=nested(300)), "nested more than"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_documents_that_no_model_wrote_are_refused_by_name(saved, edit):
    function, match = EDITS[edit]
    change(saved, function)
    with pytest.raises(ValueError, match=re.escape(match)) as error:
        hp.HPVADE.load(saved, accelerator="cpu")
    assert "model.json" in str(error.value)


def test_a_registry_without_a_field(saved):
    change(saved, remover("registry_", "field_registries", "labels"))
    with pytest.raises(ValueError, match=r"model\.json do not make a HPVADE"):
        hp.HPVADE.load(saved, adata=False, accelerator="cpu")


def test_a_value_that_the_module_trips_over(pairs, families, tmp_path):
    """ConditionalVAE makes room for its prior when it is loaded, from numbers in the file."""
    pairs[families["cvae"]][0].save(tmp_path / "model")
    change(tmp_path / "model", setter("attributes", "prior_size_", value=[None, 3]))
    with pytest.raises(ValueError, match=r"model\.json do not make a ConditionalVAE"):
        hp.ConditionalVAE.load(tmp_path / "model", adata=False, accelerator="cpu")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": NaN}', "{", "[]", "", "\x00", '{"a": ' * 5000])
def test_text_that_is_no_document(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(ValueError, match=r"model\.json"):
        hp.HPVADE.load(saved, accelerator="cpu")


def test_a_document_that_is_too_large(saved, monkeypatch):
    monkeypatch.setattr(saving, "_MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"model\.json has \d+ bytes, more than a model needs"):
        hp.HPVADE.load(saved, accelerator="cpu")


def test_values_that_lie_too_deep_are_not_saved(pairs, families, tmp_path):
    model, _ = pairs[families["ivae"]]
    model.deep_ = nested(70)
    try:
        with pytest.raises(TypeError, match="nested more than 64 deep"):
            model.save(tmp_path / "model")
    finally:
        del model.deep_
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "flipped", "swapped"])
def test_damaged_data_are_refused_by_name(saved, cells, kind):
    path = saved / "adata.h5ad"
    raw = path.read_bytes()
    if kind == "swapped":
        cells[:50].copy().write_h5ad(path)
    else:
        flipped = bytearray(raw)
        flipped[len(raw) // 2] ^= 1
        payload = {"truncated": raw[: len(raw) // 2], "empty": b"", "text": b"hello", "flipped": bytes(flipped)}
        path.write_bytes(payload[kind])
    with pytest.raises(ValueError, match=r"adata\.h5ad was changed after it was saved.*pass `adata`"):
        hp.HPVADE.load(saved, accelerator="cpu")
    change(saved, remover("adata_sha256"))  # as 0.1.0 wrote it
    if kind in ("truncated", "empty", "text"):
        with pytest.raises(ValueError, match=r"adata\.h5ad is damaged, or no h5ad file"):
            hp.HPVADE.load(saved, accelerator="cpu")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"adata\.h5ad is missing"):
        hp.HPVADE.load(saved, accelerator="cpu")
    assert hp.HPVADE.load(saved, adata=False, accelerator="cpu").is_trained_


def test_random_bytes_are_noticed(saved):
    """Whatever is changed, the model loads as it was or a ValueError names the file."""
    rng, found = np.random.default_rng(0), 0
    for name in FILES:
        raw = (saved / name).read_bytes()
        for at in rng.integers(len(raw), size=60):
            changed = bytearray(raw)
            changed[at] = rng.integers(256)
            if changed == raw:
                continue
            (saved / name).write_bytes(changed)
            with pytest.raises(ValueError, match=name.replace(".", r"\.")):
                hp.HPVADE.load(saved, adata=False, accelerator="cpu")
            found += 1
        (saved / name).write_bytes(raw)
    assert found > 100
    assert hp.HPVADE.load(saved, adata=False, accelerator="cpu").is_trained_


# ---------------------------------------------------------------- tensors that point at others

COUNTED = r"n_obs_training|n_categories|\bkeys$|n_cells$|num_batches_tracked$"  # integers that point at nothing


@pytest.mark.parametrize("value", [-1, 2**40])
def test_indices_that_point_at_nothing_are_refused(pairs, tmp_path, value):
    tried = 0
    for number, (model, _) in enumerate(pairs.values()):
        for name, tensor in model.module.state_dict().items():
            if tensor.dtype != torch.int64 or re.search(COUNTED, name):
                continue
            kept, folder = tensor.clone(), tmp_path / f"{number}_{tried}"
            tensor.flatten()[0] = value  # of the module itself
            try:
                model.save(folder)
            finally:
                tensor.copy_(kept)
            with pytest.raises(ValueError, match=f"'{name}' of the tensors saved in {folder}"):
                type(model).load(folder, adata=False, accelerator="cpu")
            tried += 1
    assert tried >= 6  # genes of HPVADE; ids and rows of ConditionalVAE


@pytest.mark.parametrize(("path", "error"), [(None, TypeError), (3, TypeError), ("", ValueError)])
def test_what_is_no_name_of_a_folder(path, error):
    with pytest.raises(error, match="dir_path is .*expected the path of a folder"):
        hp.IVAE.load(path)
    with pytest.raises(error, match="dir_path is .*expected the path of a folder"):
        saving.write_model(path, "", False, {}, {}, None)
