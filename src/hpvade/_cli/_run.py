"""One run of a command: what it reads, writes and says; lines for people, one JSON object for programs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import typer

from ._words import in_words


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
        What was read, with its sha256 once that is known.
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
    inputs: dict[Path, str | None] = field(default_factory=dict)
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


def read(path: Path) -> None:
    """Note that `path` is an input; one that the run would overwrite is refused, before the work."""
    if (run := _CURRENT.get()) is None:
        return
    if any(target.exists() and target.samefile(path) for target in run.targets):
        raise UsageError(f"{path} is an input, and the result would overwrite it. Write to another file.")
    run.inputs.setdefault(path, None)


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
