"""Files and folders appear whole or not at all; what writers that died left behind is used or removed."""

import os
import signal
import time
from pathlib import Path

import pytest

from hpvade.io import _atomic
from hpvade.io._atomic import NEW, PREFIX, find, finish, install_file, install_folder, partial


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def read(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def child(task) -> int:
    """Run a task in a child process; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            task()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dies_at(step: int):
    """Kill this process before its `step`-th change of names or flush, from 0."""
    count = [0]

    def counted(real):
        def call(*args, **kwargs):
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count[0] += 1
            return real(*args, **kwargs)

        return call

    for name in ("replace", "rename", "fsync", "unlink", "rmdir"):
        setattr(os, name, counted(getattr(os, name)))


STEPS = range(30)


def test_a_file_is_the_old_or_the_new_one_after_death_at_any_step(tmp_path):
    path, died = tmp_path / "a.txt", 0
    for step in STEPS:
        path.write_text("old")

        def task(step=step):
            dies_at(step)
            with partial(path) as part:
                part.write_text("new")
                install_file(part, path)

        died += child(task) == -signal.SIGKILL
        assert path.read_text() in ("old", "new")
        with partial(path) as part:  # the next writer removes what was left
            part.write_text("next")
            install_file(part, path)
        assert read(tmp_path) == {"a.txt": "next"} and len(list(tmp_path.iterdir())) == 1
    assert 2 < died < len(STEPS)  # all steps were tried


def test_a_folder_is_the_old_or_the_new_one_after_death_at_any_step(tmp_path):
    target, died = tmp_path / "folder", 0
    old, new = {"a": "old", "b": "old", "sub/c": "old"}, {"a": "new", "sub/c": "new", "sub/d": "new"}
    for step in STEPS:
        write(target, a="old", b="old", sub__c="old", mine="mine")

        def task(step=step):
            dies_at(step)
            with partial(target, inside=True) as part:
                write(part, a="new", sub__c="new", sub__d="new")
                install_folder(part, target, remove=lambda: ["b"])

        died += child(task) == -signal.SIGKILL
        seen = {name: find(target, name).read_text() for name in old | new if find(target, name).exists()}
        assert seen.pop("b", None) in ("old", None)
        assert seen in ({"a": "old", "sub/c": "old"}, new) and (target / "mine").exists()
        with partial(target, inside=True) as part:
            write(part, a="next", sub__c="next", sub__d="next")
            install_folder(part, target, remove=lambda: ["b"])
        expected = dict.fromkeys(new, "next") | {"mine": "mine"}
        assert read(target) == expected
        assert sorted(p.name for p in target.iterdir()) == ["a", "mine", "sub"]
        for name in expected:
            (target / name).unlink()
    assert 5 < died < len(STEPS)


def test_a_new_folder_appears_in_one_step(tmp_path):
    for step in STEPS:
        target = tmp_path / f"folder{step}"

        def task(step=step, target=target):
            dies_at(step)
            with partial(target) as part:
                install_folder(write(part, a="new", b="new"), target)

        child(task)
        assert not target.exists() or read(target) == {"a": "new", "b": "new"}
    with partial(tmp_path / "x"):
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(PREFIX)] == [_only_partial(tmp_path)]


def _only_partial(folder):
    (name,) = (p.name for p in folder.iterdir() if p.name.startswith(PREFIX))
    return name


def test_finish_completes_what_was_committed(tmp_path):
    write(tmp_path, a="old", b="old")
    write(tmp_path / NEW, a="new")
    assert find(tmp_path, "a").read_text() == "new" and find(tmp_path, "b").read_text() == "old"
    finish(tmp_path)
    assert read(tmp_path) == {"a": "new", "b": "old"}


def test_the_folder_of_a_living_writer_stays(tmp_path):
    with partial(tmp_path / "a") as first:
        first.write_text("a")
        with partial(tmp_path / "b"):
            assert first.read_text() == "a"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_that_another_process_made_first(tmp_path, overwrite):
    target = tmp_path / "folder"
    with partial(target) as part:
        write(part, a="mine")
        write(target, a="theirs")
        if overwrite:
            install_folder(part, target)
            assert read(target) == {"a": "mine"}
        else:
            with pytest.raises(FileExistsError, match="folder exists"):
                install_folder(part, target, overwrite=False)
            assert read(target) == {"a": "theirs"}


def test_files_and_folders_do_not_replace_each_other(tmp_path):
    write(tmp_path / "target", a__b="x", c="x")
    for name, match in (("a", "a is a folder; expected a file"), ("c__d", "c is a file; expected a folder")):
        with partial(tmp_path / "target", inside=True) as part:
            write(part, **{name: "new"})
            with pytest.raises(ValueError, match=match):
                install_folder(part, tmp_path / "target")
    assert read(tmp_path / "target") == {"a/b": "x", "c": "x"}


def test_without_locks_what_is_a_day_old_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(_atomic, "fcntl", None)
    for name, age in (("old", 90_000), ("young", 10)):
        folder = tmp_path / f"{PREFIX}{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    with partial(tmp_path / "a") as part:
        part.write_text("a")
        install_file(part, tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{PREFIX}young", "a"]


def test_two_processes_into_one_folder(tmp_path):
    target, pids = tmp_path / "folder", []
    for who in ("x", "y"):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(30):
                    with partial(target, inside=target.exists()) as part:
                        install_folder(write(part, a=who, b=who), target)
                status = 0
            finally:
                os._exit(status)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0]
    assert read(target) in ({"a": "x", "b": "x"}, {"a": "y", "b": "y"})
    assert sorted(p.name for p in target.iterdir()) == ["a", "b"]
