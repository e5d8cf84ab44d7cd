"""The console script ``hpvade``: one file per sub-command, heavy packages imported only when a command runs."""

import os
from typing import Annotated

import typer

from ._augment import augment
from ._calibrate import calibrate
from ._check_labels import check_labels
from ._clean import clean
from ._compare import compare
from ._cvae import app as cvae
from ._cycleae import cycleae
from ._deconvolve import deconvolve
from ._demo import demo
from ._diagnose import diagnose
from ._errors import Commands, reported
from ._evaluate import evaluate
from ._expression import expression
from ._hierarchy import hierarchy
from ._ivae import ivae
from ._report import report
from ._simulate import simulate
from ._solve import solve
from ._train import train
from ._transfer_labels import transfer_labels
from ._translate import translate

app = typer.Typer(
    name="hpvade",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
_START = (demo, deconvolve, report)
_REFERENCE = (check_labels, transfer_labels, clean, translate, augment, train)
_BULK = (solve, diagnose, compare, hierarchy, expression, calibrate, simulate, evaluate)
for _panel, _commands in {"Start here": _START, "The reference": _REFERENCE, "Bulk samples": _BULK}.items():
    for _command in _commands:
        app.command(no_args_is_help=_command is not demo, rich_help_panel=_panel)(reported(_command))
for _family in (cvae, cycleae, ivae):
    app.add_typer(_family, rich_help_panel="Models of cells")


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"hpvade {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Cell-type composition of bulk RNA-seq from a labelled single-cell reference.

    Try `hpvade demo` first: it runs on real data that the package ships. Every command explains itself with
    --help. Results go to files; they appear only when complete.
    """
    # read when torch loads: on a machine with other work, threads that spin while they wait cost most of the time
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
