import json

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from hpvade._cli._errors import UsageError, reported
from hpvade._cli._run import Run, current, found, plain, running, say, tell


def _result(command, *arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reported(command))
    return CliRunner().invoke(app, list(arguments))


def _command(fail: bool = False):
    say("note", "three genes")
    say("warning", "few reads")
    say("progress", "epoch 1")
    tell("done")
    found(n=np.int64(3), share=float("nan"), table=pd.DataFrame({"B": [0.5]}, index=["s1"]))
    if fail:
        raise UsageError("no file")


def test_lines_for_people():
    result = _result(_command)
    assert result.stdout == "done\n"
    assert result.stderr.splitlines() == [
        "hpvade: note: three genes",
        "hpvade: warning: few reads",
        "hpvade: progress: epoch 1",
    ]


def test_quiet_leaves_warnings_and_errors():
    result = _result(_command, "--quiet", "--fail")
    assert (result.stdout, result.stderr, result.exit_code) == (
        "",
        "hpvade: warning: few reads\nhpvade: error: no file\n",
        2,
    )


@pytest.mark.parametrize("fail", [False, True])
def test_one_object_for_programs(fail):
    result = _result(_command, "--json", *["--fail"] * fail)
    document = json.loads(result.stdout)
    assert document["result"] == {"n": 3, "share": None, "table": {"s1": {"B": 0.5}}}
    assert (document["notes"], document["warnings"], document["outputs"]) == (["three genes"], ["few reads"], [])
    expected = {"status": "error", "exit_code": 2, "error": "no file"} if fail else {"status": "ok", "exit_code": 0}
    assert {key: document.get(key) for key in expected} == expected and ("error" in document) == fail
    assert result.exit_code == 2 * fail


def test_there_is_no_run_outside_of_a_command():
    assert current() is None
    with running(Run("x")) as run:
        assert current() is run
    assert current() is None


def test_plain_values():
    from pathlib import Path

    from hpvade._cli._options import Missing

    assert plain({"a": Path("x/y"), "b": (Missing.mean, None), "c": np.array([1.0, np.inf])}) == {
        "a": "x/y",
        "b": ["mean", None],
        "c": [1.0, None],
    }
