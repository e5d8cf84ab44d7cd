"""The file format of saved models: tensors in safetensors, everything else in JSON. Nothing in it is executable."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import anndata
import mudata
import safetensors.torch
import torch
from anndata import AnnData
from mudata import MuData
from safetensors import SafetensorError

from .. import __version__
from ._encoding import decode, encode

FORMAT, FORMAT_VERSION = "hpvade", 1
JSON_FILE, TENSOR_FILE = "model.json", "model.safetensors"
ADATA_FILE, MUDATA_FILE = "adata.h5ad", "mdata.h5mu"


def write_model(
    dir_path,
    prefix: str,
    overwrite: bool,
    document: dict,
    tensors: dict,
    adata: AnnData | MuData | None,
    **write_kwargs,
) -> None:
    """Write a model folder: all of it, or nothing.

    The files are written to a temporary folder beside `dir_path` and then renamed. Where the folder exists, the files
    of the earlier model are replaced and all others are kept. The same model gives the same bytes.

    Parameters
    ----------
    dir_path
        The folder.
    prefix
        Put in front of the file names.
    overwrite
        Replace an earlier model.
    document
        What is not a tensor, by name; see :func:`hpvade.models._encoding.encode` for the types.
    tensors
        The state of the module.
    adata
        Written to ``adata.h5ad`` when given, a MuData to ``mdata.h5mu``.
    **write_kwargs
        For :meth:`anndata.AnnData.write_h5ad` or :meth:`mudata.MuData.write_h5mu`.

    Raises
    ------
    ValueError
        `dir_path` exists and `overwrite` is False; it is a file; it holds files of our names that are not ours.
    TypeError
        A value cannot be saved.
    """
    target = Path(dir_path).resolve()
    if target.exists() and not overwrite:
        raise ValueError(f"{dir_path} already exists. Choose another folder, or pass overwrite=True to replace it.")
    data_file = None if adata is None else prefix + (MUDATA_FILE if isinstance(adata, MuData) else ADATA_FILE)
    names = [prefix + JSON_FILE, prefix + TENSOR_FILE] + ([data_file] if data_file else [])
    earlier = _earlier_files(target, prefix, names)
    payload = safetensors.torch.save(_cpu(tensors))
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "hpvade_version": __version__,
        "adata": data_file,
        "tensors": {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
    } | {name: encode(value, name) for name, value in document.items()}
    document["sha256"] = _json_hash(document)

    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        new = work / "new"
        new.mkdir()
        if isinstance(adata, MuData):
            adata.write_h5mu(new / data_file, **write_kwargs)
        elif adata is not None:
            adata.write_h5ad(new / data_file, **write_kwargs)
        (new / (prefix + TENSOR_FILE)).write_bytes(payload)
        (new / (prefix + JSON_FILE)).write_text(_json(document), encoding="ascii")
        if target.exists():
            _replace(new, target, earlier, work / "earlier")
        else:
            new.rename(target)
    finally:
        shutil.rmtree(work)


def read_document(dir_path, prefix: str = "") -> dict:
    """Read and check the JSON file of a model folder.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or no hpvade model in it.
    ValueError
        The folder was written by scvi-tools or another program, or by a newer hpvade; the file is damaged or changed.
    """
    folder = Path(dir_path)
    path = folder / (prefix + JSON_FILE)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {dir_path}; expected one written by `model.save`.")
    if not path.is_file():
        if (folder / f"{prefix}model.pt").exists():
            raise ValueError(
                f"{folder / f'{prefix}model.pt'} was saved by scvi-tools and contains executable pickle; it is not "
                "loaded. Train the model with hpvade and save it again."
            )
        found = sorted(other.name.removesuffix(JSON_FILE) for other in folder.glob(f"*{JSON_FILE}"))
        hint = f" It holds models with these prefixes: {found}; pass `prefix=`." if found else ""
        raise FileNotFoundError(f"{dir_path} holds no {path.name}, so it is not a folder written by `save`.{hint}")
    document = _parse(path)
    version = document["format_version"]
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        fix = "upgrade hpvade (`pip install -U hpvade`)" if newer else "save the model again"
        raise ValueError(f"{path} has format version {version!r}, but this hpvade reads {FORMAT_VERSION}: {fix}.")
    if document.pop("sha256", None) != _json_hash(document):
        raise ValueError(f"{path} was changed after it was saved (its sha256 differs). Use an unchanged copy.")
    return {name: decode(value) for name, value in document.items()}


def read_data(dir_path, document: dict) -> AnnData | MuData | None:
    """Read the cells that were saved with the model; None when there are none."""
    if not document["adata"]:
        return None
    path = Path(dir_path) / Path(document["adata"]).name
    return mudata.read_h5mu(path) if path.suffix == ".h5mu" else anndata.read_h5ad(path)


def read_tensors(dir_path, prefix: str, document: dict) -> dict[str, torch.Tensor]:
    """Read the tensors that belong to `document`.

    Raises
    ------
    FileNotFoundError
        The file is missing.
    ValueError
        The file is truncated, changed, or belongs to another model.
    """
    path = Path(dir_path) / (prefix + TENSOR_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but {prefix + JSON_FILE} beside it expects it. Copy both files.")
    payload, expected = path.read_bytes(), document["tensors"]
    if len(payload) != expected["size"]:
        raise ValueError(
            f"{path} has {len(payload)} bytes, expected {expected['size']}: it is truncated or belongs to another "
            "model. Copy the folder again."
        )
    if hashlib.sha256(payload).hexdigest() != expected["sha256"]:
        raise ValueError(f"{path} was changed after it was saved (its sha256 differs). Use an unchanged copy.")
    try:
        return safetensors.torch.load(payload)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}. Save the model again.") from error


def load_tensors(module: torch.nn.Module, tensors: dict[str, torch.Tensor], path) -> None:
    """Copy saved tensors into a module; ValueError when names, shapes or dtypes do not fit.

    Buffers that a class names in ``new_buffers`` came after its first version: where absent, they stay as they are.
    A class may have ``upgrade``, which turns tensors of earlier versions into today's.
    """
    state = module.state_dict()
    if hasattr(module, "upgrade"):
        tensors = module.upgrade(dict(tensors))
    tensors = {name: state[name] for name in getattr(module, "new_buffers", ())} | tensors

    def show(tensor) -> str:
        return "absent" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"

    wrong = [
        f"{name}: saved {show(tensors.get(name))}, expected {show(state.get(name))}"
        for name in sorted(tensors.keys() | state.keys())
        if show(tensors.get(name)) != show(state.get(name))
    ]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of the tensors saved in {path} do not fit the model, for example {'; '.join(wrong[:3])}. "
            "Load with the version of hpvade that saved them (`hpvade_version` in model.json)."
        )
    module.load_state_dict(tensors)


def _parse(path: Path) -> dict:
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:  # also UnicodeDecodeError
        raise ValueError(f"{path} is truncated or not JSON ({error}). Use an unchanged copy of the folder.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or "format_version" not in document:
        raise ValueError(f"{path} was not written by hpvade: it does not say format: {FORMAT!r}. Use another folder.")
    return document


def _json(document: dict) -> str:
    lines = [f"{json.dumps(name)}: {json.dumps(value, allow_nan=False)}" for name, value in document.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _json_hash(document: dict) -> str:
    return hashlib.sha256(_json(document).encode("ascii")).hexdigest()


def _cpu(tensors: dict) -> dict[str, torch.Tensor]:
    if extra := [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise TypeError(f"the module's state holds values that are not tensors: {extra}. Keep them in the model.")
    # copies: safetensors refuses tensors that share memory
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def _earlier_files(target: Path, prefix: str, names: list[str]) -> list[str]:
    """Names of the files of the model that is now in `target`; ValueError when ours would replace other files."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; expected a folder. Choose another path.")
    try:
        document = _parse(target / (prefix + JSON_FILE))
        data_files = [name for name in (prefix + ADATA_FILE, prefix + MUDATA_FILE) if name == document.get("adata")]
        earlier = [prefix + JSON_FILE, prefix + TENSOR_FILE, *data_files]
    except (FileNotFoundError, ValueError):
        earlier = []
    if foreign := [name for name in names if name not in earlier and (target / name).exists()]:
        raise ValueError(
            f"{target} holds {foreign}, not written by hpvade or damaged; they are not overwritten. Choose another "
            "folder or a `prefix`, or move them away."
        )
    return [name for name in earlier if (target / name).exists()]


def _replace(new: Path, target: Path, earlier: list[str], backup: Path) -> None:
    """Put the files of `new` in the place of those named in `earlier`; on an error put the earlier ones back."""
    backup.mkdir()
    names = sorted(path.name for path in new.iterdir())
    try:
        for name in earlier:
            os.replace(target / name, backup / name)
        for name in names:
            os.replace(new / name, target / name)
    except BaseException:
        for name in names:
            if not (new / name).exists():
                (target / name).unlink()
        for path in backup.iterdir():
            os.replace(path, target / path.name)
        raise
