"""Labels from an anchor: regularised logistic regression on genes that both sides express. Arrays in, arrays out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from ..io._rows import iter_rows

MIN_LEVEL = 0.05  # mean log1p cp10k of a gene that counts as expressed
MIN_GENES = 100  # fewer shared and expressed genes do not tell types apart
_C = 0.002  # strong: cells of another platform differ in every gene a little
_BINS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_FOLDS = 5


@dataclass(frozen=True, eq=False)
class Classifier:
    """A linear classifier of standardised log1p cp10k, and how it did on anchor cells that it had not seen."""

    types: np.ndarray
    """Names, (types,)."""
    genes: np.ndarray
    """Names, (genes,)."""
    coefficients: np.ndarray
    """(types x genes)."""
    intercepts: np.ndarray
    """(types,)."""
    truth: np.ndarray
    """Index of the type of every anchor cell, (cells,)."""
    held_out: np.ndarray
    """Probabilities of every anchor cell by a classifier of the other folds, (cells x types)."""


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Softmax of scores, (cells x types)."""
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def entropy(probability: np.ndarray) -> np.ndarray:
    """Entropy of every row as a share of the largest possible: 0 is certain, 1 is evenly spread."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(probability > 0, probability * np.log(probability), 0.0)
    return -terms.sum(axis=1) / np.log(probability.shape[1])


def log_blocks(X, columns: np.ndarray, keep: np.ndarray) -> Iterator[tuple[slice, sparse.csr_matrix]]:
    """Log1p counts per 10,000 of the cells in `keep` and the genes in `columns`, and where they lie among the kept."""
    start = 0
    for rows, block in iter_rows(X):
        block = block[keep[rows]]
        size = block.sum(axis=1).A1
        block = sparse.diags(1e4 / np.maximum(size, 1e-12)) @ block[:, columns]
        yield slice(start, start + block.shape[0]), sparse.csr_matrix(block.log1p())
        start += block.shape[0]


def moments(X, columns: np.ndarray, keep: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every gene in each group of the kept cells, each (groups x genes)."""
    n_groups = int(groups.max()) + 1
    total, squares = (np.zeros((n_groups, len(columns))) for _ in range(2))
    for rows, block in log_blocks(X, columns, keep):
        member = sparse.csr_matrix(
            (np.ones(block.shape[0]), (groups[rows], np.arange(block.shape[0]))), (n_groups, block.shape[0])
        )
        total += (member @ block).toarray()
        squares += (member @ block.multiply(block)).toarray()
    n = np.bincount(groups, minlength=n_groups)[:, None]
    mean = total / n
    return mean, np.sqrt(np.maximum(squares / n - mean**2, 0))


def shared_genes(
    X, genes: pd.Index, keep: np.ndarray, anchor_X, anchor_genes: pd.Index, anchor_keep: np.ndarray
) -> pd.Index:
    """Genes that both sides express, in the order of `genes`.

    Raises
    ------
    ValueError
        There are fewer than 100; says what the names look like.
    """
    shared = genes.intersection(anchor_genes, sort=False)
    used = shared
    for matrix, names, cells in ((X, genes, keep), (anchor_X, anchor_genes, anchor_keep)):
        if len(used):
            mean, _ = moments(matrix, names.get_indexer(used), cells, np.zeros(cells.sum(), dtype=int))
            used = used[mean[0] > MIN_LEVEL]
    if len(used) < MIN_GENES:
        raise ValueError(
            f"Data and anchor share {len(shared)} genes, {len(used)} of them expressed on both sides; at least "
            f"{MIN_GENES} are needed. The data know {list(genes[:3])}, the anchor {list(anchor_genes[:3])}. "
            f"{_advice(genes, anchor_genes)}"
        )
    return used


def _advice(genes: pd.Index, anchor_genes: pd.Index) -> str:
    genes, anchor_genes = genes.astype(str), anchor_genes.astype(str)
    if genes.str.casefold().isin(anchor_genes.str.casefold()).sum() >= MIN_GENES > genes.isin(anchor_genes).sum():
        return (
            "The names differ in upper and lower case only, as human and mouse symbols do: take an anchor of the same "
            "species."
        )
    ids = [names.str.match(r"ENS[A-Z]*G\d{6}").mean() > 0.5 for names in (genes, anchor_genes)]
    if ids[0] != ids[1]:
        which, call = ("data have", "adata, anchor") if ids[0] else ("anchor has", "anchor, adata")
        return f"The {which} Ensembl ids: translate them with `hp.pp.map_genes({call})`."
    return "Use data with more genes, or an anchor of the same species with the same kind of gene names."


def fit_classifier(
    X, genes: pd.Index, labels: np.ndarray, keep: np.ndarray, used: pd.Index, *, seed: int = 0
) -> Classifier:
    """Learn the types of the kept anchor cells from the genes in `used`, standardised; classes weigh the same.

    `held_out` comes from stratified cross-validation with five folds, fewer where a type has fewer cells.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    columns = genes.get_indexer(used)
    values = np.vstack([block.toarray() for _, block in log_blocks(X, columns, keep)])
    sd = values.std(axis=0)
    values = (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1)
    types, truth = np.unique(labels[keep].astype(str), return_inverse=True)
    model = LogisticRegression(C=_C, class_weight="balanced", max_iter=1000)
    folds = StratifiedKFold(max(2, min(_FOLDS, np.bincount(truth).min())), shuffle=True, random_state=seed)
    held_out = cross_val_predict(model, values, truth, cv=folds, method="predict_proba")
    model.fit(values, truth)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(types) == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercepts = np.vstack([-coefficients, coefficients]) / 2, np.array([-1, 1]) * intercepts / 2
    return Classifier(types, used.to_numpy(), coefficients, intercepts, truth, held_out)


def predict(
    classifier: Classifier, X, genes: pd.Index, keep: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """Probabilities (kept cells x types); every group of the kept cells is standardised by itself."""
    groups = np.zeros(int(keep.sum()), dtype=int) if groups is None else groups
    columns = genes.get_indexer(pd.Index(classifier.genes))
    mean, sd = moments(X, columns, keep, groups)
    inverse = np.where(sd > 0, 1 / np.where(sd > 0, sd, 1), 0)
    scores = np.empty((int(keep.sum()), len(classifier.types)))
    for rows, block in log_blocks(X, columns, keep):
        for group in np.unique(groups[rows]):
            at = groups[rows] == group
            weights = classifier.coefficients * inverse[group]
            scores[np.arange(rows.start, rows.stop)[at]] = block[at] @ weights.T + (
                classifier.intercepts - weights @ mean[group]
            )
    return probabilities(scores)


def calibration(classifier: Classifier) -> pd.DataFrame:
    """By bin of the best probability of held-out anchor cells: cells, mean probability, share that is right."""
    best, right = classifier.held_out.max(axis=1), classifier.held_out.argmax(axis=1) == classifier.truth
    table = pd.DataFrame({"bin": pd.cut(best, _BINS, include_lowest=True), "probability": best, "correct": right})
    table = table.groupby("bin", observed=True).agg(
        n_cells=("correct", "size"), probability=("probability", "mean"), correct=("correct", "mean")
    )
    table.index = [f"{max(bin.left, 0):g}-{bin.right:g}" for bin in table.index]
    return table


def right_below(classifier: Classifier, bound: float) -> float:
    """Share of the held-out anchor cells below a bound of probability that are called rightly; NaN without any."""
    below = classifier.held_out.max(axis=1) < bound
    right = classifier.held_out.argmax(axis=1) == classifier.truth
    return float(right[below].mean()) if below.any() else np.nan


def accuracy(classifier: Classifier, min_probability: float) -> pd.DataFrame:
    """Per type, for held-out anchor cells: cells, share found (recall), share of the calls that is right (precision).

    `kept` is the share of the cells whose best probability reaches the bound; recall and precision are of these.
    """
    best, call = classifier.held_out.max(axis=1), classifier.held_out.argmax(axis=1)
    kept, rows = best >= min_probability, {}
    for index, name in enumerate(classifier.types):
        own, called = classifier.truth == index, kept & (call == index)
        with np.errstate(invalid="ignore"):
            rows[name] = {
                "n_cells": int(own.sum()),
                "kept": float(kept[own].mean()),
                "recall": float((own & called).sum() / max((own & kept).sum(), 1)),
                "precision": float((own & called).sum() / max(called.sum(), 1)),
            }
    return pd.DataFrame.from_dict(rows, orient="index")
