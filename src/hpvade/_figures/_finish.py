"""The end of every plot: written, shown or handed out."""

from os import PathLike
from pathlib import Path
from typing import TypeVar

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..io._atomic import install_file, partial

Drawn = TypeVar("Drawn", Axes, Figure)


def finished(drawn: Drawn, show: bool | None, save: str | PathLike | None) -> Drawn | None:
    """`drawn`, written whole to the file `save` if there is one; None after it was shown."""
    if save is not None:
        with partial(save) as new:
            drawn.figure.figure.savefig(new, dpi=200, bbox_inches="tight")  # the whole figure, also of a part of it
            for file in new.parent.iterdir():  # matplotlib gives a name without an ending one
                install_file(file, Path(save).with_name(file.name))
    if show:
        plt.show()
        return None
    return drawn
