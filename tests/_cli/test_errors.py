import json
import warnings

import pytest
import typer
from typer.testing import CliRunner

from hpvade._cli._errors import UsageError, reported
from hpvade._text import warn


def _result(command, *arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reported(command))
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\n  lines"), 1, "hpvade: error: two lines\n"),
        (KeyError("labels_key='x' is absent"), 1, "hpvade: error: labels_key='x' is absent\n"),
        (UsageError("ref.h5ad does not exist."), 2, "hpvade: error: ref.h5ad does not exist.\n"),
        (AttributeError("no y"), 3, "hpvade: error: AttributeError: no y (--debug shows the traceback)\n"),
        (ImportError("needs openpyxl"), 1, "hpvade: error: needs openpyxl\n"),
        (KeyboardInterrupt(), 130, "hpvade: error: stopped; what was not complete is not written.\n"),
        (KeyError(), 3, "hpvade: error: KeyError: (--debug shows the traceback)\n"),
    ],
)
def test_an_error_is_one_line_on_stderr(error, code, line):
    def command():
        raise error

    result = _result(command)
    assert (result.exit_code, result.stderr, result.stdout) == (code, line, "")


def test_debug_lets_the_error_through():
    def command():
        raise ValueError("wrong")

    result = _result(command, "--debug")
    assert result.exit_code == 1 and isinstance(result.exception, ValueError)


def test_arguments_and_exit_codes_pass():
    def command(n: int, twice: bool = False):
        raise typer.Exit(2 * n if twice else n)

    assert _result(command, "3", "--twice").exit_code == 6


def test_warnings_of_the_package_are_one_line_once_and_others_are_silent():
    def command():
        for _ in range(2):
            warn("missing are\n 3 genes, as input_type='tpm' says")  # names the caller, which is not the package
        warnings.warn("few workers", UserWarning, stacklevel=1)
        warnings.warn_explicit("old", FutureWarning, "f", 3, module="hpvade.pl")

    before = warnings.showwarning
    result = _result(command)
    assert result.stderr == "hpvade: warning: missing are 3 genes, as input_type='tpm' says\n"
    assert warnings.showwarning is before


@pytest.mark.parametrize(
    ("arguments", "command", "said"),
    [
        (["deconvolve", "b.tsv", "--modle", "m", "--json"], "deconvolve", "--modle"),
        (["deconvolve", "--json", "b.tsv"], "deconvolve", "--output"),
        (["deconvolve", "b.tsv", "-o", "p.csv", "--input-type", "rpkm", "--json"], "deconvolve", "rpkm"),
        (["cvae", "train", "--json"], "cvae train", "--data-dir"),
        (["learn", "--json"], "", "learn"),
        (["--json"], "", "--json"),
    ],
)
def test_a_line_that_cannot_be_parsed_is_an_object_too(run, arguments, command, said):
    result = run(*arguments, code=2)
    document = json.loads(result.stdout)
    assert (document["command"], document["status"], document["exit_code"]) == (command, "error", 2)
    assert said in document["error"] and document["outputs"] == []
