from . import datasets, nn, pl, pp, simulate, solvers, tl
from .models.hpvade._model import HPVADE
from .models.hpvade._module import HP_VADE
from .nn._mlp import Decoder, DeconvolutionNetwork, Encoder

__all__ = [
    "HPVADE",
    "HP_VADE",
    "Decoder",
    "DeconvolutionNetwork",
    "Encoder",
    "datasets",
    "nn",
    "pl",
    "pp",
    "simulate",
    "solvers",
    "tl",
]
__version__: str
