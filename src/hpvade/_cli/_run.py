"""One run of a command: what it reads, writes and says; lines for people, one JSON object for programs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import typer

from ._words import in_words

IN_FOLDER = "provenance.json"
_BLOCK = 1 << 20


@dataclass
class Run:
    """What is known of a run.

    Attributes
    ----------
    command, options
        Its name, as ``"cvae train"``, and the value of every option.
    words
        The options that the command has, as ``"--labels-key"``.
    quiet, as_json
        Nothing but warnings and errors is said; one JSON object goes to stdout.
    inputs
        What was read, with the sha256 that it had then.
    targets
        Files that will be written.
    model
        The model that answered, ``{"path", "sha256"}``.
    outputs, notes, warnings, result
        What was written, said and found.
    """

    command: str = ""
    options: dict = field(default_factory=dict)
    words: frozenset[str] = frozenset()
    quiet: bool = False
    as_json: bool = False
    inputs: dict[Path, str] = field(default_factory=dict)
    targets: list[Path] = field(default_factory=list)
    model: dict | None = None
    outputs: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    result: dict = field(default_factory=dict)


class UsageError(Exception):
    """What was asked for on the command line cannot be done."""


_CURRENT: ContextVar[Run | None] = ContextVar("run", default=None)


def current() -> Run | None:
    """The run that is on, if any."""
    return _CURRENT.get()


@contextmanager
def running(run: Run) -> Iterator[Run]:
    """Make `run` the current one."""
    token = _CURRENT.set(run)
    try:
        yield run
    finally:
        _CURRENT.reset(token)


def worded(text: str) -> str:
    """A message of the package in the words of the command that runs."""
    run = _CURRENT.get()
    return in_words(text, frozenset() if run is None else run.words)


def tell(text: str) -> None:
    """Lines on stdout, for people."""
    run = _CURRENT.get()
    if run is None or not (run.quiet or run.as_json):
        typer.echo(text)


def found(**fields) -> None:
    """What a command found, for programs: the field ``result`` of the JSON object."""
    if (run := _CURRENT.get()) is not None:
        run.result |= fields


def say(kind: str, text: str) -> None:
    """One line on stderr: a note, warning, progress or error; `--quiet` leaves the last two kinds that matter."""
    run, text = _CURRENT.get(), " ".join(text.split())
    if run is not None and kind in ("note", "warning"):
        (run.notes if kind == "note" else run.warnings).append(text)
    if run is None or not run.quiet or kind in ("warning", "error"):
        typer.echo(f"hpvade: {kind}: {text}", err=True)


def stamp(path: Path) -> tuple[int, ...] | None:
    """What changes with a file; None for a folder, or where nothing is."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def read(path: Path, before: tuple[int, ...] | None = None) -> None:
    """Note that `path` is an input, and its sha256 now, which may be another one when the result is there.

    An input that the run would overwrite is refused before the work, and one that is no longer as it was `before` it
    was read (`stamp`), of which nobody knows what was read.
    """
    if (run := _CURRENT.get()) is None:
        return
    if any(target.exists() and target.samefile(path) for target in run.targets):
        raise UsageError(f"{path} is an input, and the result would overwrite it. Write to another file.")
    if path not in run.inputs:
        run.inputs[path] = sha256(path)
    if before is not None and stamp(path) != before:
        raise ValueError(f"{path} changed while it was read. Run the command again when the file is complete.")


def sha256(path: Path) -> str:
    """Of a file; of a folder, that of the names and hashes of its files, but for its own provenance."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file() and file.name != IN_FOLDER):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def will_write(path: Path) -> None:
    """Note that the run is to write the file `path`."""
    if (run := _CURRENT.get()) is not None:
        run.targets.append(path)


def print_json(run: Run, error: str | None = None, code: int = 0) -> None:
    """The one object of `--json`."""
    document = {"command": run.command, "status": "ok" if error is None else "error", "exit_code": code}
    document |= {"outputs": [str(path) for path in run.outputs], "notes": run.notes, "warnings": run.warnings}
    document["result"] = run.result
    if error is not None:
        document["error"] = error
    typer.echo(json.dumps(plain(document), indent=1, allow_nan=False))


def plain(value):
    """`value` as JSON can hold it: paths and choices as text, arrays as lists, NaN as null, tables by row."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, bool | int | str | None):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "iterrows"):  # a table
        return {str(name): plain(row.to_dict()) for name, row in value.iterrows()}
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return plain(value.tolist())
    return str(value)
