"""The file format of saved models: tensors in safetensors, everything else in JSON. Nothing in it is executable."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import anndata
import mudata
import safetensors.torch
import torch
from anndata import AnnData
from mudata import MuData
from safetensors import SafetensorError

from .. import __version__
from ..io._atomic import find, finish, install_folder, locked, partial
from ._encoding import decode, encode

FORMAT, FORMAT_VERSION = "hpvade", 1
JSON_FILE, TENSOR_FILE = "model.json", "model.safetensors"
ADATA_FILE, MUDATA_FILE = "adata.h5ad", "mdata.h5mu"
SETUP_METHODS = ("setup_anndata", "setup_mudata")
_UNCHANGED = "Use an unchanged copy."
_MAX_BYTES = 2**29  # a model of ten million cells has a tenth


def write_model(
    dir_path,
    prefix: str,
    overwrite: bool,
    document: dict,
    tensors: dict,
    adata: AnnData | MuData | None,
    **write_kwargs,
) -> None:
    """Write a model folder: all of it, or nothing, in one step from the earlier model to the new one.

    The files are written to a temporary folder, flushed to disk, and take their places by renaming; see
    :mod:`hpvade.io._atomic`. Where the folder exists, the files of the earlier model are replaced and all others are
    kept. The same model gives the same bytes.

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
    target = folder_of(dir_path).resolve()
    if target.exists() and not overwrite:
        raise ValueError(f"{dir_path} already exists. Choose another folder, or pass overwrite=True to replace it.")
    data_file = None if adata is None else prefix + (MUDATA_FILE if isinstance(adata, MuData) else ADATA_FILE)
    names = [prefix + JSON_FILE, prefix + TENSOR_FILE] + ([data_file] if data_file else [])
    finish(target)  # what a writer that died had committed

    def earlier() -> list[str]:
        return earlier_files(target, prefix, names)

    with locked(target):
        earlier()  # refuses before any work
    payload = safetensors.torch.save(_cpu(tensors))
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "hpvade_version": __version__,
        "adata": data_file,
        "tensors": {"size": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
    } | {name: encode(value, name) for name, value in document.items()}

    with partial(target, inside=target.is_dir()) as new:
        new.mkdir()
        if isinstance(adata, MuData):
            adata.write_h5mu(new / data_file, **write_kwargs)
        elif adata is not None:
            adata.write_h5ad(new / data_file, **write_kwargs)
        if data_file is not None:
            document["adata_sha256"] = _file_hash(new / data_file)
        document["sha256"] = _json_hash(document)
        (new / (prefix + TENSOR_FILE)).write_bytes(payload)
        (new / (prefix + JSON_FILE)).write_text(_json(document), encoding="ascii")
        try:
            install_folder(new, target, overwrite=overwrite, remove=earlier)
        except FileExistsError as error:
            raise ValueError(str(error)) from error


def install_model(source, target) -> None:
    """Put a folder with a model in the place of `target`, where the files of an earlier model end."""
    target = Path(target)
    names = [path.name for path in Path(source).iterdir()]
    install_folder(source, target, remove=lambda: earlier_files(target, "", names))


def folder_of(dir_path) -> Path:
    """The path of a folder; TypeError or ValueError where that is no name of one."""
    if not isinstance(dir_path, str | os.PathLike):
        raise TypeError(f"dir_path is a {type(dir_path).__name__}, {dir_path!r}; expected the path of a folder.")
    if not os.fspath(dir_path):
        raise ValueError("dir_path is empty; expected the path of a folder.")
    return Path(dir_path)


def read_document(dir_path, prefix: str = "") -> dict:
    """Read and check the JSON file of a model folder.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or no hpvade model in it.
    ValueError
        The folder was written by scvi-tools or another program, or by a newer hpvade; the file is damaged or changed.
    """
    folder = folder_of(dir_path)
    path = find(folder, prefix + JSON_FILE)
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
    document = parse(path)
    version = document["format_version"]
    if version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        fix = "upgrade hpvade (`pip install -U hpvade`)" if newer else "save the model again"
        raise ValueError(f"{path} has format version {version!r}, but this hpvade reads {FORMAT_VERSION}: {fix}.")
    if document.pop("sha256", None) != _json_hash(document):
        raise ValueError(f"{path} was changed after it was saved (its sha256 differs). Use an unchanged copy.")
    try:
        document = {name: decode(value) for name, value in document.items()}
    except Exception as error:
        raise ValueError(f"{path} holds a value that no saved model has: {error} Use an unchanged copy.") from error
    _check_document(document, path)
    return document


def read_data(dir_path, document: dict) -> AnnData | MuData | None:
    """Read the cells that were saved with the model; None when there are none.

    Raises
    ------
    FileNotFoundError
        The file is missing.
    ValueError
        The file is damaged or was replaced.
    """
    if not document["adata"]:
        return None
    path, remedy = find(dir_path, Path(document["adata"]).name), "Copy the folder again, or pass `adata` to `load`."
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, but {JSON_FILE} beside it expects it. {remedy}")
    expected = document.get("adata_sha256")  # models of 0.1.0 have none
    if expected is not None and _file_hash(path) != expected:
        raise ValueError(f"{path} was changed after it was saved (its sha256 differs). {remedy}")
    try:
        return mudata.read_h5mu(path) if path.suffix == ".h5mu" else anndata.read_h5ad(path)
    except Exception as error:
        raise ValueError(f"{path} is damaged, or no {path.suffix[1:]} file ({error}). {remedy}") from error


def read_tensors(dir_path, prefix: str, document: dict) -> dict[str, torch.Tensor]:
    """Read the tensors that belong to `document`.

    Raises
    ------
    FileNotFoundError
        The file is missing.
    ValueError
        The file is truncated, changed, or belongs to another model.
    """
    path = find(dir_path, prefix + TENSOR_FILE)
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
    A class may have ``upgrade``, which turns tensors of earlier versions into today's, and ``index_limits``: below what
    the integers of a tensor must be that point at rows, or categories, of something else.
    """
    state = module.state_dict()
    if hasattr(module, "upgrade"):
        try:
            tensors = module.upgrade(dict(tensors))
        except (LookupError, RuntimeError) as error:
            raise ValueError(f"{path} holds tensors of no version of the model ({error}). {_UNCHANGED}") from error
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
    refuse_bad_indices(tensors, getattr(module, "index_limits", dict)(), path)
    module.load_state_dict(tensors)


def refuse_bad_indices(tensors: dict[str, torch.Tensor], limits: dict, path) -> None:
    """Raise ValueError for integers that are negative, or not below the limit of their tensor."""
    for name, limit in limits.items():
        if ((tensors[name] < 0) | (tensors[name] >= torch.as_tensor(limit).to(tensors[name].device))).any():
            raise ValueError(f"{name!r} of the tensors saved in {path} points at what the model lacks. {_UNCHANGED}")


def parse(path: Path) -> dict:
    """Read a JSON file that says it was written by hpvade; ValueError when it is damaged, foreign or too large."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size} bytes, more than a model needs. Use an unchanged copy.")
    try:
        document = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise ValueError(f"{path} is truncated or not JSON ({error}). Use an unchanged copy of the folder.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT or "format_version" not in document:
        raise ValueError(f"{path} was not written by hpvade: it does not say format: {FORMAT!r}. Use another folder.")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_document(document: dict, path: Path) -> None:
    """Raise ValueError that names what a saved model has and `document` lacks, or has of another kind."""
    inner = {"registry_": ("setup_args", "field_registries"), "attributes": ("init_params_",), "tensors": ()}
    for name, kind in (
        {"class_name": str, "var_names": object, "adata": str | None} | dict.fromkeys(inner, dict)
    ).items():
        if name not in document:
            raise ValueError(f"{path} lacks {name!r}. Use an unchanged copy.")
        if not isinstance(document[name], kind):
            raise ValueError(f"{path}: {name!r} is a {type(document[name]).__name__}. Use an unchanged copy.")
    for name, keys in inner.items():
        for key in keys:
            if not isinstance(document[name].get(key), dict):
                raise ValueError(f"{path}: {name!r} lacks {key!r}. Use an unchanged copy.")
    genes = document["var_names"]
    for names in genes.values() if isinstance(genes, dict) else [genes]:
        if not all(isinstance(name, str) for name in (names if isinstance(names, Iterable) else [names])):
            raise ValueError(f"{path}: 'var_names' holds what is no name of a gene. Use an unchanged copy.")
    if not {"size", "sha256"} <= document["tensors"].keys():
        raise ValueError(f"{path}: 'tensors' lacks 'size' or 'sha256'. Use an unchanged copy.")
    if document["registry_"].get("setup_method_name") not in SETUP_METHODS:
        raise ValueError(
            f"{path}: 'setup_method_name' is {document['registry_'].get('setup_method_name')!r}; expected one of "
            f"{SETUP_METHODS}. Use an unchanged copy."
        )


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def earlier_files(target: Path, prefix: str, names: list[str]) -> list[str]:
    """Names of the files of the model that is now in `target`; ValueError when ours would replace other files."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; expected a folder. Choose another path.")
    try:
        document = parse(target / (prefix + JSON_FILE))
        data_files = [name for name in (prefix + ADATA_FILE, prefix + MUDATA_FILE) if name == document.get("adata")]
        earlier = [prefix + JSON_FILE, prefix + TENSOR_FILE, *data_files]
    except (OSError, ValueError):
        earlier = []
    if foreign := [name for name in names if name not in earlier and (target / name).exists()]:
        raise ValueError(
            f"{target} holds {foreign}, not written by hpvade or damaged; they are not overwritten. Choose another "
            "folder or a `prefix`, or move them away."
        )
    return [name for name in earlier if (target / name).exists()]
