"""Does a labelled reference contradict itself? Evidence per cell, shares per pair of types. Arrays in, tables out."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .._text import warn
from . import _label_evidence as evidence
from ._blood_markers import MARKERS, blood_type
from ._label_space import doublet_score, embed, neighbour_share, sample_cells

# Planted errors decide these (benchmarks/labels.py): clean labels stay below, a tenth of one type above.
MIN_SHARE = 0.03  # cells of a label that look like another type
MIN_EXCESS, MIN_Z = 0.15, 5.0  # share of another type that explains its markers, standard errors above the background
_VISIBLE_Z = 2.0
MIN_RATE = 0.1  # excess rate of markers of a type that no cell is called
MIN_DOUBLET = 0.9
MIN_CELLS = 5  # that look like another type, to speak of it
FALSE_FLAGS = 0.05  # of the cells flagged for a second type, so many may be expected to be right
_MIN_PRIOR = 0.005
_WIDER = 0.3  # log odds
_CHEAP_CELLS, _LOOK = 3000, 100_000


@dataclass(frozen=True, eq=False)
class LabelCheck:
    """What a check found."""

    types: pd.DataFrame
    """One row per label."""
    pairs: pd.DataFrame
    """One row per label and second type that more than 0.5 % of its cells look like, or as many as explain its markers
    (`by`); `cells` is the share by the first alone."""
    markers: pd.DataFrame
    """One row per pair of classes: `marker_rates`."""
    score: np.ndarray
    """How likely another type is for each cell, 0 to 1, (cells,)."""
    suggestion: np.ndarray
    """Index of the suggested label, the own one where nothing speaks against it, (cells,)."""
    flagged: np.ndarray
    """Bool, (cells,)."""
    doublet: np.ndarray
    """Share of simulated doublets around the cell, NaN for cells that were not looked at, (cells,)."""


def mixture(inside: np.ndarray, other: np.ndarray, n_iter: int = 100) -> tuple[float, np.ndarray]:
    """Share of `inside` that comes from where `other` lies, and the probability of each value to do so.

    The log odds of cells labelled as one type are a mixture of two normal distributions: the one of cells labelled as
    the other type, which is known (median and spread of `other`), and one to be fitted. So no classifier needs to be
    calibrated, and a whole type that lies somewhat towards the other counts as none of it. Both are taken as somewhat
    wider than they are, so that tails are not read as errors: where types overlap, the share errs to the low side.
    """
    center, width = np.median(other), _spread(other) + _WIDER
    share, mean, sd = 0.1, np.median(inside), _spread(inside) + _WIDER
    beyond = inside > center
    for _ in range(n_iter):
        log_other = np.log(share) - np.log(width) - (inside - center) ** 2 / (2 * width**2)
        log_own = np.log1p(-share) - np.log(sd) - (inside - mean) ** 2 / (2 * sd**2)
        probability = 1 / (1 + np.exp(np.clip(log_own - log_other, -500, 500)))
        # beyond the centre of the other type nothing gets less like it
        probability[beyond] = np.maximum(probability[beyond], probability[~beyond].max(initial=0))
        share = float(np.clip(probability.mean(), 1e-6, 1 - 1e-6))
        weight = 1 - probability + 1e-9
        mean = np.average(inside, weights=weight)
        sd = np.sqrt(np.average((inside - mean) ** 2, weights=weight)) + _WIDER / 3
    return share, probability


def _spread(values: np.ndarray) -> float:
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def check(
    X,
    genes: pd.Index,
    labels: np.ndarray,
    *,
    markers: Mapping[str, Mapping[str, list[str]]] | None = None,
    classes: Mapping[str, str] | None = None,
    anchor: tuple | None = None,
    seed: int = 0,
) -> LabelCheck:
    """Compare every label with what the data say.

    Parameters
    ----------
    X
        Counts (cells x genes), any matrix that `iter_rows` reads.
    genes, labels
        Names, (genes,) and (cells,).
    markers
        ``{class: {"has": [...], "lacks": [...], "rarely": [...]}}``.
    classes
        Class of each label, in the names of `markers` and `anchor`; itself where absent.
    anchor
        Its counts, gene names and classes.
    """
    types, codes = np.unique(labels, return_inverse=True)
    class_of = [str((classes or {}).get(name, name)) for name in types]
    cell_class = np.array(class_of, dtype=object)[codes]
    sample = sample_cells(codes, np.random.default_rng(seed))
    space, points = embed(X, sample)
    own = evidence.by_labels(points, codes, sample, len(types))
    sources, rates = [], evidence.marker_rates(pd.DataFrame(), cell_class, {})
    if markers:
        expressed = evidence.expressed_markers(X, genes, markers)
        sources.append(evidence.by_markers(points, cell_class, sample, expressed, markers))
        rates = evidence.marker_rates(expressed, cell_class, markers)
    if anchor is not None:
        sources.append(evidence.by_anchor(X, genes, cell_class, *anchor))
    outside = evidence.combine(codes, class_of, sources)
    trust = evidence.TRUST_LABELS if any(names for _, names in sources) else evidence.TRUST_OTHERS
    log = evidence.bounded_log(own, trust) + outside
    rows = np.arange(len(codes))
    rival = log.copy()
    rival[rows, codes] = -np.inf
    second = rival.argmax(axis=1)

    pairs, probability = _pairs(types, codes, log, second)
    flagged = np.zeros(len(codes), dtype=bool)
    for row in doubtful(pairs).itertuples():
        cells = np.flatnonzero((types[codes] == row.type) & (types[second] == row.second))
        flagged[cells] = surely_other(probability[cells])
    if markers:
        shown = _shown_by_markers(codes, class_of, outside, expressed, rates)
        second, flagged = np.where(shown >= 0, shown, second), flagged | (shown >= 0)
        log = np.where((shown >= 0)[:, None], outside, log)
        told = contradictions(rates) if anchor is not None else _visible(rates)
        pairs = _with_markers(pairs, told.dropna(subset="full"), types, codes, class_of)
        # after the mixture, whose values must not come in two heaps: a gene is there or not
        log = log + evidence.by_own_markers(expressed, codes, class_of, rates)
    score = _score(log + _prior_log_odds(pairs, types)[codes], codes)
    doublet = np.full(len(codes), np.nan)
    doublet[sample] = doublet_score(X, sample, codes[sample], space, points[sample], seed)
    per_type = pd.DataFrame(
        {
            "class": class_of,
            "n_cells": np.bincount(codes),
            "neighbours": _mean_by(codes[sample], neighbour_share(points[sample], codes[sample])),
            "predicted": _mean_by(codes, own.argmax(axis=1) == codes),
            "flagged": _mean_by(codes, flagged),
            "doublets": _mean_by(codes[sample], doublet[sample] >= MIN_DOUBLET),
        },
        index=pd.Index(types.astype(str), name=None),
    )
    if anchor is not None:
        per_type["anchor"] = _agreement(codes, cell_class, *sources[-1])
    rates["contradicts"] = rates.index.isin(contradictions(rates).index)
    return LabelCheck(per_type, pairs, rates, score, np.where(flagged, second, codes), flagged, doublet)


def _mean_by(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean per type; every type has values."""
    return pd.Series(np.asarray(values, dtype=float)).groupby(codes).mean().to_numpy()


def _agreement(codes: np.ndarray, cell_class: np.ndarray, found: np.ndarray, names: list[str]) -> np.ndarray:
    """Share of the cells of each type that a source calls by their own class; NaN for types that it does not know."""
    asked = ~np.isnan(found).any(axis=1)
    called = np.array(names, dtype=object)[np.nan_to_num(found).argmax(axis=1)]
    return _mean_by(codes, np.where(asked, called == cell_class, np.nan))


def _pairs(types, codes, log, second) -> tuple[pd.DataFrame, np.ndarray]:
    """Share of every label that looks like each other type, and the probability of each cell to be its second type."""
    probability, rows = np.zeros(len(codes)), []
    for a in range(len(types)):
        inside = np.flatnonzero(codes == a)
        for b in np.unique(second[inside]):
            other = np.flatnonzero(codes == b)
            if min(len(inside), len(other)) < MIN_CELLS:
                continue
            found = mixture(log[inside, b] - log[inside, a], log[other, b] - log[other, a])[1]
            nearest = second[inside] == b  # a cell has one second type
            probability[inside[nearest]] = found[nearest]
            share = float((found * nearest).mean())
            if share > 0.005:
                # what the signature of a swallows of b: the rest is read
                read = len(other) / (len(other) + share * len(inside))
                row = {"type": types[a], "second": types[b], "share": share, "n_cells": share * len(inside)}
                rows.append(row | {"read": read, "by": "cells", "cells": share})
    table = pd.DataFrame(rows, columns=["type", "second", "share", "n_cells", "read", "by", "cells"])
    return table.sort_values("share", ascending=False, ignore_index=True), probability


def surely_other(probability: np.ndarray) -> np.ndarray:
    """The most probable of some cells, as many as hold `FALSE_FLAGS` right labels in expectation, bool (cells,).

    The mean of 1 - probability over a set is its expected false discovery rate (Efron's local one, averaged). A share
    of cells is known better than which cells they are: where types overlap, fewer are flagged than counted.
    """
    order = np.argsort(-probability, kind="stable")
    false = np.cumsum(1 - probability[order]) / np.arange(1, len(order) + 1)
    chosen = np.zeros(len(order), dtype=bool)
    chosen[order[false <= FALSE_FLAGS]] = True
    return chosen


def _visible(rates: pd.DataFrame) -> pd.DataFrame:
    """The rows of `marker_rates` that say something of a share, if not enough to speak of a contradiction."""
    return rates[(rates["excess"] >= MIN_SHARE) & (rates["z"] >= _VISIBLE_Z)]


def _with_markers(pairs, rates, types, codes, class_of) -> pd.DataFrame:
    """`pairs` with the share that explains the markers of `rates`, where that is the larger one."""
    sizes, rows = pd.Series(np.bincount(codes)).groupby(class_of).sum(), []
    for row in rates.itertuples():
        read = sizes[row.second] / (sizes[row.second] + row.excess * sizes[row.type])
        for a in np.flatnonzero(np.array(class_of) == row.type):
            for b in np.flatnonzero(np.array(class_of) == row.second):
                found = {"type": types[a], "second": types[b], "share": row.excess}
                rows.append(found | {"n_cells": row.excess * (codes == a).sum(), "read": read, "by": "markers"})
    if not rows:
        return pairs
    both = pd.concat([pairs, pd.DataFrame(rows)]) if len(pairs) else pd.DataFrame(rows)
    both["cells"] = both.groupby(["type", "second"])["cells"].transform("max").fillna(0.0)
    both = both.sort_values("share", ascending=False, kind="stable").drop_duplicates(["type", "second"])
    return both.reset_index(drop=True)


def _prior_log_odds(pairs: pd.DataFrame, types: np.ndarray) -> np.ndarray:
    """Log odds that a cell of a label (rows) is of another type (columns), before the cell is looked at."""
    share = pd.DataFrame(_MIN_PRIOR, index=types, columns=types)
    for row in pairs.itertuples():
        share.loc[row.type, row.second] = np.clip(row.share, _MIN_PRIOR, 0.5)
    odds = np.log(share / (1 - share)).to_numpy()
    np.fill_diagonal(odds, 0)
    return odds


def _score(log: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Probability of the best other type against the own label, from log evidence (cells x types)."""
    rows, rival = np.arange(len(codes)), log.copy()
    rival[rows, codes] = -np.inf
    return 1 / (1 + np.exp(np.clip(log[rows, codes] - rival.max(axis=1), -500, 500)))


def doubtful(pairs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `pairs` that clean labels do not have."""
    n_cells = pairs["n_cells"] * pairs["cells"] / pairs["share"]
    return pairs[(pairs["cells"] >= MIN_SHARE) & (n_cells >= MIN_CELLS)]


def contradictions(rates: pd.DataFrame) -> pd.DataFrame:
    """The rows of `marker_rates` that ambient RNA and doublets do not explain."""
    labelled = rates["full"].notna() & (rates["excess"] >= MIN_EXCESS)
    nameless = rates["full"].isna() & (rates["rate"] - rates["background"] >= MIN_RATE)
    return rates[(labelled | nameless) & (rates["z"] >= MIN_Z)]


def _shown_by_markers(codes, class_of, outside, expressed, rates) -> np.ndarray:
    """The second type of cells that express what contradicts their label, where markers and anchor side with it; or -1.

    The other labels are not heard: that they agree with each other is what is in doubt.
    """
    result, rows = np.full(len(codes), -1), np.arange(len(codes))
    cell_class = np.array(class_of, dtype=object)[codes]
    for row in contradictions(rates).itertuples():
        types = np.flatnonzero(np.array(class_of) == row.second)
        if not len(types):
            continue
        best = types[outside[:, types].argmax(axis=1)]
        hit = expressed[row.genes.split(", ")].any(axis=1).to_numpy()
        shown = (cell_class == row.type) & hit & (outside[rows, best] > outside[rows, codes])
        result[shown] = best[shown]
    return result


def cheap_label_warning(X, labels: np.ndarray, genes: pd.Index) -> str | None:
    """One sentence if labels of blood contradict blood markers; None if they do not, or are not of blood.

    Reads the markers of about 3,000 cells at most, whatever the size of the reference; Dask arrays are left alone.
    """
    rng = np.random.default_rng(0)
    look = np.arange(len(labels))
    if len(labels) > _LOOK:
        look = np.sort(rng.choice(len(labels), _LOOK, replace=False))
    codes, names = pd.factorize(np.asarray(labels)[look])
    kinds = [blood_type(name) for name in names]
    kind = np.array([k or "" for k in kinds], dtype=object)[codes]
    if len(set(kinds) - {None}) < 3 or hasattr(X, "dask"):
        return None
    known = np.flatnonzero(kind != "")
    chosen = known[sample_cells(kind[known], rng, _CHEAP_CELLS)]
    expressed = evidence.expressed_markers(X[look[chosen]], genes, MARKERS)
    found = contradictions(evidence.marker_rates(expressed, kind[chosen], MARKERS))
    if found.empty:
        return None
    row = found.loc[found["z"].idxmax()]
    named = " or ".join(repr(str(name)) for name, k in zip(names, kinds, strict=True) if k == row["type"])
    return (
        f"{row['rate']:.0%} of the cells labelled {named} express {row['genes']}, markers of {row['second']}; ambient "
        f"RNA explains {row['background']:.0%} (as in {row['yardstick']}). {row['second']} will be read too low. "
        "hpvade.tl.check_labels shows which cells, hpvade.pp.transfer_labels repairs their labels."
    )


def warn_of_labels(adata, labels_key: str, layer: str | None) -> None:
    """Give the sentence of :func:`cheap_label_warning` as a warning, if there is one."""
    X = adata.X if layer is None else adata.layers[layer]
    if text := cheap_label_warning(X, adata.obs[labels_key], adata.var_names):
        warn(text)
