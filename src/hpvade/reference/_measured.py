"""What a bulk measures of a reference: genes that were looked at, what they say of the types, and with enough reads."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import listed, warn
from ..io._bulk import AlignedBulk, few_genes, genes_found, read_bulk
from ..io._gene_names import in_other_case, of_other_species

FLOOR = 5e-5  # share of the total below which a gene says little, as in `solvers.marker_genes`
_FOLD = 8.0  # a gene that differs by this factor or more is one gene's worth of information
# Over three cohorts, two references and eight kinds of panels (benchmarks/panels.py) the median per-type correlation is
# .2 to .5 with less than three genes' worth for the median pair, .45 to .65 below ten, .7 below forty, .8 beyond.
LOST, SUFFERS = 3.0, 10.0
_PARTIAL = 0.5  # a pair that keeps this share of the reference's information is not the bulk's fault
_CERTAIN_SHARE, _CERTAIN_READS = 2e-5, 50  # expected of every type: no composition explains that there are none
_FILLED, _MIN_FILLED, _ALIKE = 0.05, 10, 0.8
# Variance of the regression over that of counting alone, and the concentration of compositions that a prior stands
# for: where both meet, the error equals that of equal parts (four references, simulated; benchmarks/panels.py).
_INEFFICIENCY, _CONCENTRATION = 3.0, 2.0
_MANY_READS, _COUNTED = (
    1e5,
    0.1,
)  # more than any distinct types need; share of zeros that few reads leave, arrays do not


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples that lack the same genes.

    Attributes
    ----------
    name
        Of the batch; empty when all samples are in one.
    bulk
        Its samples.
    samples
        Their positions in the bulk.
    present
        bool (genes,): genes that take part.
    """

    name: str
    bulk: AlignedBulk
    samples: np.ndarray
    present: np.ndarray


def read_measured(
    bulk: AnnData,
    genes: pd.Index,
    types: list[str],
    share: np.ndarray,
    informative: np.ndarray,
    *,
    batch_key: str | None = None,
    split: bool = True,
    missing: str = "mean",
    **reading,
) -> list[Batch]:
    """Read bulk samples, and find what they measure of a reference.

    Genes without a single read in any sample of a batch, though every type of the reference expects many, count as not
    measured: a join filled them in. Batches are those of `batch_key`, or else groups of samples that are found by the
    genes they lack.

    Parameters
    ----------
    bulk
        Samples x genes, as for :func:`hpvade.io._bulk.read_bulk`.
    genes, types
        Names of the rows and columns of `share`.
    share
        (genes x types): expression of every type, columns sum to one.
    informative
        bool (genes,): genes that may tell types apart.
    batch_key
        Column of `bulk.obs`; every value is a cohort of its own.
    split
        Whether batches may use different genes; otherwise all samples use those that all have.
    missing
        ``"zero"``: all zeros are measurements, those of genes that the bulk lacks, too.
    **reading
        For :func:`hpvade.io._bulk.read_bulk`.

    Raises
    ------
    KeyError
        `batch_key` is no column of `bulk.obs`.
    ValueError
        Most pairs of types have less than three genes' worth of information left; see :func:`pair_information`. All
        errors of :func:`hpvade.io._bulk.read_bulk`.

    Warns
    -----
    UserWarning
        Genes are missing or filled in, with the pairs of types that suffer; samples have too few reads to say more
        than equal parts would.
    """
    labels = _labels(bulk, batch_key)
    aligned = read_bulk(bulk, genes, missing=missing, **reading)
    batches = list(_batches(aligned, share, None if labels is None else labels[aligned.usable], missing))
    if not split and len(batches) > 1:
        common = np.logical_and.reduce([batch.present for batch in batches])
        batches = [Batch("", closed_over(aligned, common), np.flatnonzero(aligned.usable), common)]
    _judge_genes(bulk, aligned, batches, pd.Index(genes), types, share, informative, missing)
    _judge_depth(batches, share, informative)
    return batches


def pair_information(share: np.ndarray, genes: np.ndarray) -> np.ndarray:
    r"""Information that tells two types apart (types x types): :math:`\sum_g \min(\log r_g / \log 8, 1)^2`.

    r is the ratio of the types' expression, either way up, with the floor of :func:`hpvade.solvers.marker_genes` added
    to both; a gene that differs eightfold or more counts one.

    Parameters
    ----------
    share
        (genes x types), columns sum to one over all genes.
    genes
        Index of the genes that count.

    Examples
    --------
    >>> import numpy as np
    >>> pair_information(np.array([[0.8, 0.1], [0.2, 0.2], [0.0, 0.7]]), np.array([0, 1, 2])).round(2)
    array([[0., 2.],
           [2., 0.]])
    """
    level = np.log(share[genes] + FLOOR) / np.log(_FOLD)
    return np.stack([np.minimum(np.square(level - one[:, None]), 1).sum(axis=0) for one in level.T])


def lost_pairs(share: np.ndarray, informative: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, ...]:
    """Which pairs of types `present` genes (genes,) tell apart no more, and the information with these and all genes.

    Each is (pairs,), in the order of `np.triu_indices`.
    """
    upper = np.triu_indices(share.shape[1], 1)
    full = pair_information(share, _markers(share, informative))[upper]
    left = pair_information(share, _markers(share, informative & present))[upper]
    return (left < _PARTIAL * full) & (left < LOST), left, full


def reads_needed(share: np.ndarray, genes: np.ndarray) -> float:
    r"""Reads from which on a sample says more than equal parts would.

    With N reads, counting alone leaves the covariance :math:`C A^{-1} C^\top / N` of the fractions, where
    :math:`A = \sum_g s_g s_g^\top / \mu_g` at equal parts and C takes off the part of the total. The median type's
    variance, times three for the robust regression, is compared with that of compositions drawn from a Dirichlet
    distribution of concentration two.

    Parameters
    ----------
    share
        (genes x types), columns sum to one over all genes.
    genes
        Index of the genes of the regression.
    """
    s, n_types = share[genes], share.shape[1]
    mean = s.mean(axis=1, keepdims=True)
    curvature = (s / np.maximum(mean, 1e-30)).T @ s
    curvature += 1e-9 * np.trace(curvature) / n_types * np.eye(n_types)
    centre = np.eye(n_types) - 1 / n_types
    variance = np.median(np.diag(centre @ np.linalg.pinv(curvature) @ centre.T))
    spread = (1 / n_types) * (1 - 1 / n_types) / (_CONCENTRATION * n_types + 1)
    return float(_INEFFICIENCY * variance / spread)


def placed(bulk: AnnData, columns, parts) -> pd.DataFrame:
    """A table (samples of the bulk x columns) of parts (positions, values); samples that were skipped are NaN."""
    values = np.full((bulk.n_obs, len(columns)), np.nan)
    for samples, part in parts:
        values[samples] = part
    return pd.DataFrame(values, index=bulk.obs_names.copy(), columns=columns)


def exceptions(bulk: AnnData, batches: list[Batch]) -> dict[str, pd.DataFrame]:
    """For `uns`: tables of the samples that were skipped, of batches and of what batch a sample is in, if any."""
    tables, skipped = {}, batches[0].bulk.skipped
    if skipped:
        tables["skipped"] = pd.DataFrame({"reason": list(skipped.values())}, index=pd.Index(skipped, name="sample"))
    if len(batches) > 1:
        counts = [(len(batch.samples), int((batch.bulk.present & batch.present).sum())) for batch in batches]
        names = pd.Index([batch.name for batch in batches], name="batch")
        tables["batches"] = pd.DataFrame(counts, index=names, columns=["n_samples", "n_genes"])
        labels = np.full(bulk.n_obs, "", dtype=object)
        for batch in batches:
            labels[batch.samples] = batch.name
        tables["batch_of"] = pd.DataFrame({"batch": labels}, index=bulk.obs_names.astype(str))
    return tables


def _labels(bulk: AnnData, batch_key: str | None) -> np.ndarray | None:
    if batch_key is None or not isinstance(bulk, AnnData):
        return None
    if batch_key not in bulk.obs:
        raise KeyError(f"batch_key={batch_key!r} is not a column of bulk.obs; found {list(bulk.obs.columns[:20])}.")
    values = bulk.obs[batch_key]
    if values.isna().any():
        sample = str(bulk.obs_names[values.isna().to_numpy().argmax()])
        raise ValueError(f"bulk.obs[{batch_key!r}] is missing for {sample!r}; expected a batch for every sample.")
    return values.astype(str).to_numpy(dtype=object)


def _batches(aligned: AlignedBulk, share: np.ndarray, labels: np.ndarray | None, missing: str) -> Iterator[Batch]:
    """Samples by the genes that they measure."""
    lowest = share.min(axis=1)
    if labels is None:
        labels = np.full(len(aligned.total), "", dtype=object)
        if missing != "zero":
            labels = _patterns(aligned, lowest)
    for name in pd.unique(labels):
        rows = np.flatnonzero(labels == name)
        part = aligned
        if len(rows) < len(labels):
            some = {field: getattr(aligned, field)[rows] for field in ("shares", "total", "depth", "obs_names")}
            part = replace(aligned, **some)
        filled = aligned.present & False if missing == "zero" else _filled(part, lowest)
        present = (aligned.present | (missing == "zero")) & ~filled
        yield Batch(name, part, np.flatnonzero(aligned.usable)[rows], present)


def closed_over(aligned: AlignedBulk, genes: np.ndarray) -> AlignedBulk:
    """The same samples as if they had no other genes (bool): a total over more genes is another unit."""
    shares = aligned.shares * genes
    kept = shares.sum(axis=1, dtype=np.float64)
    if not kept.all():
        raise ValueError(
            f"{listed(aligned.obs_names[kept == 0])} have no expression of the genes that all batches measure. "
            "Use each batch by itself."
        )
    shares /= kept[:, None].astype(np.float32)
    return replace(aligned, shares=shares, total=aligned.total * kept, depth=aligned.depth * kept)


def _filled(part: AlignedBulk, lowest: np.ndarray) -> np.ndarray:
    """Genes (bool) that a join filled with zeros.

    Genes that every type of the reference must show prove it. Where they are many, the others without any read are
    taken for filled, too: among them are markers, whose zeros would say that a type is absent.
    """
    reads = part.depth.sum()
    zero = part.present & ~(part.shares > 0).any(axis=0)
    certain = part.present & (lowest >= _CERTAIN_SHARE) & (lowest * reads >= _CERTAIN_READS)
    proven = zero & certain
    return zero if proven.sum() >= max(_FILLED * certain.sum(), 1) else proven


def _patterns(aligned: AlignedBulk, lowest: np.ndarray) -> np.ndarray:
    """Names of groups of samples (samples,) by the genes that they lack, though others have them; mostly one group."""
    labels = np.full(len(aligned.total), "", dtype=object)
    seen = aligned.shares > 0
    genes = np.flatnonzero(aligned.present & (lowest >= _CERTAIN_SHARE) & seen.any(axis=0))
    certain = lowest[genes] >= (_CERTAIN_READS / aligned.depth)[:, None]
    lacks = certain & ~seen.take(genes, axis=1)
    n_lacking = np.count_nonzero(lacks, axis=1)
    left = (n_lacking >= _MIN_FILLED) & (n_lacking >= _FILLED * np.count_nonzero(certain, axis=1))
    number = 0
    while left.any():
        first = left.argmax()
        comparable = certain & certain[first]  # a shallow sample is certain of few genes
        both, either = lacks & lacks[first], (lacks | lacks[first]) & comparable
        group = left & both.any(axis=1) & (both.sum(axis=1) >= _ALIKE * either.sum(axis=1))
        number += 1
        labels[group] = f"group {number}"
        left &= ~group
    if number and (labels == "").any():
        labels[labels == ""] = "others"
    return labels


def _judge_genes(bulk, aligned, batches, genes, types, share, informative, missing: str) -> None:
    """Refuse a bulk that tells most types apart no more; one warning about genes and the pairs that suffer."""
    measured = [aligned.present & batch.present for batch in batches]
    if all(present.all() for present in measured):
        return
    if aligned.present.mean() < 0.5 and of_other_species(bulk.var_names.astype(str), genes):
        # the few names that two species share can tell types apart, and mean other genes
        raise ValueError(few_genes(bulk, genes, aligned.present, "the species differ"))
    full = pair_information(share, _markers(share, informative))
    upper = np.triu_indices(len(types), 1)
    said = []
    if not aligned.present.all():
        effect = "take no part in the estimate" if missing != "zero" else "count as not expressed"
        said.append(f"{genes_found(genes, aligned.present)} They {effect}.")
        said += in_other_case(bulk.var_names.astype(str), genes[~aligned.present])
    for batch, present in zip(batches, measured, strict=True):
        left = pair_information(share, _markers(share, informative & present))[upper]
        partial = left < _PARTIAL * full[upper]
        if (partial & (left < LOST)).mean() > 0.5:
            needed = (
                f"the typical pair of types is told apart by {np.median(left):.1f} genes' worth of information where "
                f"the reference has {np.median(full[upper]):.0f}; at least {LOST:.0f} are needed for most pairs"
            )
            raise ValueError(few_genes(bulk, genes, present, needed))
        where = f" in {batch.name!r} ({len(batch.samples)} samples: {listed(batch.bulk.obs_names, 3)})" * bool(
            batch.name
        )
        if filled := int((aligned.present & ~present).sum()):
            examples = list(genes[aligned.present & ~present][:3])
            said.append(
                f"{filled} genes, such as {examples}, have no read in any sample{where}, though the reference expects "
                "many, as after a join that fills with zeros: they count as not measured. Pass missing='zero' if they "
                "are measurements."
            )
        suffers = np.flatnonzero(partial & (left < SUFFERS))
        if len(suffers):
            suffers = suffers[left[suffers].argsort(kind="stable")]
            pairs = [f"{types[i]} / {types[j]}" for i, j in zip(*(x[suffers] for x in upper), strict=True)]
            said.append(
                f"{len(pairs)} of {len(left)} pairs of types are told apart by less than {SUFFERS:.0f} genes' worth of "
                f"information{where}, so that their shares may be mistaken for each other: {listed(pairs)}."
            )
    if said:
        warn(" ".join(said))


def _markers(share: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Index of the genes that the regression would take; none if no two types can be told apart."""
    import torch  # here: importing `tl` must not load it

    from ..solvers import marker_genes

    try:
        return marker_genes(torch.from_numpy(share), torch.from_numpy(allowed)).numpy()
    except ValueError:
        return np.zeros(0, dtype=np.int64)


def _judge_depth(batches: list[Batch], share: np.ndarray, informative: np.ndarray) -> None:
    """One warning that names the samples with too few reads."""
    shallow, needed = [], 0.0
    for batch in batches:
        few = batch.bulk.depth < _MANY_READS
        zeros = (batch.bulk.shares[few][:, batch.present] == 0).mean(axis=1)
        few[few] = zeros >= _COUNTED
        if not few.any():
            continue
        limit = reads_needed(share, _markers(share, informative & batch.present))
        limit *= share[batch.present].sum() / share.shape[1]  # of the reads, those in genes that are measured
        needed = max(needed, limit)
        for i in np.flatnonzero(few & (batch.bulk.depth < limit)):
            shallow.append(f"{str(batch.bulk.obs_names[i])!r} ({batch.bulk.depth[i]:.0f})")
    if shallow:
        warn(
            f"{len(shallow)} samples have too few reads in the model's genes to say more than equal parts of all types "
            f"would, of which about {needed:.0f} are needed: {listed(shallow, 20)}. Leave them out, or add up samples."
        )
