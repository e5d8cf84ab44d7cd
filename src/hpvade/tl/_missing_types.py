"""Does the bulk express markers of a type that no label of the reference means? Arrays in, tables out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from .._text import listed

LEVEL = 0.01  # of a sample's false alarms, over all types that are asked
_NEAR = 500  # genes that the model expects at about the same level
_FLOOR = 1e-6  # share of the total, one read in a million
_MIN_GENES = 2
_BLOCK = 256


def asked_markers(markers, types: list[str]) -> dict[str, list[str]]:
    """Genes of the types that no label means.

    `markers`: ``"blood"`` (nothing is asked where fewer than two labels name a blood cell), ``{type: [genes]}``, or
    None. ValueError for anything else.
    """
    from ..reference._blood_markers import LINEAGES, blood_type

    if markers is None:
        return {}
    if isinstance(markers, str):
        if markers != "blood":
            raise ValueError(f"markers={markers!r} is unknown; expected 'blood', a dict {{type: [genes]}}, or None.")
        meant = {blood_type(name) for name in types} - {None}
        if len(meant) < 2:
            return {}
        if meant & {"CD4 T", "CD8 T"}:
            meant.add("T")
        elif "T" in meant or "CD4 T" not in meant:  # CD8 T cells are T cells, where these are not told apart
            meant.add("CD8 T")
        return {name: list(genes) for name, genes in LINEAGES.items() if name not in meant}
    if not isinstance(markers, Mapping):
        raise ValueError(f"markers is a {type(markers).__name__}; expected 'blood', a dict {{type: [genes]}}, or None.")
    for name, genes in markers.items():
        if isinstance(genes, str) or not all(isinstance(gene, str) for gene in genes):
            raise ValueError(f"markers[{str(name)!r}] is {genes!r}; expected a list of gene names.")
    return {str(name): list(genes) for name, genes in markers.items() if str(name) not in types}


def missing_types(
    shares: np.ndarray,
    rna: np.ndarray,
    signature: np.ndarray,
    genes: pd.Index,
    markers: Mapping[str, list[str]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far the markers of each type are above the fit, against genes that the fit expects at the same level.

    Another platform moves markers of a missing type no more than any gene; the missing type lifts all of them. So the
    rank of a marker's log ratio of bulk to fit among the 500 genes with the nearest expected expression is uniform
    unless the type is there, and Stouffer's sum of the normal scores is standard normal for a set of genes.

    Parameters
    ----------
    shares
        (samples x genes), closed.
    rna, signature
        Fitted fractions (samples x types) and profiles (genes x types), columns closed.
    genes
        Names, (genes,).
    markers
        ``{type: genes}``; those that the bulk never shows are left out, and types with fewer than two.

    Returns
    -------
    Scores (samples x types), and per type its `genes`, the `score` (median over the samples), the `share` of the
    samples above the limit, and `fold`, how far the median marker lies above its neighbours in the median sample.
    """
    expected = signature @ rna.mean(axis=0)
    seen = np.flatnonzero(np.max(shares, axis=0) > 0)
    order = seen[np.argsort(expected[seen], kind="stable")]
    place = pd.Series(np.arange(len(order)), index=genes[order])
    place = place[~place.index.duplicated()]
    found = {name: [gene for gene in dict.fromkeys(some) if gene in place] for name, some in markers.items()}
    found = {name: some for name, some in found.items() if len(some) >= _MIN_GENES}
    scores = pd.DataFrame(index=range(len(shares)), columns=list(found), dtype=float)
    folds = {name: np.empty(len(shares)) for name in found}
    for at in range(0, len(shares), _BLOCK):
        rows = slice(at, at + _BLOCK)
        ratio = np.log((shares[rows][:, order] + _FLOOR) / (rna[rows] @ signature[order].T + _FLOOR))
        for name, some in found.items():
            normal, above = zip(*(_rank(ratio, int(place[gene])) for gene in some), strict=True)
            scores.loc[scores.index[rows], name] = np.sum(normal, axis=0) / np.sqrt(len(some))
            folds[name][rows] = np.exp(np.median(above, axis=0))
    limit = score_limit(len(found))
    table = pd.DataFrame(
        {
            "genes": [", ".join(some) for some in found.values()],
            "score": scores.median().to_numpy(),
            "share": (scores > limit).mean().to_numpy(),
            "fold": [float(np.median(fold)) for fold in folds.values()],
        },
        index=pd.Index(list(found), name="type"),
    )
    return scores, table


def _rank(ratio: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal score of one gene's log ratio among its neighbours, and how far it is above their median, (samples,)."""
    from scipy.special import ndtri

    first = int(np.clip(at - _NEAR // 2, 0, max(ratio.shape[1] - _NEAR - 1, 0)))
    near, own = ratio[:, first : first + _NEAR + 1], ratio[:, [at]]
    below = (near < own).sum(axis=1) + ((near == own).sum(axis=1) - 1) / 2  # itself does not count
    return ndtri((below + 0.5) / near.shape[1]), own[:, 0] - np.median(near, axis=1)


def score_limit(n_types: int) -> float:
    """Score that a sample passes in one of `n_types` with probability `LEVEL` at most (Bonferroni)."""
    from scipy.special import ndtri

    return float(-ndtri(LEVEL / max(n_types, 1)))


def missing_names(scores: pd.DataFrame) -> list[str]:
    """Types whose score is above the limit in each sample, the clearest first, in one text; empty if none is."""
    limit = score_limit(scores.shape[1])
    rows = (row[row > limit].sort_values(ascending=False).index for _, row in scores.iterrows())
    return [", ".join(names) for names in rows]


def missing_message(table: pd.DataFrame, share: float) -> list[str]:
    """One sentence for each type that at least `share` of the samples have and no label means."""
    return [
        f"{row.share:.0%} of the samples express markers of {row.Index}, which no label of the reference means, "
        f"{row.fold:.1f} times as high as genes that the model expects at their level: {listed(row.genes.split(', '))}."
        " The other types get its share. Add it to the reference."
        for row in table[table["share"] >= share].sort_values("score", ascending=False).itertuples()
    ]
