"""A cohort in a Dask array: what samples share comes from some of them, then each block of rows is solved alone."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ...io._bulk import read_bulk
from ...io._frames import as_bulk
from ...io._rows import in_memory, is_dask, pick_matrix
from ...reference._measured import Batch, closed_over
from ...solvers import VariableFit, nnls
from ._consensus import StudyFit
from ._deconvolve import deconvolve as deconvolve_in_memory
from ._estimate import FACTOR_SAMPLES, PRIOR_WEIGHT, Estimate, Prior, estimate_shares, estimates, read_prior
from ._variable_types import variable_columns

_BLOCK_VALUES = 2**24  # values of a block: 64 MB, and a few times as much while it is solved
_MIN_ROWS = 64  # smaller blocks cost more to hand out than to solve
_RESULTS = ("total", "depth", "rna", "cells", "nnls")


def deconvolve(model, bulk: AnnData, *, unknown: bool, layer: str | None = None, **options) -> pd.DataFrame:
    """See `HPVADE.deconvolve`; block by block where the bulk is in a Dask array."""
    bulk = as_bulk(bulk)
    options |= {"unknown": unknown, "layer": layer}
    if not is_dask(bulk.X if layer is None else bulk.layers.get(layer)):
        return deconvolve_in_memory(model, bulk, **options)
    if unknown:
        raise ValueError(
            "unknown=True learns from all samples at once, and this bulk is in a Dask array. Bring it into memory with "
            "`bulk.to_memory()`, or use unknown=False."
        )
    estimator = partial(estimate_blocks, baseline=options["baseline"])
    return deconvolve_in_memory(model, bulk, estimator=estimator, **options)


class WorkingModel:
    """What `estimate_shares` needs of a model, without its cells, in the memory of the processor."""

    def __init__(self, model):
        self.module = copy.deepcopy(model.module).cpu().eval()
        self.preset, self.cell_size, self.studies = model.preset, model.cell_size, model.studies
        self.genes = np.asarray(model.get_var_names())


@dataclass(frozen=True)
class Shared:
    """What all blocks have in common.

    Attributes
    ----------
    model
        The model.
    var
        `var` of the bulk.
    present
        bool (all genes,): genes that take part.
    options
        For `estimate_shares`; with the gene factor, gene weights and platform distance of the first pass.
    reading
        For `read_bulk`.
    baseline
        Whether plain NNLS is asked for.
    """

    model: WorkingModel
    var: pd.DataFrame
    present: np.ndarray
    options: dict
    reading: dict
    baseline: bool


def estimate_blocks(
    model,
    bulk: AnnData,
    *,
    split: bool = True,
    batch_key: str | None = None,
    gene_factor: str = "cohort",
    layer: str | None = None,
    prior: Prior = "equal",
    prior_weight: float = PRIOR_WEIGHT,
    solver_kwargs: dict | None = None,
    refine: bool = True,
    batch_size: int = 256,
    variable_types: Sequence[str] | None = None,
    gene_length_key: str | None = None,
    baseline: bool = True,
    **reading,
) -> list[tuple[Batch, Estimate]]:
    """Estimate the composition of a cohort in a Dask array, on the scheduler that is connected.

    The gene factor, the gene weights, the platform distance and the genes that take part come from the samples that a
    cohort in memory would take (`factor_samples` of them, evenly spaced), so that the answers are the same. Blocks of
    rows are then functions of their samples and the model: Dask may compute them anywhere, and again when a worker is
    lost.

    Arguments are those of `hpvade.models.hpvade._estimate.estimates`; all samples are one cohort. `shares` of the
    result are None, `fit` and `studies` are those of the first pass; `baseline` asks for `nnls`.

    Raises
    ------
    ValueError
        ``input_type="log2"``, whose offset depends on all samples; a `batch_key`. All errors of `estimates`.
    """
    import dask

    if reading.get("input_type") == "log2":
        raise ValueError(
            "input_type='log2' cannot be told from log2(x + 1) block by block. Undo the log in the Dask array, as in "
            "`bulk.X = np.exp2(bulk.X) - 1`, or bring the bulk into memory with `bulk.to_memory()`."
        )
    if batch_key is not None:
        raise ValueError(
            f"batch_key={batch_key!r}, and this bulk is in a Dask array, whose samples are solved as one cohort. "
            "Deconvolve the samples of each batch in a call of their own."
        )
    X, names = _row_blocks(pick_matrix(bulk, layer, "bulk")[0]), bulk.obs_names
    var = in_memory(bulk.var)[[] if gene_length_key is None else [gene_length_key]]
    reading = reading | {"gene_length_key": gene_length_key}
    read_prior(prior, model.cell_types, names)  # refuses a bad one before any work

    n_few = min(len(names), (solver_kwargs or {}).get("factor_samples", FACTOR_SAMPLES))
    few = torch.linspace(0, len(names) - 1, n_few).round().long().numpy()  # as `solvers.robust` chooses
    some = AnnData(_rows(X, few), obs=pd.DataFrame(index=names[few]), var=var)
    options = {"refine": refine, "batch_size": batch_size}
    given = {"prior": prior, "prior_weight": prior_weight, "solver_kwargs": solver_kwargs, "gene_factor": gene_factor}
    given["variable_types"] = variable_types
    batch, first = estimates(model, some, split=False, **given, **options, **reading)[0]
    options |= {"anchor_weight": prior_weight} | (solver_kwargs or {})
    options |= {"variable": variable_columns(variable_types, model.cell_types)}
    if first.fit is not None:
        options |= _in_common(first) | {"by_study": tuple(map(_in_common, first.studies)), "covariance": False}
    reading.pop("missing", None)
    # part of the graph, unlike scattered data: it is there again when the worker that held it is gone
    shared = dask.delayed(Shared(WorkingModel(model), var, batch.present, options, reading, baseline), traverse=False)
    solve, tasks, begin = dask.delayed(_solve, pure=False), [], 0
    for part, size in zip(X.to_delayed().ravel(), X.chunks[0], strict=True):
        own = names[begin : begin + size]
        tasks.append(solve(part, own, read_prior(prior, model.cell_types, own), shared))
        begin += size
    usable, skipped, *results = zip(*dask.compute(*tasks), strict=True)
    usable, skipped = np.concatenate(usable), {name: why for part in skipped for name, why in part.items()}
    results = {name: torch.from_numpy(np.concatenate(part)) for name, part in zip(_RESULTS, results, strict=True)}
    whole = replace(batch.bulk, obs_names=names[usable], usable=usable, skipped=skipped, shares=None)
    if not baseline:
        results["nnls"] = None
    found = replace(first, bulk=whole, shares=None, network=None, **results)
    return [(Batch("", whole, np.flatnonzero(usable), batch.present), found)]


def read_blocks(
    bulk: AnnData, genes: np.ndarray, present: np.ndarray, *, layer: str | None, gene_length_key: str | None, **reading
) -> Iterator[torch.Tensor]:
    """Shares (samples x all genes) of a cohort in a Dask array, some usable samples after others, in this process."""
    reading.pop("missing", None)
    X, begin = _row_blocks(pick_matrix(bulk, layer, "bulk")[0]), 0
    var = in_memory(bulk.var)[[] if gene_length_key is None else [gene_length_key]]
    for i, size in enumerate(X.chunks[0]):
        obs = pd.DataFrame(index=bulk.obs_names[begin : begin + size])
        block, begin = AnnData(X.blocks[i].compute(), obs=obs, var=var), begin + size
        aligned = closed_over(read_bulk(block, genes, gene_length_key=gene_length_key, **reading), present)
        yield torch.from_numpy(aligned.shares)


def _in_common(found: Estimate | StudyFit) -> dict:
    """What the samples of a cohort share, for `estimate_shares`."""
    factor, weight = found.fit.gene_factor.cpu(), found.fit.gene_weight.cpu()
    common = {"gene_factor": factor, "gene_weight": weight, "distance": found.platform_distance}
    return common | ({"variation": found.fit.variation.cpu()} if isinstance(found.fit, VariableFit) else {})


@torch.no_grad()
def _solve(values, names: pd.Index, prior: str | np.ndarray, shared: Shared) -> tuple:
    """What is usable of one block of samples, why others are skipped, and results in the order of `_RESULTS`."""
    block = AnnData(values, obs=pd.DataFrame(index=names), var=shared.var)
    aligned = closed_over(read_bulk(block, shared.model.genes, **shared.reading), shared.present)
    prior = prior if isinstance(prior, str) else prior[aligned.usable]
    shares, present = torch.from_numpy(aligned.shares), torch.from_numpy(shared.present)
    found = estimate_shares(shared.model, aligned, shares, present, prior=prior, **shared.options)
    nothing = found.rna[:, :0]
    baseline = nnls(found.shares, shared.model.module.mean_counts * present[:, None]) if shared.baseline else nothing
    parts = (torch.from_numpy(aligned.total), found.depth, found.rna, found.cells, baseline)
    return aligned.usable, aligned.skipped, *(part.numpy() for part in parts)


def _row_blocks(X):
    """The array with whole rows in blocks of a useful size."""
    n_rows, n_columns = X.shape
    most = max(_MIN_ROWS, _BLOCK_VALUES // max(n_columns, 1))
    rows = X.chunks[0]
    if max(rows) > most or len(rows) > 2 * -(-n_rows // _MIN_ROWS):
        rows = min(most, 4 * _MIN_ROWS) if max(rows) <= most else most
    return X.rechunk({0: rows, 1: -1})


def _rows(X, indices: np.ndarray) -> np.ndarray:
    """Some rows of a Dask array (ascending), taken out of their blocks where these are computed."""
    import dask

    ends, taken = np.cumsum(X.chunks[0]), []
    block = np.searchsorted(ends, indices, side="right")
    parts, take = X.to_delayed().ravel(), dask.delayed(_take)
    for i in np.unique(block):
        taken.append(take(parts[i], indices[block == i] - (ends[i] - X.chunks[0][i])))
    return np.concatenate(dask.compute(*taken))


def _take(block, rows: np.ndarray) -> np.ndarray:
    block = block[rows]
    return block.toarray() if hasattr(block, "toarray") else np.asarray(block)
