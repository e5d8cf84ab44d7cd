"""Classical deconvolution in one call: bulk and reference as AnnData in, one solver, one write at the end."""

import inspect
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys, check_key
from .._text import listed, warn
from ..evaluation._align import closed
from ..io._bulk import InputType, Missing, OnBadSample
from ..io._frames import as_bulk
from ..io._names import make_writable
from ..reference._cell_size import cell_sizes
from ..reference._measured import Batch, exceptions, placed, read_measured
from ..reference._signature import gene_scores
from ._profiles import Profiles, choose_genes, read_cells, read_signature

Method = Literal["nnls", "rlr", "dwls", "music", "hspe", "instaprism", "robust"]

# arguments of solvers that are filled in here, or say nothing in a table of proportions
_INTERNAL = {"bulk", "signature", "weight", "variance", "depth", "anchor", "anchor_weight", "covariance"}


def solve(
    bulk: AnnData | pd.DataFrame,
    reference: AnnData | pd.DataFrame,
    *,
    method: Method = "robust",
    labels_key: str | None = None,
    sample_key: str | None = None,
    layer: str | None = None,
    bulk_layer: str | None = None,
    input_type: InputType = "auto",
    missing: Missing = "mean",
    gene_length_key: str | None = None,
    batch_key: str | None = None,
    on_bad_sample: OnBadSample = "raise",
    genes: str | int | Sequence[str] | None = "markers",
    cell_size: str | Mapping[str, float] | None = "pooled",
    fractions: Literal["cell", "rna"] = "cell",
    variable_types: Sequence[str] | None = None,
    key_added: str | None = None,
    device: str = "auto",
    copy: bool = False,
    **options,
) -> AnnData | None:
    """Estimate cell-type proportions of bulk samples with a linear solver, without training.

    The reference becomes a signature, averaged over donors; genes are aligned by name; one of :mod:`hpvade.solvers`
    gives fractions of RNA, and cell sizes turn them into fractions of cells.

    Parameters
    ----------
    bulk
        Samples x genes, linear scale: counts, CPM, TPM or FPKM, in any gene order; an AnnData or a DataFrame.
    reference
        Cells x genes with raw counts; or a signature, genes x types, on linear scale: mean counts per cell, as
        :meth:`hpvade.HPVADE.get_signature_matrix` returns, or columns of one total (CPM, TPM), which say nothing about
        RNA content, so that `cell_size` must.
    method
        ``"nnls"``, ``"rlr"``, ``"dwls"``, ``"music"`` (needs two donors or more), ``"hspe"``, ``"instaprism"`` or
        ``"robust"``; see the function of that name in :mod:`hpvade.solvers`.
    labels_key, sample_key, layer
        Columns of `reference.obs` with cell type and donor, and layer with the counts. Without `labels_key`, those that
        :meth:`hpvade.HPVADE.setup_anndata` was given for this object, or ``"cell_type"`` if it was not. For an AnnData
        reference only.
    bulk_layer
        Layer of the bulk; `bulk.X` when None.
    input_type, missing, gene_length_key, batch_key, on_bad_sample
        As in :meth:`hpvade.HPVADE.deconvolve`.
    genes
        Genes to fit: ``"markers"``, the ones that tell each pair of types apart, as the model does
        (:func:`hpvade.solvers.marker_genes`); a number of genes with the largest spread over types; these by name; or
        all that reference and bulk share (None). Sums over a type's RNA are always over all genes of the reference.
    cell_size
        RNA content per cell of each type: ``"pooled"`` (the reference's counts per cell; for bulk of another platform
        pooled with the published tables, as the model does),
        ``"umi"`` (the reference's alone: right for bulk made from cells of the same protocol), ``"epic"``,
        ``"quantiseq"``, ``"abis"``, None (equal), or a dict ``{type: size}``.
    fractions
        ``"cell"``: fractions of cells; ``"rna"``: fractions of RNA.
    variable_types
        Types whose profiles differ from sample to sample, such as malignant cells; for ``method="robust"``, see
        :func:`hpvade.solvers.robust_variable`. How much they were found to is in ``uns[key_added]["variation"]``.
    key_added
        `bulk.obsm` key of the result; ``f"{method}_proportions"`` when None.
    device
        Where to compute: ``"auto"`` (a CUDA device if there is one), or a torch device.
    copy
        Return a copy of `bulk` with the results and leave `bulk` unchanged; a DataFrame always is.
    **options
        Options of the solver, such as ``loss="bisquare"`` of `rlr` or ``gene_factor=False`` of `robust`.

    Returns
    -------
    None, or the copy (AnnData). Written are ``obsm[key_added]`` (samples x types, rows sum to one), fractions of RNA in
    ``obsm[key_added + "_rna"]``, the baseline (non-negative least squares on all shared genes, fractions of cells) in
    ``obsm[key_added + "_nnls"]``, and how they were made in ``uns[key_added]``: what :func:`hpvade.tl.evaluate` reads.

    Raises
    ------
    TypeError
        `bulk` or `reference` is of another kind, the solver has no such option, or `variable_types` is a text.
    KeyError
        A column or layer is absent.
    ValueError
        An unknown choice; `variable_types` with another method, that are not there, or all types; a reference or bulk
        that cannot be used, with the reason and the remedy; ``"music"`` without donors; fewer genes than types; unknown
        genes. `bulk` is then unchanged.

    Warns
    -----
    UserWarning
        Genes are missing; one sample only, so that ``"robust"`` has no gene factor; a signature whose columns have one
        total while `cell_size` relies on them.

    Examples
    --------
    >>> import hpvade as hp
    >>> reference, bulk = hp.datasets.planted_cohort(n_types=3, seed=1)
    >>> hp.tl.solve(bulk, reference, method="robust", labels_key="cell_type", sample_key="donor", device="cpu")
    >>> bool(hp.tl.evaluate(bulk, prediction_key="robust_proportions").loc["robust_proportions", "per_type_r"] > 0.99)
    True
    """
    for argument, value, choices in (("method", method, get_args(Method)), ("fractions", fractions, ("cell", "rna"))):
        if value not in choices:
            raise ValueError(f"{argument}={value!r} is unknown; expected one of {', '.join(map(repr, choices))}.")
    _check_options(method, options)
    key = Keys.solved(method) if key_added is None else key_added
    check_key(key)
    device = _device(device)
    of_cells = {"labels_key": labels_key, "sample_key": sample_key, "layer": layer}
    if isinstance(reference, pd.DataFrame):
        profiles = read_signature(reference, method, of_cells)
    else:
        profiles = read_cells(reference, method, of_cells, bulk)
    variable = _variable(variable_types, method, profiles.types)
    umi = profiles.mean_counts.sum(axis=0)
    sizes = cell_sizes(profiles.types, umi, cell_size)
    of_one_total = np.ptp(umi) < 1e-3 * umi.mean()
    if fractions == "cell" and cell_size in ("umi", "pooled") and of_one_total:
        warn(
            f"Every column of the signature sums to {umi.mean():.4g}: RNA content per cell is not in it, and "
            f"cell_size={cell_size!r} takes all types as equal in it. Pass mean counts per cell, or sizes as a dict."
        )
    bulk, copy = as_bulk(bulk), copy or isinstance(bulk, pd.DataFrame)
    share = profiles.mean_counts / umi
    batches = read_measured(
        bulk,
        profiles.genes,
        profiles.types,
        share,
        gene_scores(profiles.mean_counts, profiles.genes.to_numpy()) > 0,
        layer=bulk_layer,
        input_type=input_type,
        missing=missing,
        gene_length_key=gene_length_key,
        batch_key=batch_key,
        on_bad_sample=on_bad_sample,
    )
    if method == "robust" and min(len(batch.samples) for batch in batches) == 1 and options.get("gene_factor", True):
        warn("One sample has no gene factor: how bulk and reference platform differ shows in a cohort only.")
    chosen = [choose_genes(profiles, batch.present, genes) for batch in batches]
    content = sizes if of_one_total else umi
    solved = [
        _run(method, batch, profiles, at, content, device, options, variable)
        for batch, at in zip(batches, chosen, strict=True)
    ]
    rna, baseline, distances, fits = zip(*solved, strict=True)
    used = [_sizes(sizes, umi, distance) if cell_size == "pooled" else sizes for distance in distances]
    cells = [found / own for found, own in zip(rna, used, strict=True)]
    cells, rna, baseline = (_table(bulk, profiles.types, batches, parts) for parts in (cells, rna, baseline))
    n_samples = [len(batch.samples) for batch in batches]
    sizes = np.average([own / own.mean() for own in used], axis=0, weights=n_samples)
    result = bulk if not copy else bulk.to_memory() if bulk.isbacked else bulk.copy()
    result.obsm[key] = cells if fractions == "cell" else rna
    result.obsm[Keys.rna(key)] = rna
    result.obsm[Keys.nnls(key)] = baseline
    make_writable(result.obsm, (key, Keys.rna(key), Keys.nnls(key)))
    asked = {"method": method, "options": {name: value for name, value in options.items() if value is not None}}
    result.uns[key] = asked | {"fractions": fractions, "n_genes_fitted": min(map(len, chosen))}
    result.uns[key] |= _provenance(profiles, batches, sizes) | exceptions(bulk, batches)
    if variable:
        from ..models.hpvade._variable_types import variation_table

        result.uns[key]["variation"] = variation_table(fits, np.divide(n_samples, sum(n_samples)), profiles.types)
    return result if copy else None


def _provenance(profiles: Profiles, batches: list[Batch], sizes: np.ndarray) -> dict:
    """What the answer was made of; of several batches the genes that all measure."""
    measured = np.logical_and.reduce([batch.bulk.present & batch.present for batch in batches])
    return {
        "hpvade_version": version("hpvade"),
        "input_type": batches[0].bulk.input_type,
        "n_donors": profiles.n_donors,
        "n_genes": int(measured.sum()),
        "n_genes_missing": int((~measured).sum()),
        "gene_overlap": float(measured.mean()),
        # a table and not a dict: h5ad takes "CD4/CD8" as a key for two levels
        "cell_sizes": pd.DataFrame({"size": sizes / sizes.mean()}, index=profiles.types),
    }


def _sizes(pooled: np.ndarray, umi: np.ndarray, distance: float) -> np.ndarray:
    """RNA content per cell (types,) as the model takes it: pooled as far as the bulk is of another platform."""
    from ..models.hpvade._estimate import trust_in_published_sizes

    ratio = pooled / umi
    return umi * (ratio / ratio.mean()) ** trust_in_published_sizes(distance)


def _table(bulk: AnnData, types: list[str], batches: list[Batch], parts) -> pd.DataFrame:
    """Fractions (samples of the bulk x types), rows that sum to one; NaN for samples that were skipped."""
    return closed(placed(bulk, types, zip((batch.samples for batch in batches), parts, strict=True)))


def _check_options(method: str, options: dict) -> None:
    from .. import solvers

    known = [name for name in inspect.signature(getattr(solvers, method)).parameters if name not in _INTERNAL]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"method={method!r} has no option {listed(unknown)}; its options: {listed(known, 30)}.")
    for name, value in options.items():
        if not isinstance(value, bool | int | float | str | None):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a number, a text, True or False.")


def _variable(names: Sequence[str] | None, method: str, types: list[str]) -> tuple[int, ...]:
    if names is None:
        return ()
    from ..models.hpvade._variable_types import variable_columns

    if method != "robust":
        raise ValueError(f"variable_types is for method='robust'; found method={method!r}. Leave one of them out.")
    return variable_columns(names, types)


def _device(device: str):
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = torch.device(device)
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r} was asked for, but this machine has none. Use 'auto' or 'cpu'.")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device={device!r} has no float64, which the solvers need. Use 'auto', 'cpu' or 'cuda'.")
    return found


def _run(method: str, batch: Batch, profiles: Profiles, chosen, content, device, options, variable) -> tuple:
    """Fractions of RNA by the solver, and of cells by plain NNLS on all genes; platform distance; the solver's answer.

    `content` (types,) is the RNA content per cell with which equal numbers of cells become a prior.
    """
    import torch

    from .. import solvers
    from ..models.hpvade._estimate import FACTOR_SAMPLES, PRIOR_WEIGHT, cohort_distance

    shares, mean_counts, on, index = (
        torch.from_numpy(x).to(device) for x in (batch.bulk.shares, profiles.mean_counts, batch.present, chosen)
    )
    baseline = solvers.nnls(shares, mean_counts * on[:, None])
    arguments = [shares[:, index], (mean_counts / mean_counts.sum(dim=0))[index]]
    if method == "music":
        arguments.append(torch.from_numpy(profiles.variance).to(device)[index])
    if method == "robust":
        # as the model: drawn to equal numbers of cells where no gene decides
        equal = torch.from_numpy(content / content.sum()).to(device).expand(len(shares), -1)
        options = {
            "anchor": equal,
            "anchor_weight": PRIOR_WEIGHT,
            "depth": torch.from_numpy(batch.bulk.depth).to(device),
        } | options
    if variable:
        method_of, options = solvers.robust_variable, options | {"variable": variable}
    else:
        method_of = getattr(solvers, method)
    found = method_of(*arguments, **options)
    rna = (found.rna_proportions if method == "robust" else found).double()
    among = rna / rna.sum(dim=1, keepdim=True).clamp(min=1e-30)
    distance = cohort_distance(shares.double(), on, among, mean_counts, FACTOR_SAMPLES)
    return rna.cpu().numpy(), baseline.cpu().numpy(), distance, found
