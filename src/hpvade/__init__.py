"""hpvade: labelled single cells in, trustworthy cell-type composition of bulk samples out, inside AnnData.

Names are loaded on first use, so that ``import hpvade`` stays light; `__init__.pyi` lists them.
"""

from importlib.metadata import version as _version

import lazy_loader as _lazy

__version__ = _version("hpvade")  # before the names: with EAGER_IMPORT=1 they need it
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
