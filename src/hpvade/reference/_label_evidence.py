"""What own labels, marker genes and an anchor say of the type of each cell. Arrays in, probabilities out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ..io._rows import iter_rows
from . import _transfer

KINDS = ("has", "lacks", "rarely")
_FOLDS, _ROUNDS = 5, 3
_MIN_CONTRAST = 0.2  # between how often a class and its yardstick express a set of genes
_MIN_SEEDS = 10  # cells of a type that markers name, to learn its profile from
TRUST_LABELS = 0.7  # what labels say of each other beside markers or an anchor, which planted errors decided
TRUST_OTHERS = 0.99


def cross_validated(points: np.ndarray, codes: np.ndarray, train: np.ndarray, n_types: int) -> np.ndarray:
    """Probabilities (cells x types) of every cell by a logistic regression that has not seen it."""
    from sklearn.linear_model import LogisticRegression

    result = np.zeros((len(codes), n_types))
    n_folds = max(2, min(_FOLDS, np.bincount(codes[train]).max()))
    order = np.random.default_rng(0).permutation(len(codes))
    folds = np.empty(len(codes), dtype=int)
    for code in range(n_types):  # every type spreads over the folds
        cells = order[codes[order] == code]
        folds[cells] = np.arange(len(cells)) % n_folds
    for fold in range(n_folds):
        seen = train & (folds != fold)
        if len(np.unique(codes[seen])) < 2:
            seen = train
        model = LogisticRegression(class_weight="balanced", max_iter=300).fit(points[seen], codes[seen])
        result[np.ix_(folds == fold, model.classes_)] = model.predict_proba(points[folds == fold])
    return result


def by_labels(points: np.ndarray, codes: np.ndarray, sample: np.ndarray, n_types: int) -> np.ndarray:
    """What the own labels say of each other: cells that contradict theirs are left out when the others are learned."""
    train = sample
    for _ in range(_ROUNDS):
        found = cross_validated(points, codes, train, n_types)
        train = sample & (found.argmax(axis=1) == codes)
        kept = np.bincount(codes[train], minlength=n_types)
        train = train | (sample & (kept < 5)[codes])  # a type never vanishes
    return found


def count_matrix(X, genes: pd.Index, names: list[str]) -> np.ndarray:
    """Counts of a few genes, dense (cells x genes)."""
    columns = genes.get_indexer(pd.Index(names))
    return np.vstack([block[:, columns].toarray() for _, block in iter_rows(X)])


def by_markers(
    points: np.ndarray,
    classes: np.ndarray,
    sample: np.ndarray,
    expressed: pd.DataFrame,
    markers: Mapping[str, Mapping[str, list[str]]],
) -> tuple[np.ndarray, list[str]]:
    """Probabilities (cells x named classes) learned from cells whose own markers leave no doubt, and these classes.

    Such a cell expresses what its class has, nothing that it lacks, and fits no other class. `expressed` says which
    marker (columns) each cell expresses; classes of which markers are not there, or with fewer than 10 such cells, are
    not among the result.
    """
    names, fits = [], []
    for name in sorted(set(classes) & set(markers)):
        has = [gene for gene in markers[name].get("has", []) if gene in expressed]
        against = (*markers[name].get("lacks", []), *markers[name].get("rarely", []))
        lacks = [gene for gene in against if gene in expressed]
        if not has:
            continue
        names.append(name)
        fits.append(expressed[has].any(axis=1).to_numpy() & ~expressed[lacks].any(axis=1).to_numpy())
    if len(names) < 2:
        return np.empty((len(points), 0)), []
    fit = np.column_stack(fits)
    seed = sample & (fit.sum(axis=1) == 1) & np.isin(classes, names)
    enough = np.bincount(fit.argmax(axis=1)[seed], minlength=len(names)) >= _MIN_SEEDS
    names = [name for name, keep in zip(names, enough, strict=True) if keep]
    if len(names) < 2:
        return np.empty((len(points), 0)), []
    fit = fit[:, enough]
    seed &= fit.any(axis=1)
    return cross_validated(points, fit.argmax(axis=1), seed, len(names)), names


def by_anchor(X, genes: pd.Index, classes: np.ndarray, anchor_X, anchor_genes: pd.Index, anchor_classes: np.ndarray):
    """Probabilities (cells x shared classes) from an anchor, and these classes; NaN for cells of other classes."""
    names = sorted(set(classes) & set(anchor_classes))
    if len(names) < 2:
        return np.empty((len(classes), 0)), []
    asked, known = np.isin(classes, names), np.isin(anchor_classes, names)
    used = _transfer.shared_genes(X, genes, asked, anchor_X, anchor_genes, known)
    classifier = _transfer.fit_classifier(anchor_X, anchor_genes, anchor_classes, known, used)
    found = np.full((len(classes), len(names)), np.nan)
    found[asked] = _transfer.predict(classifier, X, genes, asked)
    return found, list(map(str, classifier.types))


def bounded_log(probability: np.ndarray, trust: float) -> np.ndarray:
    """Log probabilities of a source that is right with probability `trust`, else says nothing."""
    return np.log(probability * trust + (1 - trust))


def combine(codes: np.ndarray, class_of: list[str], sources: list[tuple[np.ndarray, list[str]]]) -> np.ndarray:
    """Log evidence (cells x types): the sum over sources, each bounded, so that none is believed without limit.

    `class_of` names the class of each type. A source that does not know a type says of it what it says of the cell's
    own, that is nothing.
    """
    rows, total = np.arange(len(codes)), np.zeros((len(codes), len(class_of)))
    for probability, names in sources:
        if not names:
            continue
        place = np.array([names.index(name) if name in names else -1 for name in class_of])
        heard = (place[codes] >= 0) & ~np.isnan(probability).any(axis=1)
        log = bounded_log(np.nan_to_num(probability), TRUST_OTHERS)
        says = np.where(place >= 0, log[:, place], log[rows, place[codes]][:, None])
        total += np.where(heard[:, None], says, 0)
    return total


def marker_rates(
    expressed: pd.DataFrame, classes: np.ndarray, markers: Mapping[str, Mapping[str, list[str]]]
) -> pd.DataFrame:
    """How often cells of one class express what another class has and they lack, against what cannot be theirs.

    Returns
    -------
    One row per ordered pair of classes, `second` also one that no cell is called and whose genes
    no other class has: its `genes`; the share of cells that
    express one of them in the class (`rate`), in `second` (`full`, NaN if no cell is called so), and in classes that
    lack them all (`background`, from the types in `yardstick`: ambient RNA and doublets); `excess`, the share of cells
    of `second` that would explain the rate; `z`, how many standard errors the rate is above the background.
    """
    present = set(expressed)
    sets = {n: {k: [g for g in markers[n].get(k, []) if g in present] for k in KINDS} for n in markers}
    cells = {name: classes == name for name in markers}
    names = [name for name in markers if cells[name].sum() >= 2]
    rows = []
    for name, second in ((a, b) for a in names for b in markers if a != b):
        genes = [gene for gene in sets[second]["has"] if gene in sets[name]["lacks"]]
        yardstick = [n for n in names if n not in (name, second) and genes and set(genes) <= set(sets[n]["lacks"])]
        known = second in names or not any(set(genes) <= set(sets[n]["has"]) for n in names if n != name)
        if not yardstick or not known:  # CD3 does not tell that "T" is missing where there are CD4 T cells
            continue
        hit = expressed[genes].any(axis=1).to_numpy()
        rate, background = hit[cells[name]].mean(), float(np.median([hit[cells[n]].mean() for n in yardstick]))
        full = hit[cells[second]].mean() if second in names else np.nan
        if full - background < _MIN_CONTRAST:  # here the genes hardly tell the two apart
            continue
        n_yardstick = sum(cells[n].sum() for n in yardstick)
        error = np.sqrt(rate * (1 - rate) / cells[name].sum() + background * (1 - background) / n_yardstick)
        row = {"type": name, "second": second, "genes": ", ".join(genes), "rate": float(rate), "full": float(full)}
        row |= {"background": background, "yardstick": ", ".join(yardstick)}
        row["excess"] = float(np.clip((rate - background) / (full - background), 0, 1))
        rows.append(row | {"z": float((rate - background) / max(error, 1e-9))})
    columns = ["type", "second", "genes", "rate", "full", "background", "yardstick", "excess", "z"]
    return pd.DataFrame(rows, columns=columns)


def by_own_markers(expressed: pd.DataFrame, codes: np.ndarray, class_of: list[str], rates: pd.DataFrame) -> np.ndarray:
    """Log evidence (cells x types) of the genes that a cell itself expresses or not, from the rows of `marker_rates`.

    For a cell of class a, class b gains log(full / background) if the cell expresses what b has and a lacks, else
    log((1 - full) / (1 - background)).
    """
    total = np.zeros((len(codes), len(class_of)))
    of_type = np.array(class_of, dtype=object)
    for row in rates.dropna(subset="full").itertuples():
        hit = expressed[row.genes.split(", ")].any(axis=1).to_numpy()
        full, background = np.clip([row.full, row.background], 0.01, TRUST_OTHERS)
        gain = np.where(hit, np.log(full / background), np.log((1 - full) / (1 - background)))
        total += np.where(of_type[codes] == row.type, gain, 0)[:, None] * (of_type == row.second)
    return total


def expressed_markers(X, genes: pd.Index, markers: Mapping[str, Mapping[str, list[str]]]) -> pd.DataFrame:
    """Which of all named markers each cell expresses, bool (cells x genes that are in the data)."""
    named = dict.fromkeys(gene for sets in markers.values() for kind in KINDS for gene in sets.get(kind, []))
    present = [gene for gene in named if gene in genes]
    values = count_matrix(X, genes, present) > 0 if present else np.empty((X.shape[0], 0), dtype=bool)
    return pd.DataFrame(values, columns=present)
