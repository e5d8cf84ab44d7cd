"""Files and folders that appear whole or not at all, whatever stops the process on the way.

New content is written to a folder of its own beside the target, flushed to disk, and takes its place by renaming. An
existing folder is changed in one step, too: what is to come is renamed to ``.hpvade-new`` inside of it, and counts from
that moment on (:func:`find`); then its files move to their places, by this process or by the next writer.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is locked, and what is left behind is removed after a day
    fcntl = None

PREFIX = ".hpvade-partial-"
NEW = ".hpvade-new"
_REMOVE, _OLD = ".remove.json", ".old"  # names in the target that the new content ends; what was replaced
_STALE_SECONDS = 86_400


@contextlib.contextmanager
def partial(target, *, inside: bool = False) -> Iterator[Path]:
    """A path with the name of `target` to write a file or folder to, in a temporary folder beside it.

    What writers that died left there is removed first. The temporary folder is gone when the block ends.

    Parameters
    ----------
    target
        Where the result will be.
    inside
        Make the temporary folder inside of `target`, a folder.
    """
    target = Path(target).absolute()
    where = target if inside else target.parent
    where.mkdir(parents=True, exist_ok=True)
    _remove_stale(where)
    work, lock = _claim(where)
    try:
        yield work / target.name
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def install_file(source, target) -> None:
    """Flush the file `source` to disk and put it in the place of `target`, on the same file system."""
    source, target = Path(source), Path(target)
    flush(source)
    os.replace(source, target)
    flush(target.parent)


def install_folder(source, target, *, overwrite: bool = True, remove: Callable[[], Sequence[str]] = tuple) -> None:
    """Put a folder in the place of `target`; where that exists, in one step into it.

    Files of the same name are replaced, those that `remove` names end, others stay. `remove` is called when no other
    writer of this package can change `target`, and may raise to stop.

    Raises
    ------
    FileExistsError
        `target` exists, and `overwrite` is False.
    ValueError
        `target`, or something in it, is a file where `source` has a folder, or the other way round.
    """
    source, target = Path(source), Path(target)
    for path in sorted(source.rglob("*"), reverse=True):
        flush(path)
    if not target.exists():
        flush(source)
        with contextlib.suppress(OSError):  # another process was faster
            os.rename(source, target)
            flush(target.parent)
            return
    if not overwrite:
        raise FileExistsError(f"{target} exists. Choose another folder, or pass overwrite=True.")
    _refuse_other_kinds(source, target)
    with locked(target):
        _finish(target)
        gone = [name for name in remove() if not (source / name).exists()]
        (source / _REMOVE).write_text(json.dumps(gone))
        flush(source / _REMOVE)
        flush(source)
        os.rename(source, target / NEW)
        flush(target)
        try:
            _finish(target)
        except BaseException:
            os.rename(target / NEW, source)
            raise


def finish(target) -> None:
    """Complete what a writer that died had committed to the folder `target`."""
    with locked(target):
        _finish(Path(target))


def find(folder, name: str) -> Path:
    """Where the file `name` of a folder is: in its place, or still in what was committed last."""
    committed = Path(folder) / NEW / name
    return committed if committed.exists() else Path(folder) / name


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        if path.is_dir():
            return
        raise
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(folder, *, shared: bool = False) -> Iterator[None]:
    """Hold a folder, if it is there, against other writers of this package; `shared` with other readers."""
    handle = None if fcntl is None or not Path(folder).is_dir() else os.open(folder, os.O_RDONLY)
    try:
        if handle is not None:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _finish(target: Path) -> None:
    """Move everything from the committed folder to its place; what it replaces moves out of the way."""
    new, done = target / NEW, []
    if not new.is_dir():
        return
    note = new / _REMOVE
    gone = json.loads(note.read_text()) if note.exists() else []
    (new / _OLD).mkdir(exist_ok=True)
    coming = [path.relative_to(new) for path in sorted(new.rglob("*"))]
    coming = [name for name in coming if name.parts[0] not in (_REMOVE, _OLD)]
    try:
        for name in [*coming, *map(Path, gone)]:
            if (new / name).is_dir():
                (target / name).mkdir(exist_ok=True)
                (new / _OLD / name).mkdir(exist_ok=True)
                continue
            if (target / name).exists():
                _rename(target / name, new / _OLD / name, done)
            if (new / name).exists():
                _rename(new / name, target / name, done)
    except BaseException:  # an error, not death: back to what was there
        for source, place in reversed(done):
            os.replace(place, source)
        raise
    flush(target)
    shutil.rmtree(new)


def _rename(source: Path, place: Path, done: list[tuple[Path, Path]]) -> None:
    os.replace(source, place)
    done.append((source, place))


def _refuse_other_kinds(source: Path, target: Path) -> None:
    for path in [source, *source.rglob("*")]:
        there = target / path.relative_to(source)
        if there.exists() and there.is_dir() != path.is_dir():
            kinds = ("folder", "file") if there.is_dir() else ("file", "folder")
            raise ValueError(f"{there} is a {kinds[0]}; expected a {kinds[1]} or nothing. Choose another place.")


def _claim(where: Path) -> tuple[Path, int | None]:
    """Make a temporary folder and lock it, for as long as this process lives."""
    while True:
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=where))
        if fcntl is None:
            return work, None
        try:
            lock = os.open(work, os.O_RDONLY)
        except FileNotFoundError:  # another writer took it for stale before it was locked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # that writer is about to remove it
            os.close(lock)
            continue
        except OSError:  # a file system without locks
            pass
        if work.exists():
            return work, lock
        os.close(lock)


def _remove_stale(where: Path) -> None:
    for work in where.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if fcntl is None:
                if time.time() - work.stat().st_mtime > _STALE_SECONDS:
                    shutil.rmtree(work)
                continue
            lock = os.open(work, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its writer lives
                shutil.rmtree(work)
            finally:
                os.close(lock)
