"""Torch building blocks that families share; nothing here knows AnnData.

`HP_VADE` and the networks of single families are public here, too. They live with their families, above this room, and
are loaded when asked for.
"""

from . import cvae, cycleae, ivae
from ._elsewhere import hand_on
from ._mlp import Decoder, DeconvolutionNetwork, Encoder

__all__ = ["HP_VADE", "Decoder", "DeconvolutionNetwork", "Encoder", "cvae", "cycleae", "ivae"]

__getattr__, _ = hand_on(__name__, HP_VADE="hpvade.models.hpvade._module")
