"""Bulk samples as the model needs them: genes aligned by name, linear scale, nothing silently wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from .._text import listed, warn
from ._frames import as_bulk
from ._gene_names import explain_mismatch, refuse_duplicates
from ._rows import in_memory, iter_rows, pick_matrix
from ._units import LOGGED_MAX, Scan, follow_logs

InputType = Literal["auto", "counts", "cpm", "tpm", "fpkm", "log2", "log1p"]
Missing = Literal["mean", "zero", "error"]
OnBadSample = Literal["raise", "skip"]

MAX_DEPTH = 5e6  # reads in genes beyond which counting noise no longer matters
_LARGEST, _SMALLEST = 1e30, 1e-30  # of a sample's largest value: sums and shares then fit into float32
_UNDO = {"log2": np.exp2, "log1p": np.expm1}
_NAMED = 100  # samples and reasons that a message lists


@dataclass(frozen=True, eq=False)
class AlignedBulk:
    """Bulk samples on the model's genes.

    Attributes
    ----------
    shares
        float32 (usable samples x model genes): shares of the sample's total over these genes, on linear scale; zeros
        where the bulk lacks the gene.
    total
        float64 (usable samples,): sum over the model's genes in the bulk's units.
    depth
        float64 (usable samples,): counts that the total stands for, at most 5e6. The smallest value above zero is one
        count in any scaling of counts.
    present
        bool (model genes,): whether the bulk has the gene.
    input_type
        What was asked for, or what `"auto"` found: `"counts"` or `"normalized"`.
    obs_names
        Names of the usable samples.
    usable
        bool (samples of the bulk,): all but those that were skipped.
    skipped
        Why samples were skipped, ``{name: reason}``.
    """

    shares: np.ndarray
    total: np.ndarray
    depth: np.ndarray
    present: np.ndarray
    input_type: str
    obs_names: pd.Index
    usable: np.ndarray
    skipped: dict[str, str]

    @property
    def overlap(self) -> float:
        """Share of the model's genes that the bulk has."""
        return float(self.present.mean())


def read_bulk(
    bulk: AnnData,
    genes: Sequence[str],
    *,
    layer: str | None = None,
    input_type: InputType = "auto",
    missing: Missing = "mean",
    gene_length_key: str | None = None,
    on_bad_sample: OnBadSample = "raise",
) -> AlignedBulk:
    """Check bulk samples and bring them to the model's genes, by name, on linear scale.

    The matrix is read once, in blocks of rows; `bulk` is never changed; it may be a view, backed or made of Dask
    arrays. Whether the genes that the bulk has are enough is judged in :mod:`hpvade.reference._measured`, which knows
    what they say.

    Parameters
    ----------
    bulk
        Bulk (samples x genes), an AnnData or a DataFrame, in any gene order; genes that the model does not know are
        ignored.
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
        `"error"` refuses a bulk that lacks genes of the model.
    gene_length_key
        Column of `bulk.var` with transcript lengths in base pairs. Counts are divided by the length in kilobases, which
        brings full-length protocols to the scale of UMI counts.
    on_bad_sample
        Samples with NaN, infinite or negative values, without expression, or with values that no float32 holds: refuse
        the bulk and name them all (`"raise"`), or go on without them and name them in a warning (`"skip"`). Samples
        that look logged among linear ones are skipped with the warning either way: that is a judgement, and
        `input_type` overrules it.

    Raises
    ------
    TypeError
        `bulk` is not an AnnData, or its matrix is of an unknown kind.
    KeyError
        `layer` or `gene_length_key` is absent.
    ValueError
        An unknown option; no samples or genes; duplicate gene names; no gene of the model found; bad samples, or no
        others; values that look logged; unusable gene lengths.

    Warns
    -----
    UserWarning
        Samples are skipped; values look logged but `input_type` says that they are linear.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> bulk = anndata.AnnData(np.array([[5.0, 1.0, 45.0]]), var=pd.DataFrame(index=["CD3E", "ACTB", "MS4A1"]))
    >>> read_bulk(bulk, ["MS4A1", "CD3E"]).shares.astype(float).round(1).tolist()
    [[0.9, 0.1]]
    """
    _check_option("input_type", input_type, InputType)
    _check_option("missing", missing, Missing)
    _check_option("on_bad_sample", on_bad_sample, OnBadSample)
    bulk = as_bulk(bulk)
    if not (bulk.n_obs and bulk.n_vars):
        raise ValueError(
            f"The bulk is empty: {bulk.n_obs} samples x {bulk.n_vars} genes. Expected some of both: see what was "
            "filtered before."
        )
    X, name = pick_matrix(bulk, layer, "bulk")
    weights = None if gene_length_key is None else _inverse_lengths(bulk, gene_length_key, input_type)
    refuse_duplicates(bulk.var_names, "bulk")
    genes = pd.Index(genes)
    columns = bulk.var_names.get_indexer(genes)
    present = columns >= 0
    _check_names(bulk, genes, present, missing)

    scan, bad, undo = Scan(bulk.n_obs), {}, _UNDO.get(input_type)
    values = np.empty((bulk.n_obs, len(genes)), dtype=np.float32)
    in_order = np.array_equal(columns, np.arange(bulk.n_vars))
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):  # of samples that are then refused by name
        for rows, block in iter_rows(X, chunk_rows=512, dense=True):
            scan.add(rows, block)
            bad |= _bad_values(scan, rows, block, bulk.var_names, input_type)
            if undo is not None:
                block = undo(block.astype(np.float64))
            if weights is not None:
                block *= weights
            values[rows] = block if in_order else block.take(columns, axis=1, mode="clip")
    values[:, ~present] = 0
    if undo is not None:
        _refuse_not_logged(scan, name, input_type)
    scan.leave_out(bad)
    logged = _logged_samples(scan, values, name, bulk.obs_names, input_type)
    scan.leave_out(logged)
    found = _settle_units(scan, name, input_type, gene_length_key)
    if input_type == "log2" and (scan.lowest == 0).any() and np.nanmin(scan.lowest) == 0:
        values[:, present] -= 1
    with np.errstate(invalid="ignore"):  # infinities of both signs, refused below
        total = values.sum(axis=1, dtype=np.float64)
    bad |= _without_expression(scan, total, bad | logged, input_type)
    usable = _settle_samples(bad, logged, name, bulk.obs_names, on_bad_sample)
    if not usable.all():
        values, total = values[usable], total[usable]
    depth = (total / _smallest_above_zero(values)).clip(max=MAX_DEPTH)
    values *= (1 / total).astype(np.float32)[:, None]
    skipped = {str(bulk.obs_names[i]): reason for i, reason in sorted((bad | logged).items())}
    return AlignedBulk(values, total, depth, present, found, bulk.obs_names[usable], usable, skipped)


def _smallest_above_zero(values: np.ndarray) -> np.ndarray:
    """Of each row; float32 and none below zero, whose order is that of their bits, where zero minus one is largest."""
    bits, least = values.view(np.uint32), np.empty(len(values), dtype=np.uint32)
    for rows in range(0, len(bits), 64):  # blocks that stay in the processor's cache
        least[rows : rows + 64] = (bits[rows : rows + 64] - np.uint32(1)).min(axis=1)
    return (least + np.uint32(1)).view(np.float32)


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


def _check_names(bulk: AnnData, genes: pd.Index, present: np.ndarray, missing: str) -> None:
    if not present.any():
        raise ValueError(few_genes(bulk, genes, present))
    if missing == "error" and not present.all():
        raise ValueError(f"{genes_found(genes, present)} Add them, or pass missing='mean' to go on without them.")


def genes_found(genes: pd.Index, present: np.ndarray) -> str:
    """A sentence with the number of the model's genes that the bulk has and lacks."""
    n_missing = int((~present).sum())
    return (
        f"The bulk has {present.sum()} of the model's {len(genes)} genes ({present.mean():.1%}); missing are "
        f"{n_missing} ({n_missing / len(genes):.1%}), such as {list(genes[~present][:3])}."
    )


def few_genes(bulk: AnnData, genes: pd.Index, present: np.ndarray, needed: str = "they are aligned by name") -> str:
    """The message of a bulk that lacks too many genes: how many are there, and what probably went wrong."""
    return (
        f"The bulk has {present.sum()} of the model's {len(genes)} genes ({present.mean():.1%}); {needed}. The model "
        f"knows {list(genes[:3])}, bulk.var_names has {list(bulk.var_names[:3])}. {explain_mismatch(bulk, genes)}"
    )


def _bad_values(scan: Scan, rows: slice, block: np.ndarray, genes: pd.Index, input_type: str) -> dict[int, str]:
    """Samples of a block whose values cannot be used, and why."""
    low, high = scan.lowest[rows], scan.highest[rows]
    logged = input_type in _UNDO
    lowest = -np.inf if input_type == "log2" else 0
    reasons = {}
    for i in np.flatnonzero(~((low >= lowest) & (low > -np.inf) & (high < np.inf))):  # NaN fails
        at = int(np.argmax(~np.isfinite(block[i]) | (block[i] < lowest)))
        value = block[i, at]
        kind = "NaN" if np.isnan(value) else "an infinite value" if np.isinf(value) else f"a negative value ({value:g})"
        reasons[rows.start + i] = f"{kind} at var {str(genes[at])!r}"
    if logged:
        for i in np.flatnonzero((high > LOGGED_MAX) & (high < np.inf)):
            reasons.setdefault(rows.start + i, f"a maximum of {high[i]:.4g}, too large for a logarithm")
    else:
        for i in np.flatnonzero((high > _LARGEST) & (high < np.inf) | (high < _SMALLEST) & (high > 0)):
            reasons.setdefault(
                rows.start + i, f"a maximum of {high[i]:.3g}, outside of {_SMALLEST:g} to {_LARGEST:g}; rescale it"
            )
    return reasons


def _refuse_not_logged(scan: Scan, name: str, input_type: str) -> None:
    """ValueError when no sample can be a logarithm."""
    known = scan.highest[np.isfinite(scan.highest)]
    if len(known) and known.min() > LOGGED_MAX:
        raise ValueError(
            f"{name} has a maximum of {known.max():.4g}, too large for a logarithm, but input_type={input_type!r}. "
            "Leave input_type='auto' or name a linear unit."
        )


def _settle_units(scan: Scan, name: str, input_type: str, gene_length_key: str | None) -> str:
    """The unit to report; ValueError when it is not what the caller needs."""
    if input_type in _UNDO:
        return input_type
    found = scan.units()
    known = scan.highest[np.isfinite(scan.highest)]
    span = f"maximum {known.max(initial=0):.4g}, minimum {np.nan_to_num(scan.lowest).min():.4g}"
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
        warn(message)
    return input_type


def _without_expression(scan: Scan, total: np.ndarray, bad: dict, input_type: str) -> dict[int, str]:
    """Samples with nothing to go by."""
    empty = [i for i in np.flatnonzero(~(total > 0)) if i not in bad]
    nothing = scan.highest == scan.lowest if input_type == "log2" else scan.highest <= 0
    return {
        int(i): "no expression at all" if nothing[i] else "no expression of any of the model's genes" for i in empty
    }


def _logged_samples(scan: Scan, values: np.ndarray, name: str, obs_names: pd.Index, input_type: str) -> dict[int, str]:
    """Samples on a log scale among linear ones; a warning where the caller says that all are linear."""
    if input_type in _UNDO:
        return {}
    logged = np.flatnonzero(scan.logged_among_linear())
    if len(logged):
        logged = logged[follow_logs(values[logged], values[scan.certainly_linear()])]
    logged = [int(i) for i in logged]
    reasons = {i: f"looks log-transformed (maximum {scan.highest[i]:.4g}) while others are linear" for i in logged}
    if logged and input_type != "auto":
        warn(
            f"{name} has {len(logged)} samples that look log-transformed among linear ones but are taken as linear, as "
            f"input_type={input_type!r} says: {listed(map(repr, map(str, obs_names[logged])), _NAMED)}."
        )
        return {}
    return reasons


def _settle_samples(
    bad: dict[int, str], logged: dict[int, str], name: str, obs_names: pd.Index, on_bad_sample: str
) -> np.ndarray:
    """Usable samples (bool); ValueError or UserWarning that names the others."""
    usable, found = np.ones(len(obs_names), dtype=bool), bad | logged
    if not found:
        return usable
    usable[list(found)] = False
    reasons = [f"{str(obs_names[i])!r} ({reason})" for i, reason in sorted(found.items())]
    message = f"{name} has {len(found)} of {len(obs_names)} samples that cannot be used: {listed(reasons, _NAMED)}."
    if (bad and on_bad_sample == "raise") or not usable.any():
        way_out = ", or pass on_bad_sample='skip' to go on without them" if usable.any() else ""
        raise ValueError(
            f"{message} Expected finite linear values >= 0 with expression of the model's genes. Pass the layer that "
            f"holds unscaled values, or correct or remove these samples{way_out}."
        )
    say = " If logged ones are linear after all, say so with input_type='tpm'." if logged else ""
    warn(f"{message} They are skipped.{say}")
    return usable
