"""What comes from outside: files of bulk and of cells, matrices in any form, gene names and units."""

from ._read_bulk_file import read_bulk
from ._read_reference_file import read_reference

__all__ = ["read_bulk", "read_reference"]
