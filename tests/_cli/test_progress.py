import re

import pytest

from hpvade._cli._progress import training_options
from hpvade._cli._run import Run, running

LINE = r"hpvade: progress: (epoch \d+ of 2, \d+ s|trained for 2 epochs, \d+ s)"


def _train(files, tmp_path):
    return ["train", files.ref, "-o", tmp_path / "m", "--labels-key", "cell_type", "--epochs", 2]


def test_lines_where_nobody_watches(run, files, tmp_path):
    result = run(*_train(files, tmp_path))
    lines = [line for line in result.stderr.splitlines() if "progress" in line]
    assert len(lines) >= 2 and all(re.fullmatch(LINE, line) for line in lines)
    assert "\r" not in result.output


def test_nothing_when_quiet(run, files, tmp_path):
    result = run(*_train(files, tmp_path), "--quiet")
    assert "progress" not in result.stderr and result.stdout == ""


@pytest.mark.parametrize(("as_json", "bar"), [(False, True), (True, False)])
def test_a_bar_where_somebody_watches_unless_stdout_is_for_programs(monkeypatch, as_json, bar):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with running(Run("train", as_json=as_json)):
        assert training_options()["enable_progress_bar"] is bar
