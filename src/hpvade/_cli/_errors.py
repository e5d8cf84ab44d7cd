"""One line on stderr for whatever goes wrong, and the exit code: 2 for usage, 1 for data."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and every warning.")]


class UsageError(Exception):
    """What was asked for on the command line cannot be done."""


def reported(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the option ``--debug``; without it errors and warnings are one line each, on stderr."""

    @functools.wraps(command)
    def run(*, debug: bool = False, **options) -> None:
        if debug:
            return command(**options)
        with warnings.catch_warnings():
            # those of other packages are for developers
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning, module="hpvade")
            warnings.showwarning = _warner()
            try:
                command(**options)
            except (typer.Exit, typer.Abort):
                raise
            except Exception as error:
                say("error", _message(error))
                raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error

    signature = inspect.signature(command)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])
    run.__annotations__ = {**command.__annotations__, "debug": Debug}
    return run


def say(kind: str, text: str) -> None:
    """One line on stderr."""
    typer.echo(f"hpvade: {kind}: {' '.join(text.split())}", err=True)


def _warner() -> Callable[..., None]:
    """A replacement of ``warnings.showwarning`` that says everything once."""
    said = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if str(message) not in said:
            said.add(str(message))
            say("warning", str(message))

    return show


def _message(error: Exception) -> str:
    """The text of `error`; its type is added when it is none that the package raises on purpose."""
    # str() of a KeyError is the repr of its message
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, (UsageError, ValueError, KeyError, TypeError, OSError, RuntimeError)) and text:
        return text
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"
