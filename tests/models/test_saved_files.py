"""Files of a model: replaced whole or not at all, and refused when they are not what was written."""

import hashlib
import json
import os

import anndata as ad
import pytest
import safetensors.torch
import torch
from tiny_model import Other, Tiny, trained_tiny

import hpvade.models._saving as saving


@pytest.fixture(scope="module")
def model():
    return trained_tiny()


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "model")
    return tmp_path / "model"


def change_json(folder, change, rehash=False):
    """Change model.json; with `rehash` also its hash, as an attacker would."""
    path = folder / "model.json"
    document = json.loads(path.read_text())
    change(document)
    if rehash:
        del document["sha256"]
        document["sha256"] = saving._json_hash(document)
    path.write_text(json.dumps(document))


# ---------------------------------------------------------------- overwriting


def test_existing_path_needs_overwrite(model, saved, tmp_path):
    with pytest.raises(ValueError, match=r"model already exists.*overwrite=True"):
        model.save(saved)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        model.save(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "x"


def test_overwriting_keeps_other_files(model, saved):
    (saved / "notes.txt").write_text("mine")
    (saved / "plots").mkdir()
    model.save(saved, overwrite=True)
    assert {path.name for path in saved.iterdir()} == {"model.json", "model.safetensors", "notes.txt", "plots"}
    assert (saved / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "adata.h5ad"])
def test_files_of_others_are_not_overwritten(model, tmp_path, name):
    (tmp_path / name).write_text('{"format": "theirs"}')
    with pytest.raises(ValueError, match=f"'{name}'.*not overwritten"):
        model.save(tmp_path, overwrite=True, save_anndata=True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == '{"format": "theirs"}'


@pytest.mark.parametrize("call", range(4))
def test_crash_while_replacing_leaves_the_earlier_model(model, saved, tmp_path, monkeypatch, call):
    """Two files move out and two move in; the error comes at each of them in turn."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    replace, calls = os.replace, []

    def failing(source, target):
        calls.append(target)
        if len(calls) == call + 1:
            raise OSError("disk full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    other = Tiny(model.adata, n_latent=5)
    with pytest.raises(OSError, match="disk full"):
        other.save(saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # no temporary folder is left


def test_crash_while_writing_leaves_the_earlier_model(model, saved, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def failing(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(ad.AnnData, "write_h5ad", failing)
    for folder in (saved, tmp_path / "new"):
        with pytest.raises(OSError, match="disk full"):
            model.save(folder, overwrite=True, save_anndata=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---------------------------------------------------------------- refused files


def test_absent_files(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        Tiny.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no model\.json"):
        Tiny.load(tmp_path / "empty")
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing"):
        Tiny.load(saved)


def test_folder_of_scvi_tools_is_not_executed(tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save({"model_state_dict": Payload()}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"scvi-tools and contains executable pickle"):
        Tiny.load(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_foreign_and_newer_json(saved):
    change_json(saved, lambda d: d.update(format="theirs"))
    with pytest.raises(ValueError, match="not written by hpvade"):
        Tiny.load(saved)
    change_json(saved, lambda d: d.update(format="hpvade", format_version=2))
    with pytest.raises(ValueError, match="format version 2.*upgrade"):
        Tiny.load(saved)
    change_json(saved, lambda d: d.update(format_version="x"))
    with pytest.raises(ValueError, match="format version 'x'.*save the model again"):
        Tiny.load(saved)
    (saved / "model.json").write_text("[]")
    with pytest.raises(ValueError, match="not written by hpvade"):
        Tiny.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["attributes"].update(is_trained_=False),
        lambda d: d["registry_"]["setup_args"].update(labels_key="other"),
        lambda d: d["var_names"]["values"].reverse(),
        lambda d: d["tensors"].update(size=1),
        lambda d: d.update(class_name="Other"),
        lambda d: d.update(sha256="0" * 64),
        lambda d: d.pop("sha256"),
        lambda d: d.update(extra=1),
    ],
)
def test_changed_json_is_refused(saved, change):
    change_json(saved, change)
    with pytest.raises(ValueError, match=r"model\.json was changed"):
        Tiny.load(saved)


def test_truncated_json_is_refused(saved):
    data = (saved / "model.json").read_bytes()
    for part in (b"", data[: len(data) // 2], data[:-3], b"\xff" + data):
        (saved / "model.json").write_bytes(part)
        with pytest.raises(ValueError, match="truncated or not JSON"):
            Tiny.load(saved)


@pytest.mark.parametrize("where", [0, 10, -1])  # the length of the header, the header, the last value
def test_changed_tensors_are_refused(saved, where):
    data = bytearray((saved / "model.safetensors").read_bytes())
    data[where] ^= 1
    (saved / "model.safetensors").write_bytes(data)
    with pytest.raises(ValueError, match=r"model\.safetensors was changed"):
        Tiny.load(saved)


def test_truncated_tensors_are_refused(saved):
    data = (saved / "model.safetensors").read_bytes()
    for part in (b"", data[:-1], data + b"\0"):
        (saved / "model.safetensors").write_bytes(part)
        with pytest.raises(ValueError, match=f"{len(part)} bytes, expected {len(data)}"):
            Tiny.load(saved)


def test_tensor_file_that_is_something_else(saved):
    (saved / "model.safetensors").write_bytes(b"x" * 50)
    change = {"size": 50, "sha256": hashlib.sha256(b"x" * 50).hexdigest()}
    change_json(saved, lambda d: d.update(tensors=change), rehash=True)
    with pytest.raises(ValueError, match="not a safetensors file"):
        Tiny.load(saved)


def test_tensors_that_do_not_fit(saved):
    tensors = safetensors.torch.load((saved / "model.safetensors").read_bytes())
    tensors["encoder.weight"], tensors["stranger"] = torch.zeros(2, 2), torch.zeros(1)
    payload = safetensors.torch.save(tensors)
    (saved / "model.safetensors").write_bytes(payload)
    change = {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    change_json(saved, lambda d: d.update(tensors=change), rehash=True)
    with pytest.raises(ValueError, match=r"2 of the tensors .*encoder\.weight: saved \(2, 2\).*stranger: .* absent"):
        Tiny.load(saved)


def test_other_class(saved):
    with pytest.raises(ValueError, match=r"holds a Tiny, not a Other\. Use Tiny\.load"):
        Other.load(saved)
    assert isinstance(Other.load(saved, allowed_classes_names_list=["Tiny"]), Other)
