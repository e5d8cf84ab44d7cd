"""What the model says about bulk samples: alignment, network, regression, cell sizes. Nothing is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ..._text import whole_number
from ...io._bulk import MAX_DEPTH, AlignedBulk
from ...io._frames import as_bulk
from ...io._names import rows_of
from ...reference._measured import Batch, read_measured
from ...solvers import RobustFit
from ._consensus import StudyFit, average
from ._variable_types import check_variable, variable_columns

# Pull towards the prior, per gene: with 400 genes a normal one of sd 0.16 on each fraction, the spread of five types
# of which nothing is known (a uniform Dirichlet).
PRIOR_WEIGHT = 0.1
Prior = str | Mapping[str, float] | pd.DataFrame
ABUNDANT_GENES = 500
FACTOR_SAMPLES = 256  # samples that a large cohort's gene factor and platform distance come from
# Held-out cells of a reference's own study lie at 0.19 to 0.42, real bulk of other platforms at 0.52 to 0.86 (four
# references, two cohorts, no truth used: benchmarks/heldout.py).
SAME_PLATFORM, OTHER_PLATFORM = 0.35, 0.5


@dataclass
class Estimate:
    """What the model says about a cohort; tensors on the module's device, rows are samples.

    Attributes
    ----------
    bulk
        The bulk on the model's genes, and what was found reading it.
    shares
        (samples x all genes): expression as shares of the sample's total.
    present
        bool (all genes,): genes that take part.
    total, depth
        (samples,): sum over the model's genes in the bulk's units, and the counts that it stands for.
    network
        (samples x types): fractions of cells by the network alone; None unless asked for or part of the answer.
    genes, fit
        The robust regression and the genes it saw (index); None without refinement.
    rna, cells
        (samples x types): fractions of RNA and of cells.
    sizes
        (types,): RNA content per cell that turned one into the other.
    platform_distance
        See `platform_distance`; 0 without refinement.
    studies
        The answer with each study's signature, of which `rna` and `cells` are the means; none with one study.
    nnls
        (samples x types): the baseline, where it was computed already.
    """

    bulk: AlignedBulk
    shares: Tensor
    present: Tensor
    total: Tensor
    depth: Tensor
    network: Tensor | None
    genes: Tensor | None
    fit: RobustFit | None
    rna: Tensor
    cells: Tensor
    sizes: Tensor
    platform_distance: float
    studies: tuple[StudyFit, ...] = ()
    nnls: Tensor | None = None


@torch.no_grad()
def estimate(model, bulk: AnnData, **options) -> Estimate:
    """Estimate the composition of the usable samples as one cohort, over the genes that all batches measure.

    See `estimates`, of which this is the only one.
    """
    return estimates(model, bulk, split=False, **options)[0][1]


@torch.no_grad()
def estimates(
    model,
    bulk: AnnData,
    *,
    refine: bool = True,
    prior: Prior = "equal",
    prior_weight: float = PRIOR_WEIGHT,
    batch_size: int = 256,
    solver_kwargs: dict | None = None,
    network: bool = False,
    covariance: bool = False,
    gene_factor: str = "cohort",
    variable_types: Sequence[str] | None = None,
    **reading,
) -> list[tuple[Batch, Estimate]]:
    """Read the bulk and estimate the composition of each batch; nothing is written.

    `reading` are the arguments of `hpvade.reference._measured.read_measured`; `network` and `covariance` ask for the
    network's answer and the covariance of the regression's; the others are those of `HPVADE.deconvolve`.
    """
    if not isinstance(prior_weight, Real) or not prior_weight >= 0:
        raise ValueError(f"prior_weight={prior_weight!r}; expected a number of at least 0.")
    whole_number("batch_size", batch_size)
    if gene_factor not in ("cohort", "stored"):
        raise ValueError(f"gene_factor={gene_factor!r} is unknown; expected 'cohort' or 'stored'.")
    if gene_factor == "stored" and not model.module.stored_platform.any():
        raise ValueError("gene_factor='stored', and none is stored. Call model.fit_platform(cohort) first.")
    variable = variable_columns(variable_types, model.cell_types)
    check_variable(variable, refined=refine and model.preset != "spec")
    if not refine or model.preset == "spec" or (isinstance(prior, str) and prior == "network"):
        model._require_networks("deconvolve by the network (refine=False, prior='network' or preset='spec')")
    module, genes = model.module, pd.Index(np.asarray(model.get_var_names()))
    share = module.mean_counts.double().cpu().numpy()
    share = share / share.sum(axis=0)
    informative = (module.gene_score > 0).cpu().numpy()
    bulk = as_bulk(bulk)
    batches = read_measured(bulk, genes, model.cell_types, share, informative, **reading)
    prior = read_prior(prior, model.cell_types, bulk.obs_names)
    solver_kwargs = {"anchor_weight": prior_weight, "covariance": covariance} | (solver_kwargs or {})
    if variable:
        solver_kwargs["variable"] = variable
    options = {"refine": refine, "batch_size": batch_size, "network": network} | solver_kwargs
    options["stored"] = gene_factor == "stored"
    device, found = module.gene_index.device, []
    for batch in batches:
        shares, present = (torch.from_numpy(x).to(device) for x in (batch.bulk.shares, batch.present))
        own = prior if isinstance(prior, str) else prior[batch.samples]
        one = estimate_shares(model, batch.bulk, shares, present, prior=own, **options)
        one.total = torch.from_numpy(batch.bulk.total).to(one.total)
        found.append((batch, one))
    return found


@torch.no_grad()
def estimate_shares(
    model,
    aligned: AlignedBulk | None,
    shares: Tensor,
    present: Tensor,
    *,
    refine: bool = True,
    prior: str | np.ndarray = "equal",
    batch_size: int = 256,
    network: bool = False,
    anchor_weight: float = PRIOR_WEIGHT,
    distance: float | None = None,
    by_study: Sequence[dict] = (),
    stored: bool = False,
    **solver_kwargs,
) -> Estimate:
    """Estimate the composition of `shares` (samples x all genes): those of `aligned`, or any linear scale without it.

    Without `aligned`, the shares are closed in place and say the depth.
    `prior`: ``"equal"``, ``"network"`` or fractions of cells (samples x types). `distance`: the platform distance,
    where it is known; estimated when None. `by_study`: what the solver is given for each study, with its distance.
    `stored`: take the gene factor and weights that the model keeps.
    """
    module = model.module
    refine = refine and model.preset != "spec"
    by_network = isinstance(prior, str) and prior == "network"
    if aligned is None:  # small blocks stay in the processor's cache through every step
        total, depth = (torch.cat(x) for x in zip(*map(to_shares, shares.split(batch_size)), strict=True))
    else:
        total, depth = (torch.from_numpy(x).to(shares) for x in (aligned.total, aligned.depth))
    answer, genes, fit = None, None, None
    if network or by_network or not refine:
        answer = torch.cat([module.predict(rows, present) for rows in shares.split(batch_size)])
    umi, studies = module.mean_counts.sum(dim=0), ()
    if not refine:
        rna = module.cells_to_rna(answer, umi)
    else:
        equal = torch.ones((len(shares), module.n_types), device=shares.device)
        cells = answer if by_network else equal if isinstance(prior, str) else torch.from_numpy(prior).to(equal)
        anchor = module.cells_to_rna(cells, umi)
        options = {"anchor_weight": anchor_weight} | solver_kwargs
        platforms = module.stored_platform if stored else [None] * len(module.stored_platform)
        genes, fit = module.refine(shares, present, depth, anchor, platform=platforms[0], **options)
        rna = fit.rna_proportions
        n_few = solver_kwargs.get("factor_samples", FACTOR_SAMPLES)
        if distance is None:
            distance = cohort_distance(shares, present, rna, module.signature(), n_few)
        each = range(len(model.studies))
        own = by_study or [{"platform": platforms[1 + s]} for s in each]
        studies = tuple(_study_fit(model, s, shares, present, depth, cells, **options | own[s]) for s in each)
    distance = distance or 0.0
    sizes = _sizes(model, umi, module.size_ratio, distance)
    cells = module.rna_to_cells(rna, sizes)
    if studies:
        rna, cells = (average([getattr(study, name) for study in studies]) for name in ("rna", "cells"))
    return Estimate(aligned, shares, present, total, depth, answer, genes, fit, rna, cells, sizes, distance, studies)


def _study_fit(
    model, s: int, shares: Tensor, present: Tensor, depth: Tensor, prior: Tensor, *, distance=None, **options
) -> StudyFit:
    """The answer with the signature of one study, on the genes that it has; `prior` are fractions of cells."""
    module, signature = model.module, model.module.study_signature(s)
    present = present & module.study_measured[s]
    umi = module.study_mean_counts[s].sum(dim=0)
    anchor = module.cells_to_rna(prior, umi)
    genes, fit = module.refine(shares, present, depth, anchor, signature=signature, **options)
    if distance is None:
        n_few = options.get("factor_samples", FACTOR_SAMPLES)
        distance = cohort_distance(shares, present, fit.rna_proportions, signature, n_few)
    sizes = _sizes(model, umi, module.study_size_ratio[s], distance)
    cells = module.rna_to_cells(fit.rna_proportions, sizes)
    return StudyFit(model.studies[s], genes, fit, fit.rna_proportions, cells, sizes, distance)


def cohort_distance(shares: Tensor, present: Tensor, rna: Tensor, signature: Tensor, n_few: int) -> float:
    """`platform_distance` between up to `n_few` samples and what their fractions of RNA make of the signature."""
    few = torch.linspace(0, len(rna) - 1, min(len(rna), n_few), device=rna.device).round().long()
    expected = rna[few] @ (signature[present] / signature.sum(dim=0)).T
    return platform_distance(shares[few][:, present], expected)


def _sizes(model, umi: Tensor, ratio: Tensor, distance: float) -> Tensor:
    """RNA content per cell (types,): the reference's counts, pooled with tables as far as the platform is another."""
    trust = trust_in_published_sizes(distance) if model.cell_size == "pooled" else 1.0  # others were asked for by name
    return umi * ratio**trust * torch.exp(-model.module.size_offset)


def read_prior(prior: Prior, types: list[str], samples: pd.Index) -> str | np.ndarray:
    """``"equal"``, ``"network"`` or fractions of cells (samples x types); errors name what is missing."""
    if isinstance(prior, str):
        if prior not in ("equal", "network"):
            raise ValueError(f"prior={prior!r} is unknown; expected 'equal', 'network', a dict or a DataFrame.")
        return prior
    if not isinstance(prior, Mapping | pd.Series | pd.DataFrame):
        raise TypeError(f"prior is a {type(prior).__name__}, which names no types; expected {{type: fraction}}.")
    table = prior if isinstance(prior, pd.DataFrame) else pd.DataFrame([dict(prior)] * len(samples), index=samples)
    missing, extra = [t for t in types if t not in table.columns], [t for t in table.columns if t not in types]
    if missing or extra:
        raise ValueError(f"prior must name every type once; missing: {missing}, unknown: {extra}.")
    if table.columns.has_duplicates:
        raise ValueError(f"prior must name every type once; found {list(table.columns)}.")
    values = table[types].iloc[rows_of(table, samples, "prior")].to_numpy(dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and (values.sum(axis=1) > 0).all()):
        raise ValueError("prior has negative, missing or infinite fractions, or a row of zeros; expected fractions.")
    return values


def platform_distance(bulk: Tensor, expected: Tensor) -> float:
    """Robust standard deviation, over the most abundant genes, of the cohort's median log ratio of bulk to fit.

    Abundant genes are mostly housekeeping: they say little about composition and hardly suffer from counting noise, so
    what remains is how differently two platforms see genes. `bulk` and `expected` (samples x genes), linear scale.
    """
    genes = expected.mean(dim=0).argsort(descending=True)[:ABUNDANT_GENES]
    ratio = torch.log(bulk[:, genes] + 1e-7) - torch.log(expected[:, genes] + 1e-7)
    shift = (ratio - ratio.median(dim=1, keepdim=True).values).median(dim=0).values
    return float(1.4826 * (shift - shift.median()).abs().median())


def trust_in_published_sizes(distance: float) -> float:
    """Weight of pooled cell sizes against the reference's own UMI counts, 0 to 1.

    Bulk that was measured like the reference, or summed from its cells, has RNA per cell as the reference's UMI counts
    say. Bulk from another platform is weighed by the pooled sizes. In between the weight rises linearly.
    """
    return float(np.clip((distance - SAME_PLATFORM) / (OTHER_PLATFORM - SAME_PLATFORM), 0, 1))


def to_shares(values: Tensor) -> tuple[Tensor, Tensor]:
    """Divide samples by their totals, in place; return the totals and their depth in counts.

    The depth is the total in units of the smallest value above zero, which is one count in any scaling of counts.
    """
    total = values.sum(dim=1)
    smallest = torch.where(values > 0, values, torch.inf).amin(dim=1)
    values /= total[:, None]
    return total, (total / smallest).clamp(max=MAX_DEPTH)
