"""How a command ends: one line on stderr for whatever goes wrong, an exit code, and the object of `--json`."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.core import TyperGroup
from typer.models import OptionInfo

from ._run import Run, UsageError, plain, print_json, running, say, worded

REFUSED, USAGE, UNEXPECTED, STOPPED = 1, 2, 3, 130
_SHARED = {
    "as_json": Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, for programs, instead of lines.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and errors.")],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and every warning.")],
}


_UNPARSED = typer.BadParameter.__mro__[1]  # UsageError of click, which newer versions of typer bring along


class Commands(TyperGroup):
    """The commands; a line that cannot be parsed gives the object of ``--json``, too, where that is asked for."""

    def make_context(self, info_name, args, parent=None, **extra):
        words = list(args)  # parsing takes them off
        with _unparsed(words):
            context = super().make_context(info_name, args, parent=parent, **extra)
        context.meta["hpvade.words"] = words
        return context

    def invoke(self, ctx):
        with _unparsed(ctx.meta["hpvade.words"]):
            return super().invoke(ctx)


@contextmanager
def _unparsed(words: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except _UNPARSED as error:
        if "--json" in words:
            _, *command = error.ctx.command_path.split() if error.ctx is not None else [""]
            print_json(Run(" ".join(command)), error.format_message(), error.exit_code)
        raise


def reported(command: Callable[..., None], family: str = "") -> Callable[..., None]:
    """`command` with the options ``--json``, ``--quiet`` and ``--debug``, errors as one line and an exit code.

    `family` is the command that it is a sub-command of.
    """
    name = " ".join([*family.split(), command.__name__.replace("_", "-")])
    signature = inspect.signature(command)

    @functools.wraps(command)
    def run(*, as_json: bool = False, quiet: bool = False, debug: bool = False, **options) -> None:
        this = Run(name, plain(options), _words(signature), quiet, as_json)
        with running(this), _warnings(debug):
            try:
                command(**options)
            except (typer.Exit, typer.Abort):
                raise
            except (Exception, KeyboardInterrupt) as error:
                text, code = _message(error)
                text = text if code == USAGE else worded(text)
                if as_json:
                    print_json(this, text, code)
                if debug:
                    raise
                say("error", text)
                raise typer.Exit(code) from error
            if as_json:
                print_json(this)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in _SHARED.items()
    ]
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *added])
    run.__annotations__ = {**command.__annotations__, **_SHARED}
    return run


def _words(signature: inspect.Signature) -> frozenset[str]:
    """The options of a command, as ``"--labels-key"``."""
    words = set()
    for name, parameter in signature.parameters.items():
        for option in getattr(parameter.annotation, "__metadata__", ()):
            if isinstance(option, OptionInfo):
                named = (option.default, *(option.param_decls or ()))  # as Annotated takes them, the first is a default
                long = {word for word in named if isinstance(word, str) and word.startswith("--")}
                words |= long or {"--" + name.replace("_", "-")}
    return frozenset(words)


class _warnings(warnings.catch_warnings):
    """Warnings of the package as one line each, once; those of other packages are for developers."""

    def __init__(self, debug: bool):
        super().__init__()
        self._debug = debug

    def __enter__(self):
        super().__enter__()
        if not self._debug:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("always", category=UserWarning)
            warnings.showwarning = _warner()


def _warner() -> Callable[..., None]:
    """A replacement of ``warnings.showwarning`` that says everything once.

    Which package warns shows the frame that does; the file that a warning names is its caller's.
    """
    said = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        frame = sys._getframe(1)
        while frame is not None and frame.f_globals.get("__name__") == "warnings":
            frame = frame.f_back
        own = frame is not None and frame.f_globals.get("__name__", "").startswith("hpvade.")
        if own and str(message) not in said:
            said.add(str(message))
            say("warning", worded(str(message)))

    return show


def _message(error: BaseException) -> tuple[str, int]:
    """The text of `error`, with its type when it is none that the package raises on purpose, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped; what was not complete is not written.", STOPPED
    # str() of a KeyError is the repr of its message
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, UsageError):
        return text, USAGE
    if isinstance(error, (ValueError, KeyError, TypeError, OSError, RuntimeError, ImportError)) and text:
        return text, REFUSED
    return f"{type(error).__name__}: {text} (--debug shows the traceback)", UNEXPECTED
