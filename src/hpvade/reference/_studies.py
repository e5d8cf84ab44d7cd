"""Several studies in one reference: a signature of each on one scale, and one of all together."""

from dataclasses import dataclass

import numpy as np

from .._text import listed, warn
from ..simulate import ChunkSums
from ._measured import LOST, SUFFERS, lost_pairs
from ._signature import Signature, reference_signature

_FLOOR = 5e-5  # share of a type's RNA below which a gene says little, as in the regression
_SHRINKAGE_TYPES = 1.0  # a platform factor from one type is half believed


@dataclass(frozen=True, eq=False)
class Studies:
    """What several studies say of the same types.

    Attributes
    ----------
    mean_counts
        (studies x genes x types): mean counts per cell, all studies at the depth of the largest. Types that a study
        lacks come from those that have them, moved by how the study sees the genes of the types that both have. Genes
        that it lacks have the others' means, so that columns compare; they take no part in a fit.
    measured
        bool (studies x genes): genes that the study has counts of.
    own
        bool (studies x types): types that the study has cells of.
    combined
        The signature of all studies together: means over the studies that have gene and type.
    """

    mean_counts: np.ndarray
    measured: np.ndarray
    own: np.ndarray
    combined: Signature


def combine_studies(chunks: ChunkSums, study: np.ndarray, names: list[str]) -> Studies:
    """Signatures of the studies of a reference.

    Parameters
    ----------
    chunks
        Sums of cells; no chunk holds cells of two studies.
    study
        int (chunks,): study of each chunk.
    names
        Names of the studies, for messages.

    Raises
    ------
    ValueError
        A study shares no type, or hardly a gene, with the others, so that nothing brings them to one scale; or it
        measures too few genes to tell most types apart, and would have an equal say in the mean.
    """
    n_studies, n_types = len(names), chunks.n_types
    own = np.zeros((n_studies, n_types), dtype=bool)
    own[study, chunks.types] = True
    measured = np.stack([np.asarray(chunks.counts[study == s].sum(axis=0)).ravel() > 0 for s in range(n_studies)])
    found = np.zeros((n_studies, chunks.counts.shape[1], n_types))
    for s in range(n_studies):
        found[s][:, own[s]] = _signature_of(chunks.select_chunks(study == s), own[s])
    _scale(found, measured, own, names)
    combined = _mean(found, measured, own)
    _check_genes(combined, measured, names)
    borrowed = found.copy()
    for s, k in zip(*np.nonzero(~own), strict=True):
        lenders = own[:, k]
        theirs, types = _mean(found[lenders], measured[lenders], own[lenders]), own[s] & own[lenders].any(axis=0)
        borrowed[s][:, k] = theirs[:, k] * _platform_factor(found[s][:, types], theirs[:, types])
    borrowed = np.where(measured[:, :, None], borrowed, combined)
    cells = np.bincount(chunks.types, weights=chunks.n_cells, minlength=n_types)
    return Studies(borrowed, measured, own, Signature(combined, cells / cells.sum()))


def _signature_of(chunks: ChunkSums, own: np.ndarray) -> np.ndarray:
    """Mean counts per cell (genes x own types) of one study."""
    code = np.cumsum(own) - 1
    parts = chunks.counts, code[chunks.types], chunks.donors, chunks.n_cells, chunks.totals
    return reference_signature(ChunkSums(*parts, int(own.sum()))).mean_counts


def _scale(found: np.ndarray, measured: np.ndarray, own: np.ndarray, names: list[str]) -> None:
    """Bring the studies to one depth, in place: that of the one with most types and genes."""
    size = own.sum(axis=1) * measured.sum(axis=1)
    order, left = [int(np.argmax(size))], set(range(len(names))) - {int(np.argmax(size))}
    while left:
        known = own[order].any(axis=0)
        s = max(left, key=lambda s: ((own[s] & known).sum(), size[s], -s))
        types = own[s] & known
        if not types.any():
            raise ValueError(
                f"study {names[s]!r} shares no type with {listed(names[i] for i in order)}; expected a type in common. "
                "Give types of one kind one name in labels_key."
            )
        common = _mean(found[order], measured[order], own[order])
        genes = measured[s] & measured[order].any(axis=0)
        mine, theirs = found[s][genes][:, types].sum(axis=0), common[genes][:, types].sum(axis=0)
        if not ((mine > 0) & (theirs > 0)).any():
            raise ValueError(
                f"study {names[s]!r} shares {genes.sum()} measured genes with {listed(names[i] for i in order)}; "
                "expected the same gene names in all studies."
            )
        found[s] *= np.exp(np.median(np.log(theirs / mine)[(mine > 0) & (theirs > 0)]))
        order.append(s)
        left.remove(s)


def _check_genes(combined: np.ndarray, measured: np.ndarray, names: list[str]) -> None:
    """Refuse a study as a bulk with its genes would be refused."""
    share = combined / combined.sum(axis=0)
    for name, genes in zip(names, measured, strict=True):
        lost, left, full = lost_pairs(share, np.ones(len(share), dtype=bool), genes)
        if lost.mean() > 0.5:
            raise ValueError(
                f"study {name!r} measures {genes.sum()} of {len(genes)} genes, by which the typical pair of types is "
                f"told apart by {np.median(left):.1f} genes' worth of information where all genes have "
                f"{np.median(full):.0f}; at least {LOST:.0f} are needed for most pairs. Leave the study out, or read "
                "its other genes."
            )


def warn_of_few_genes(studies: Studies, names: list[str]) -> None:
    """Warn of studies whose genes hardly tell some types apart, and which have an equal say in the mean."""
    share = studies.combined.mean_counts / studies.combined.mean_counts.sum(axis=0)
    for name, genes in zip(names, studies.measured, strict=True):
        _, left, full = lost_pairs(share, np.ones(len(share), dtype=bool), genes)
        if n_suffer := int(((left < full / 2) & (left < SUFFERS)).sum()):
            warn(
                f"Study {name!r} measures {genes.sum()} of {len(genes)} genes: {n_suffer} of {len(left)} pairs of "
                f"types are told apart by less than {SUFFERS:.0f} genes' worth of information in it (median "
                f"{np.median(left):.0f}; {np.median(full):.0f} with all genes), and its answer counts as much as any "
                "other. Leave it out unless it alone has some type."
            )


def _mean(found: np.ndarray, measured: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Mean over the studies that have both gene and type; 0 where none has."""
    has = measured[:, :, None] & own[:, None, :]
    return (found * has).sum(axis=0) / np.maximum(has.sum(axis=0), 1)


def _platform_factor(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """How one study sees genes (genes,) compared with another, from the same types in both (genes x types)."""
    if not mine.shape[1]:
        return np.ones(len(mine))
    ratio = np.log(mine + _FLOOR * mine.sum(axis=0)) - np.log(theirs + _FLOOR * theirs.sum(axis=0))
    return np.exp(ratio.sum(axis=1) / (ratio.shape[1] + _SHRINKAGE_TYPES))
