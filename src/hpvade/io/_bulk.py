"""Bulk samples as the model needs them: genes aligned by name, linear scale, nothing silently wrong."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from ._gene_names import explain_mismatch, refuse_duplicates
from ._rows import in_memory, is_integer, iter_rows, pick_matrix, refuse_bad_values

InputType = Literal["auto", "counts", "cpm", "tpm", "fpkm", "log2", "log1p"]
Missing = Literal["mean", "zero", "error"]

_MIN_OVERLAP = 0.5
_LOGGED_MAX = 30  # 2**30 is more than any library holds
_LOGGED_CP10K_MAX = 13.3  # log2(1e4): logs above it come from counts per million or intensities, which have short tails
_HEAVY_TAIL = 10  # maximum / 90 % quantile: above 15 on linear transcriptomes, below 6 on logs of counts per million
_N_HEAD = 64  # samples whose distribution is looked at
_UNDO = {"log2": np.exp2, "log1p": np.expm1}


@dataclass(frozen=True, eq=False)
class AlignedBulk:
    """Bulk samples on the model's genes.

    Attributes
    ----------
    values
        float32 (samples x model genes) on linear scale; zeros where the bulk lacks the gene.
    present
        bool (model genes,): whether the bulk has the gene.
    input_type
        What was asked for, or what `"auto"` found: `"counts"` or `"normalized"`.
    overlap
        Share of the model's genes that the bulk has.
    obs_names
        Names of the samples.
    totals
        float64 (samples,): sum over all genes of the bulk on linear scale, also those the model does not know.
    """

    values: np.ndarray
    present: np.ndarray
    input_type: str
    overlap: float
    obs_names: pd.Index
    totals: np.ndarray


def detect_units(X) -> Literal["counts", "normalized", "log"]:
    """Tell counts, linear normalised values and logged values apart.

    Whole numbers are counts. Other values are linear when the maximum exceeds 30, since logs of expression stay below.
    At or below 30 they count as logged unless something speaks for linear values:

    - no sample sums to more than one (fractions);
    - every sample sums to a power of ten, as percentages or counts per thousand do, or all sums are equal and the tail
      is heavy (quantile-normalised logs have equal sums, too, but short tails);
    - the maximum exceeds 13.3 = log2(1e4), more than logs of counts per ten thousand can be, and the tail is heavy.

    A tail is heavy when the maximum of the typical sample is over ten times the 90 % quantile of its values above zero
    (15 to 300 on linear transcriptomes, 2 to 5 on logs of counts per million). Sums and tails are taken from up to 64
    samples. Doubtful cases, such as few genes with low values, count as logged: a question is better than wrong
    proportions. Negative values count as logged.

    Parameters
    ----------
    X
        Matrix (samples x genes) of finite values, of any kind that `iter_rows` reads.

    Examples
    --------
    >>> import numpy as np
    >>> tpm = np.array([[120.5, 3.2, 0.0], [90.1, 7.7, 1.5]])
    >>> detect_units(np.round(tpm)), detect_units(tpm), detect_units(np.log1p(tpm))
    ('counts', 'normalized', 'log')
    """
    scan = _Scan()
    for _, block in iter_rows(X, dense=True):
        scan.add(block)
    return scan.units()


class _Scan:
    """What `detect_units` needs to know of a matrix, gathered block by block."""

    def __init__(self):
        self.lowest, self.highest, self.whole, self.head = np.inf, -np.inf, True, None

    def add(self, block: np.ndarray) -> None:
        self.lowest = min(self.lowest, float(block.min(initial=np.inf)))
        self.highest = max(self.highest, float(block.max(initial=-np.inf)))
        self.whole = self.whole and bool((np.rint(block) == block).all() or is_integer(block).all())  # exact is faster
        if self.head is None:
            self.head = block[:_N_HEAD].astype(np.float64)

    def units(self) -> Literal["counts", "normalized", "log"]:
        if self.lowest < 0:
            return "log"
        if self.whole:
            return "counts"
        return "normalized" if self.highest > _LOGGED_MAX or self._is_linear() else "log"

    def _is_linear(self) -> bool:
        sums = self.head.sum(axis=1)
        if sums.max() <= 1 + 1e-4:
            return True
        sums, rows = sums[sums > 0], self.head[sums > 0]
        powers = 10.0 ** np.round(np.log10(sums))
        if np.allclose(sums, powers, rtol=1e-4):
            return True
        equal_sums = len(sums) > 1 and np.allclose(sums, sums.mean(), rtol=1e-4)
        heavy = np.median([row.max() / np.quantile(row[row > 0], 0.9) for row in rows]) > _HEAVY_TAIL
        return bool(heavy and (equal_sums or self.highest > _LOGGED_CP10K_MAX))


def read_bulk(
    bulk: AnnData,
    genes: Sequence[str],
    *,
    layer: str | None = None,
    input_type: InputType = "auto",
    missing: Missing = "mean",
    gene_length_key: str | None = None,
) -> AlignedBulk:
    """Check bulk samples and bring them to the model's genes, by name, on linear scale.

    The matrix is read once, in blocks of rows; `bulk` is never changed; it may be a view, backed or made of Dask
    arrays.

    Parameters
    ----------
    bulk
        Bulk (samples x genes) in any gene order; genes that the model does not know are ignored.
    genes
        Gene names of the model, each once.
    layer
        Layer to read; `bulk.X` when None.
    input_type
        Unit of the values. `"auto"` tells by `detect_units` and refuses logged values. `"counts"`, `"cpm"`, `"tpm"` and
        `"fpkm"` are linear and taken as they are. Logs are undone on request: `"log1p"` with exp(x) - 1; `"log2"` with
        2**x - 1 when the minimum is exactly 0, which log2(x + 1) gives for absent genes, and 2**x otherwise (arrays,
        logs of values with an offset; negative logs are fine).
    missing
        What to do when the bulk lacks up to half of the genes: warn (`"mean"`, `"zero"`) or raise (`"error"`). How
        they are filled in is the model's work; here they are zero and not `present`.
    gene_length_key
        Column of `bulk.var` with transcript lengths in base pairs. Counts are divided by the length in kilobases, which
        brings full-length protocols to the scale of UMI counts.

    Raises
    ------
    TypeError
        `bulk` is not an AnnData, or its matrix is of an unknown kind.
    KeyError
        `layer` or `gene_length_key` is absent.
    ValueError
        An unknown option; no samples or genes; duplicate gene names; fewer than half of the genes found; NaN, infinite
        or negative values; values that look logged; a sample without expression; unusable gene lengths.

    Warns
    -----
    UserWarning
        Some genes are missing; values look logged but `input_type` says that they are linear.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> bulk = anndata.AnnData(np.array([[5.0, 1.0, 40.0]]), var=pd.DataFrame(index=["CD3E", "ACTB", "MS4A1"]))
    >>> read_bulk(bulk, ["MS4A1", "CD3E"]).values
    array([[40.,  5.]], dtype=float32)
    """
    _check_option("input_type", input_type, InputType)
    _check_option("missing", missing, Missing)
    if not isinstance(bulk, AnnData):
        raise TypeError(
            f"The bulk is a {type(bulk).__qualname__}; expected an AnnData of samples x genes, such as "
            "`anndata.AnnData(table)` for a DataFrame with one row per sample."
        )
    if not (bulk.n_obs and bulk.n_vars):
        raise ValueError(f"The bulk is empty: {bulk.n_obs} samples x {bulk.n_vars} genes.")
    X, name = pick_matrix(bulk, layer, "bulk")
    weights = None if gene_length_key is None else _inverse_lengths(bulk, gene_length_key, input_type)
    refuse_duplicates(bulk.var_names, "bulk")
    genes = pd.Index(genes)
    columns = bulk.var_names.get_indexer(genes)
    present = columns >= 0
    _check_overlap(bulk, genes, present, missing)

    scan, undo = _Scan(), _UNDO.get(input_type)
    values = np.empty((bulk.n_obs, len(genes)), dtype=np.float32)
    in_order = np.array_equal(columns, np.arange(bulk.n_vars))
    totals = np.zeros(bulk.n_obs)
    for rows, block in iter_rows(X, chunk_rows=512, dense=True):
        refuse_bad_values(block, rows, name, bulk.obs_names, bulk.var_names, negative=input_type == "log2")
        scan.add(block)
        if undo is not None:
            _refuse_not_logged(scan, name, input_type)
            block = undo(block.astype(np.float64))
        if weights is not None:
            block *= weights
        totals[rows] = block.sum(axis=1, dtype=np.float64)
        values[rows] = block if in_order else block.take(columns, axis=1, mode="clip")
    values[:, ~present] = 0
    if input_type == "log2" and scan.lowest == 0:
        values[:, present] -= 1
        totals -= bulk.n_vars
    found = _settle_units(scan, name, input_type, gene_length_key)
    _refuse_empty_samples(name, bulk.obs_names, totals, values.sum(axis=1))
    return AlignedBulk(values, present, found, float(present.mean()), bulk.obs_names.copy(), totals)


def _check_option(argument: str, value, choices) -> None:
    if value not in get_args(choices):
        raise ValueError(
            f"{argument}={value!r} is not known; expected one of {', '.join(map(repr, get_args(choices)))}."
        )


def _inverse_lengths(bulk: AnnData, key: str, input_type: str) -> np.ndarray:
    """One over the length in kilobases (genes of the bulk,), float32."""
    if input_type not in ("auto", "counts"):
        raise ValueError(f"gene_length_key applies to counts, but input_type={input_type!r}; leave one of them out.")
    if key not in bulk.var.columns:
        raise KeyError(f"gene_length_key={key!r} is not a column of bulk.var; found {list(bulk.var.columns[:20])}.")
    lengths = pd.to_numeric(in_memory(bulk.var[[key]])[key], errors="coerce").to_numpy(
        dtype=np.float64, na_value=np.nan
    )
    bad = ~((lengths > 0) & np.isfinite(lengths))
    if bad.any():
        raise ValueError(
            f"bulk.var[{key!r}] has no usable length for {bad.sum()} of {bulk.n_vars} genes, the first is "
            f"{str(bulk.var_names[bad.argmax()])!r}; expected base pairs > 0. Remove these genes or fill them in."
        )
    return (1e3 / lengths).astype(np.float32)


def _check_overlap(bulk: AnnData, genes: pd.Index, present: np.ndarray, missing: str) -> None:
    n_missing = int((~present).sum())
    if not n_missing:
        return
    found = f"{present.sum()} of the model's {len(genes)} genes ({present.mean():.1%})"
    if present.mean() < _MIN_OVERLAP:
        raise ValueError(
            f"The bulk has {found}; at least {_MIN_OVERLAP:.0%} are needed. The model knows {list(genes[:3])}, "
            f"bulk.var_names has {list(bulk.var_names[:3])}. {explain_mismatch(bulk, genes)}"
        )
    lost = f"missing are {n_missing} ({n_missing / len(genes):.1%}), such as {list(genes[~present][:3])}"
    if missing == "error":
        raise ValueError(f"The bulk has {found}; {lost}. Add them, or pass missing='mean' to go on without them.")
    effect = "take no part in the estimate" if missing == "mean" else "count as not expressed"
    warnings.warn(f"The bulk has {found}; {lost}. They {effect}.", UserWarning, stacklevel=3)


def _refuse_not_logged(scan: _Scan, name: str, input_type: str) -> None:
    if scan.highest > _LOGGED_MAX:
        raise ValueError(
            f"{name} has a maximum of {scan.highest:.4g}, too large for a logarithm, but input_type={input_type!r}. "
            "Leave input_type='auto' or name a linear unit."
        )


def _settle_units(scan: _Scan, name: str, input_type: str, gene_length_key: str | None) -> str:
    """The unit to report; ValueError when it is not what the caller needs."""
    if input_type in _UNDO:
        return input_type
    found = scan.units()
    span = f"maximum {scan.highest:.4g}, minimum {scan.lowest:.4g}"
    if input_type == "auto":
        if found == "log":
            raise ValueError(
                f"{name} looks log-transformed: {span}, not integers; expected counts, CPM, TPM or FPKM on linear "
                "scale. Pass linear values, or have the log undone with input_type='log1p' (natural log of x + 1) or "
                "input_type='log2'. If the values are linear, say so with input_type='tpm'."
            )
        if found != "counts" and gene_length_key is not None:
            raise ValueError(
                f"gene_length_key applies to counts, but {name} holds values that are not integers ({span}). Leave "
                "gene_length_key out, or pass input_type='counts' if they are estimated counts."
            )
        return found
    if found == "log":
        message = f"{name} looks log-transformed ({span}) but is taken as linear, as input_type={input_type!r} says."
        warnings.warn(message, UserWarning, stacklevel=3)
    return input_type


def _refuse_empty_samples(name: str, obs_names: pd.Index, totals: np.ndarray, model_totals: np.ndarray) -> None:
    for sums, what in ((totals, "no expression at all"), (model_totals, "no expression of any of the model's genes")):
        empty = obs_names[~(sums > 0)]
        if len(empty):
            raise ValueError(
                f"{name} has {len(empty)} samples with {what}: {', '.join(map(repr, map(str, empty[:3])))}"
                f"{', ...' if len(empty) > 3 else ''}. Remove them."
            )
