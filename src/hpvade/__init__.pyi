from . import datasets, io, nn, pl, pp, simulate, solvers, tl
from ._report._report import report
from .models.ambient._model import AmbientRegularizedSCVI
from .models.ambient._module import RegularizedVAE
from .models.ambient._multimodal_model import RegularizedMultimodalVI
from .models.ambient._multimodal_module import RegularizedMultimodalVAE
from .models.cvae._model import ConditionalVAE
from .models.cycleae._chunk_files import ChunkDataModule
from .models.cycleae._model import CycleAE
from .models.hpvade._model import HPVADE
from .models.hpvade._module import HP_VADE
from .models.ivae._model import IVAE
from .nn._mlp import Decoder, DeconvolutionNetwork, Encoder

__all__ = [
    "AmbientRegularizedSCVI",
    "ConditionalVAE",
    "HPVADE",
    "HP_VADE",
    "IVAE",
    "RegularizedMultimodalVAE",
    "RegularizedMultimodalVI",
    "RegularizedVAE",
    "ChunkDataModule",
    "CycleAE",
    "Decoder",
    "DeconvolutionNetwork",
    "Encoder",
    "datasets",
    "io",
    "nn",
    "pl",
    "pp",
    "report",
    "simulate",
    "solvers",
    "tl",
]
__version__: str
