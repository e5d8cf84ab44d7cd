"""The end of every plot: written, shown or handed out."""

from os import PathLike
from typing import TypeVar

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Drawn = TypeVar("Drawn", Axes, Figure)


def finished(drawn: Drawn, show: bool | None, save: str | PathLike | None) -> Drawn | None:
    """`drawn`, written to the file `save` if there is one; None after it was shown."""
    if save is not None:
        drawn.figure.figure.savefig(save, dpi=200, bbox_inches="tight")  # the whole figure, also of a part of it
    if show:
        plt.show()
        return None
    return drawn
