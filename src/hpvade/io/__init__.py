"""What comes from outside: files of bulk and of cells, matrices in any form, gene names and units."""

import lazy_loader as _lazy

# on first use: `hpvade --help` passes through this room, too
__getattr__, __dir__, __all__ = _lazy.attach(
    __name__, submod_attrs={"_read_bulk_file": ["read_bulk"], "_read_reference_file": ["read_reference"]}
)
