"""From bulk samples to proportions: alignment, network, refinement, cell sizes, and one write at the end."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ..._keys import Keys
from ...io._bulk import AlignedBulk, read_bulk
from ...io._names import make_writable, rows_of
from ...solvers import MIN_SAMPLES, RobustFit, UnknownFit, nnls, unknown_component

UNKNOWN = "unknown"  # name of the column
# Pull towards the prior, in units of the data's curvature: it decides where genes do not.
PRIOR_WEIGHT = 0.02
Prior = str | Mapping[str, float] | pd.DataFrame
MAX_DEPTH = 5e6  # reads in genes beyond which counting noise no longer matters
ABUNDANT_GENES = 500
# Held-out cells of a reference's own study lie at 0.19 to 0.42, real bulk of other platforms at 0.52 to 0.86 (four
# references, two cohorts, no truth used: benchmarks/heldout.py).
SAME_PLATFORM, OTHER_PLATFORM = 0.35, 0.5


@dataclass
class Provenance:
    """How a table of proportions was made; written to uns."""

    hpvade_version: str
    model: str
    preset: str
    fractions: str
    input_type: str
    refined: bool
    n_genes: int
    n_genes_missing: int
    gene_overlap: float
    platform_distance: float
    calibrated: bool
    cell_sizes: pd.DataFrame


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
        (samples x types): fractions of cells by the network alone.
    genes, fit
        The robust regression and the genes it saw (index); None without refinement.
    rna, cells
        (samples x types): fractions of RNA and of cells.
    sizes
        (types,): RNA content per cell that turned one into the other.
    platform_distance
        See `platform_distance`; 0 without refinement.
    """

    bulk: AlignedBulk
    shares: Tensor
    present: Tensor
    total: Tensor
    depth: Tensor
    network: Tensor
    genes: Tensor | None
    fit: RobustFit | None
    rna: Tensor
    cells: Tensor
    sizes: Tensor
    platform_distance: float


@torch.no_grad()
def estimate(
    model,
    bulk: AnnData,
    *,
    refine: bool = True,
    prior: Prior = "equal",
    prior_weight: float = PRIOR_WEIGHT,
    batch_size: int = 256,
    solver_kwargs: dict | None = None,
    **reading,
) -> Estimate:
    """Read the bulk and estimate its composition; nothing is written.

    `reading` are the arguments of `hpvade.io._bulk.read_bulk`, the others those of `HPVADE.deconvolve`.
    """
    if not prior_weight >= 0:
        raise ValueError(f"prior_weight={prior_weight!r}; expected a number of at least 0.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected at least 1.")
    if not refine or model.preset == "spec" or (isinstance(prior, str) and prior == "network"):
        model._require_networks("deconvolve by the network (refine=False, prior='network' or preset='spec')")
    aligned = read_bulk(bulk, np.asarray(model.get_var_names()), **reading)
    prior = _read_prior(prior, model.cell_types, bulk.obs_names)
    device = model.module.gene_index.device
    shares = torch.from_numpy(aligned.values).to(device)
    present = torch.from_numpy(aligned.present).to(device)
    if reading.get("missing") == "zero":
        present = torch.ones_like(present)
    solver_kwargs = {"anchor_weight": prior_weight} | (solver_kwargs or {})
    return estimate_shares(
        model, aligned, shares, present, refine=refine, prior=prior, batch_size=batch_size, **solver_kwargs
    )


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
    anchor_weight: float = PRIOR_WEIGHT,
    **solver_kwargs,
) -> Estimate:
    """Estimate the composition of `shares` (samples x all genes, any linear scale), closed in place.

    `prior`: ``"equal"``, ``"network"`` or fractions of cells (samples x types).
    """
    module = model.module
    # small blocks stay in the processor's cache through every step
    blocks = [(*to_shares(rows), module.predict(rows, present)) for rows in shares.split(batch_size)]
    total, depth, network = (torch.cat(column) for column in zip(*blocks, strict=True))
    umi = module.mean_counts.sum(dim=0)
    rna, genes, fit, distance, trust = module.cells_to_rna(network, umi), None, None, 0.0, 0.0
    if refine and model.preset != "spec":
        cells = torch.ones_like(network) if isinstance(prior, str) else torch.from_numpy(prior).to(network)
        anchor = rna if isinstance(prior, str) and prior == "network" else module.cells_to_rna(cells, umi)
        options = {"anchor_weight": anchor_weight, "covariance": True} | solver_kwargs
        genes, fit = module.refine(shares, present, depth, anchor, **options)
        rna = fit.rna_proportions
        few = torch.linspace(0, len(rna) - 1, min(len(rna), 256), device=rna.device).round().long()
        signature = module.signature()[present] / module.signature().sum(dim=0)
        distance = platform_distance(shares[few][:, present], rna[few] @ signature.T)
        trust = trust_in_published_sizes(distance)
    sizes = umi * module.size_ratio ** (trust if model.cell_size == "pooled" else 1.0)  # others were asked for by name
    sizes = sizes * torch.exp(-module.size_offset)
    cells = module.rna_to_cells(rna, sizes)
    return Estimate(aligned, shares, present, total, depth, network, genes, fit, rna, cells, sizes, distance)


@torch.no_grad()
def deconvolve(
    model, bulk: AnnData, *, fractions: str, key_added: str, unknown: bool, refine: bool, **options
) -> pd.DataFrame:
    """See `HPVADE.deconvolve`."""
    model._require_trained("deconvolve")
    if fractions not in ("cell", "rna"):
        raise ValueError(f"fractions={fractions!r} is unknown; expected 'cell' or 'rna'.")
    if unknown:
        _check_unknown(model, bulk, refine)
    found = estimate(model, bulk, refine=refine, **options)
    extra = find_unknown(model.module, found) if unknown else None
    if extra is not None:  # the table of the known types is theirs among themselves until the share is taken off
        found.rna = extra.rna_proportions / extra.rna_proportions.sum(dim=1, keepdim=True).clamp(min=1e-12)
        found.cells = model.module.rna_to_cells(found.rna, found.sizes)
    baseline = nnls(found.shares, model.module.mean_counts * found.present[:, None])

    def table(x: Tensor) -> pd.DataFrame:
        x = x.double()
        x = (x / x.sum(dim=1, keepdim=True).clamp(min=1e-300)).cpu().numpy()
        return pd.DataFrame(x, index=bulk.obs_names.copy(), columns=model.cell_types)

    def with_unknown(known: pd.DataFrame) -> pd.DataFrame:
        if extra is None:
            return known
        share = extra.unknown.double().cpu().numpy()
        return known.mul(1 - share, axis=0).assign(**{UNKNOWN: share})

    result, rna_table = table(found.cells if fractions == "cell" else found.rna), table(found.rna)
    provenance = Provenance(
        hpvade_version=version("hpvade"),
        model=type(model).__name__,
        preset=model.preset,
        fractions=fractions,
        input_type=found.bulk.input_type,
        refined=found.fit is not None,
        n_genes=int(found.bulk.present.sum()),
        n_genes_missing=int((~found.bulk.present).sum()),
        gene_overlap=float(found.bulk.overlap),
        platform_distance=float(found.platform_distance),
        calibrated=bool(model.module.size_offset.any()),
        # a table and not a dict: h5ad takes "CD4/CD8" as a key for two levels
        cell_sizes=pd.DataFrame(
            {"size": (found.sizes / found.sizes.mean()).double().cpu().numpy()}, index=model.cell_types
        ),
    )
    result, rna_table = with_unknown(result), with_unknown(rna_table)
    bulk.obsm[key_added] = result
    bulk.obsm[Keys.rna(key_added)] = rna_table
    bulk.obsm[Keys.nnls(key_added)] = table(baseline)
    bulk.uns[key_added] = asdict(provenance)
    if extra is not None:
        names = np.asarray(model.get_var_names())[found.present.cpu().numpy()]
        profile = pd.Series(1e6 * extra.profile.double().cpu().numpy(), index=names)
        bulk.varm[Keys.unknown(key_added)] = profile.reindex(bulk.var_names).to_frame(UNKNOWN)
        bulk.uns[key_added]["unknown_similarity"] = _similarity(model, found, extra)
    make_writable(bulk.obsm, (key_added, Keys.rna(key_added), Keys.nnls(key_added)))
    return result.copy()


def _read_prior(prior: Prior, types: list[str], samples: pd.Index) -> str | np.ndarray:
    """``"equal"``, ``"network"`` or fractions of cells (samples x types); errors name what is missing."""
    if isinstance(prior, str):
        if prior not in ("equal", "network"):
            raise ValueError(f"prior={prior!r} is unknown; expected 'equal', 'network', a dict or a DataFrame.")
        return prior
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


def _check_unknown(model, bulk: AnnData, refine: bool) -> None:
    if model.preset == "spec" or not refine:
        raise ValueError(
            "unknown=True is found by the regression; expected preset='default' and refine=True. The network alone "
            "knows the reference's types only."
        )
    if UNKNOWN in model.cell_types:
        raise ValueError(f"a cell type of the reference is called {UNKNOWN!r}; rename it to ask for unknown=True.")
    if bulk.n_obs < MIN_SAMPLES:
        raise ValueError(
            f"unknown=True learns what is missing from how samples differ; found {bulk.n_obs}, expected at least "
            f"{MIN_SAMPLES}. Use unknown=False."
        )


@torch.no_grad()
def find_unknown(module, found: Estimate) -> UnknownFit:
    """Split off what no type explains."""
    signature = module.signature()
    signature = (signature / signature.sum(dim=0))[found.present]
    allowed = (module.gene_score > 0)[found.present]
    return unknown_component(found.shares[:, found.present], signature, allowed, depth=found.depth)


def _similarity(model, found: Estimate, extra: UnknownFit) -> pd.DataFrame:
    """Cosine between the unknown's profile and each type's over the genes that tell types apart."""
    genes = (model.module.gene_score > 0) & found.present
    known = model.module.signature()[genes]
    unknown = extra.profile[(model.module.gene_score > 0)[found.present]]
    cosine = torch.nn.functional.cosine_similarity(known, unknown[:, None], dim=0)
    return pd.DataFrame({"cosine": cosine.double().cpu().numpy()}, index=model.cell_types)


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
