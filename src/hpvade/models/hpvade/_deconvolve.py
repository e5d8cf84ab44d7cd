"""From bulk samples to proportions: alignment, network, refinement, cell sizes, and one write at the end."""

from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ..._keys import Keys
from ...dataloaders._bulk import AlignedBulk, read_bulk
from ...solvers import RobustFit, nnls

MAX_DEPTH = 5e6  # reads in genes beyond which counting noise no longer matters
ANCHOR_WEIGHT = 0.02
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
    depth
        (samples,): counts that a share of one stands for.
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
    depth: Tensor
    network: Tensor
    genes: Tensor | None
    fit: RobustFit | None
    rna: Tensor
    cells: Tensor
    sizes: Tensor
    platform_distance: float


@torch.no_grad()
def estimate(model, bulk: AnnData, *, refine: bool = True, batch_size: int = 256, **reading) -> Estimate:
    """Read the bulk and estimate its composition; nothing is written.

    `reading` are the arguments of `hpvade.dataloaders._bulk.read_bulk`.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected at least 1.")
    aligned = read_bulk(bulk, np.asarray(model.get_var_names()), **reading)
    device = model.module.gene_index.device
    shares = torch.from_numpy(aligned.values).to(device)
    present = torch.from_numpy(aligned.present).to(device)
    if reading.get("missing") == "zero":
        present = torch.ones_like(present)
    return estimate_shares(model, aligned, shares, present, refine=refine, batch_size=batch_size)


@torch.no_grad()
def estimate_shares(
    model, aligned: AlignedBulk | None, shares: Tensor, present: Tensor, *, refine: bool = True, batch_size: int = 256
) -> Estimate:
    """Estimate the composition of `shares` (samples x all genes), any linear scale; they are divided by their totals."""
    module = model.module
    # small blocks stay in the processor's cache through every step
    depth, network = [], []
    for rows in shares.split(batch_size):
        depth.append(_to_shares(rows))
        network.append(module.predict(rows, present))
    depth, network = torch.cat(depth), torch.cat(network)
    umi = module.mean_counts.sum(dim=0)
    rna, genes, fit, distance, trust = module.cells_to_rna(network, umi), None, None, 0.0, 0.0
    if refine and model.preset != "spec":
        genes, fit = module.refine(shares, present, depth, rna, anchor_weight=ANCHOR_WEIGHT, covariance=True)
        rna = fit.rna_proportions
        few = torch.linspace(0, len(rna) - 1, min(len(rna), 256), device=rna.device).round().long()
        signature = module.signature()[present] / module.signature().sum(dim=0)
        distance = platform_distance(shares[few][:, present], rna[few] @ signature.T)
        trust = trust_in_published_sizes(distance)
    sizes = umi * module.size_ratio ** (trust if model.cell_size == "pooled" else 1.0)  # others were asked for by name
    cells = module.rna_to_cells(rna, sizes)
    return Estimate(aligned, shares, present, depth, network, genes, fit, rna, cells, sizes, distance)


@torch.no_grad()
def deconvolve(model, bulk: AnnData, *, fractions: str, key_added: str, **options) -> pd.DataFrame:
    """See `HPVADE.deconvolve`."""
    model._require_trained("deconvolve")
    if fractions not in ("cell", "rna"):
        raise ValueError(f"fractions={fractions!r} is unknown; expected 'cell' or 'rna'.")
    found = estimate(model, bulk, **options)
    baseline = nnls(found.shares, model.module.mean_counts * found.present[:, None])

    def table(x: Tensor) -> pd.DataFrame:
        x = x.double()
        x = (x / x.sum(dim=1, keepdim=True).clamp(min=1e-300)).cpu().numpy()
        return pd.DataFrame(x, index=bulk.obs_names.copy(), columns=model.cell_types)

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
        # a table and not a dict: h5ad takes "CD4/CD8" as a key for two levels
        cell_sizes=pd.DataFrame(
            {"size": (found.sizes / found.sizes.mean()).double().cpu().numpy()}, index=model.cell_types
        ),
    )
    bulk.obsm[key_added] = result
    bulk.obsm[Keys.rna(key_added)] = rna_table
    bulk.obsm[Keys.nnls(key_added)] = table(baseline)
    bulk.uns[key_added] = asdict(provenance)
    return result.copy()


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


def _to_shares(values: Tensor) -> Tensor:
    """Divide samples by their totals, in place, and return their depth in counts.

    The depth is the total in units of the smallest value above zero, which is one count in any scaling of counts.
    """
    total = values.sum(dim=1, keepdim=True)
    smallest = torch.where(values > 0, values, torch.inf).amin(dim=1)
    values /= total
    return (total[:, 0] / smallest).clamp(max=MAX_DEPTH)
