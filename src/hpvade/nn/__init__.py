"""Torch building blocks; nothing here knows AnnData."""

from . import cvae, cycleae, ivae
from ._mlp import Decoder, DeconvolutionNetwork, Encoder

__all__ = ["HP_VADE", "Decoder", "DeconvolutionNetwork", "Encoder", "cvae", "cycleae", "ivae"]


def __getattr__(name: str):
    # The specification lists HP_VADE here, but it is built from nn and so lives in models. Importing it only when it
    # is asked for keeps nn below models and breaks the circle.
    if name == "HP_VADE":
        from ..models.hpvade._module import HP_VADE

        return HP_VADE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
