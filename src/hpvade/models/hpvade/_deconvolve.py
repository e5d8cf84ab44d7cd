"""From bulk samples to a table of proportions: what was estimated, closed, named and written at once."""

from dataclasses import asdict, dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from ..._keys import Keys, check_key
from ...io._map_genes import map_genes as translate_genes
from ...io._names import make_writable
from ...reference._measured import Batch, exceptions, placed
from ...solvers import nnls
from ._consensus import disagreement_table
from ._estimate import Estimate, estimates
from ._unknown import UNKNOWN, check_unknown, find_unknown, similarity
from ._variable_types import check_variable, variable_columns, variation_table


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
    studies: pd.DataFrame | None = None
    variation: pd.DataFrame | None = None
    sorted_profiles: pd.DataFrame | None = None


@torch.no_grad()
def deconvolve(
    model,
    bulk: AnnData,
    *,
    fractions: str,
    key_added: str,
    unknown: bool,
    refine: bool,
    baseline: bool,
    map_genes: bool = False,
    estimator=estimates,
    **options,
) -> pd.DataFrame:
    """See `HPVADE.deconvolve`; `estimator` takes the arguments of `estimates`."""
    model._require_trained("deconvolve")
    check_key(key_added)
    if fractions not in ("cell", "rna"):
        raise ValueError(f"fractions={fractions!r} is unknown; expected 'cell' or 'rna'.")
    if unknown:
        check_unknown(model, bulk, refine)
        check_variable(variable_columns(options.get("variable_types"), model.cell_types), unknown=True)
    mapped = translate_genes(bulk, pd.Index(np.asarray(model.get_var_names()))) if map_genes else bulk
    cohorts = estimator(model, mapped, refine=refine, split=not unknown, **options)
    extra = None
    if unknown:  # the table of the known types is theirs among themselves until the share is taken off
        (batch, found), module = cohorts[0], model.module
        extra = find_unknown(module, found)
        known = extra.rna_proportions / extra.rna_proportions.sum(dim=1, keepdim=True).clamp(min=1e-12)
        if found.studies:  # the mean over studies, moved as the unknown moves the fit of all studies together
            known = (found.rna + known - found.fit.rna_proportions).clamp(min=0)
            known = known / known.sum(dim=1, keepdim=True).clamp(min=1e-12)
        same = extra.unknown[:, None] == 0
        found.cells = torch.where(same, found.cells, module.rna_to_cells(known, found.sizes))
        found.rna = torch.where(same, found.rna, known)

    def table(fractions) -> pd.DataFrame:
        parts = []
        for batch, found in cohorts:
            x = fractions(found).double()
            parts.append((batch.samples, (x / x.sum(dim=1, keepdim=True).clamp(min=1e-300)).cpu().numpy()))
        return placed(bulk, model.cell_types, parts)

    def with_unknown(known: pd.DataFrame) -> pd.DataFrame:
        if extra is None:
            return known
        share = np.full(len(known), np.nan)
        share[batch.samples] = extra.unknown.double().cpu().numpy()
        return known.mul(1 - share, axis=0).assign(**{UNKNOWN: share})

    rna_table = table(lambda found: found.rna)
    result = table(lambda found: found.cells) if fractions == "cell" else rna_table
    by_nnls = None
    if baseline:
        by_nnls = table(lambda found: _nnls(model.module, found))
    provenance = asdict(_provenance(model, fractions, cohorts)) | exceptions(bulk, [batch for batch, _ in cohorts])
    provenance = {name: value for name, value in provenance.items() if value is not None}
    result, rna_table = with_unknown(result), with_unknown(rna_table)
    bulk.obsm[key_added] = result
    bulk.obsm[Keys.rna(key_added)] = rna_table
    if by_nnls is not None:
        bulk.obsm[Keys.nnls(key_added)] = by_nnls
    else:  # of an earlier call, about other answers
        bulk.obsm.pop(Keys.nnls(key_added), None)
    bulk.uns[key_added] = provenance
    if map_genes:
        bulk.uns[Keys.GENE_MAP] = mapped.uns[Keys.GENE_MAP]
    if extra is not None:
        names = np.asarray(model.get_var_names())[found.present.cpu().numpy()]
        profile = pd.Series(1e6 * extra.profile.double().cpu().numpy(), index=names)
        bulk.varm[Keys.unknown(key_added)] = _of_bulk(profile, bulk, mapped).to_frame(UNKNOWN)
        bulk.uns[key_added]["unknown_similarity"] = similarity(model, found, extra)
    make_writable(bulk.obsm, (key_added, Keys.rna(key_added), Keys.nnls(key_added)))
    return result.copy()


def _of_bulk(profile: pd.Series, bulk: AnnData, mapped: AnnData) -> pd.Series:
    """Values of genes of `mapped` by the names of `bulk`; those of names that were added up stand at the first."""
    if mapped is not bulk:
        profile = profile.reindex(mapped.var_names).set_axis(mapped.var["original_name"].to_numpy())
    return profile.reindex(bulk.var_names)


def _nnls(module, found: Estimate) -> Tensor:
    """The baseline: plain non-negative least squares on all genes that take part."""
    return nnls(found.shares, module.mean_counts * found.present[:, None]) if found.nnls is None else found.nnls


def _provenance(model, fractions: str, cohorts: list[tuple[Batch, Estimate]]) -> Provenance:
    """How the tables were made; of several cohorts the genes that all measure, and means over their samples."""
    measured = np.logical_and.reduce([batch.bulk.present & batch.present for batch, _ in cohorts])
    weight = np.array([len(batch.samples) for batch, _ in cohorts]) / sum(len(batch.samples) for batch, _ in cohorts)
    sizes = torch.stack([found.sizes / found.sizes.mean() for _, found in cohorts]).double().cpu().numpy()
    studies = None
    if cohorts[0][1].studies:
        parts = [disagreement_table(found.studies) for _, found in cohorts]
        studies = sum(share * part for share, part in zip(weight, parts, strict=True))
    fits = [found.fit for _, found in cohorts]
    return Provenance(
        studies=studies,
        variation=variation_table(fits, weight, model.cell_types),
        sorted_profiles=_sorted_table(model.module, model.cell_types),
        hpvade_version=version("hpvade"),
        model=type(model).__name__,
        preset=model.preset,
        fractions=fractions,
        input_type=cohorts[0][0].bulk.input_type,
        refined=cohorts[0][1].fit is not None,
        n_genes=int(measured.sum()),
        n_genes_missing=int((~measured).sum()),
        gene_overlap=float(measured.mean()),
        platform_distance=float(weight @ [found.platform_distance for _, found in cohorts]),
        calibrated=bool(model.module.size_offset.any()),
        # a table and not a dict: h5ad takes "CD4/CD8" as a key for two levels
        cell_sizes=pd.DataFrame({"size": weight @ sizes}, index=model.cell_types),
    )


def _sorted_table(module, types: list[str]) -> pd.DataFrame | None:
    """Spread over genes that the platform factor leaves, for types from sorted bulk; None for none."""
    log_sd = module.sorted_log_sd.double().cpu().numpy()
    table = pd.DataFrame({"log_sd": log_sd}, index=types)
    return table[log_sd > 0] if (log_sd > 0).any() else None
