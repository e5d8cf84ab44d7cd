"""Types that only sorted bulk has, brought to the scale of a single-cell reference."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .._text import listed
from ._cell_size import PUBLISHED, published_sizes

_FLOOR = 5e-5  # share of a type's RNA below which a gene says little, as in the regression
_LEAST = 0.05 * _FLOOR  # keeps the ratio of a gene that one side does not see within limits
_SHRINKAGE_TYPES = 1.0  # a factor from one type that expresses the gene is half believed
_MAD = 1.4826


@dataclass(frozen=True, eq=False)
class SortedTypes:
    """Result of `to_scale_of_cells`.

    Attributes
    ----------
    shares
        (genes x new types): expression as the cells' platform would see it, columns that sum to one.
    log_sd
        Robust standard deviation over genes of what the factor leaves, in log: each shared type in turn against the
        factor of the others; with one shared type the spread of the factor itself.
    """

    shares: np.ndarray
    log_sd: float


def to_scale_of_cells(cells: np.ndarray, profiles: np.ndarray, new: np.ndarray) -> SortedTypes:
    """Move sorted profiles by how the two platforms see the genes of the types that both have.

    Parameters
    ----------
    cells, profiles
        (genes x shared types): the shared types in cells and sorted, in the same order and on any linear scale.
    new
        (genes x new types): sorted profiles of the types to add.
    """
    cells, profiles, new = (x / x.sum(axis=0) for x in (cells, profiles, new))
    shares = new * _factor(cells, profiles)[:, None]
    n_shared = cells.shape[1]
    left = []
    for k in range(n_shared):
        others = np.arange(n_shared) != k
        factor = _factor(cells[:, others], profiles[:, others])
        expressed = np.maximum(cells[:, k], profiles[:, k]) > _FLOOR
        moved = profiles[:, k] * factor
        left.append(np.log(cells[expressed, k] + _FLOOR) - np.log(moved[expressed] / moved.sum() + _FLOOR))
    left = np.concatenate(left)
    return SortedTypes(shares / shares.sum(axis=0), float(_MAD * np.median(np.abs(left - np.median(left)))))


def _factor(cells: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """How the cells' platform sees genes (genes,) against the other: mean ratio over the types that express them."""
    level = (cells + profiles) / 2
    weight = level / (level + _FLOOR)
    ratio = np.log(cells + _LEAST) - np.log(profiles + _LEAST)
    return np.exp((weight * ratio).sum(axis=1) / (weight.sum(axis=1) + _SHRINKAGE_TYPES))


def rna_contents(
    types: list[str], counts_per_cell: np.ndarray, new: list[str], given: Mapping[str, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """RNA content of new types in the reference's counts per cell, and how far tables differ about it.

    Parameters
    ----------
    types, counts_per_cell
        Types of the reference, and their mean counts per cell (types,).
    new
        Types to add.
    given
        ``{type: size}`` up to a common factor, with a type of the reference; the published tables when None.

    Returns
    -------
    Counts per cell and standard deviation of their log between tables (new types,); 0 with one table.

    Raises
    ------
    ValueError
        No table, or not the one given, compares a new type with one of the reference.
    """
    if given is None:
        tables = [published_sizes(source, [*types, *new]) for source in PUBLISHED]
    else:
        if not isinstance(given, Mapping):
            raise TypeError(f"rna_content={given!r}; expected a dict, such as {{{new[0]!r}: 0.3, {types[0]!r}: 1.4}}.")
        if not all(np.isfinite(size) and size > 0 for size in given.values()):
            raise ValueError(f"rna_content={dict(given)}; expected sizes above 0.")
        tables = [np.array([given.get(name, np.nan) for name in [*types, *new]], dtype=float)]
    found = np.full((len(tables), len(new)), np.nan)
    for row, sizes in zip(found, np.log(tables), strict=True):
        own = sizes[: len(types)] - np.log(counts_per_cell)
        if np.isfinite(own).any():
            row[:] = sizes[len(types) :] - own[np.isfinite(own)].mean()
    unknown = [name for name, column in zip(new, found.T, strict=True) if not np.isfinite(column).any()]
    if unknown:
        where = "the published tables have" if given is None else f"rna_content={dict(given)} has"
        raise ValueError(
            f"{where} no RNA content of {listed(unknown)} beside a type of the reference ({listed(types)}). Pass "
            f"rna_content={{{unknown[0]!r}: ..., {types[0]!r}: ...}}, sizes up to a common factor."
        )
    return np.exp(np.nanmean(found, axis=0)), np.nanstd(found, axis=0)
