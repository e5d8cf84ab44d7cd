"""What goes wrong with gene names, said in a way that helps."""

import pandas as pd
from anndata import AnnData

from ._gene_map import find_species, match_genes
from ._rows import in_memory

MAP_GENES = (
    "pass map_genes=True to `deconvolve`. Elsewhere, take `hp.pp.map_genes(bulk, genes)` with the names of the "
    "reference."
)
_ENSEMBL = r"^ENS[A-Z]*G\d{6,}(?:\.\d+)?$"
_VERSION = r"\.\d+$"


def refuse_duplicates(names: pd.Index, name: str) -> None:
    """Raise ValueError that lists up to three gene names that occur more than once in `name`.var_names."""
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{name}.var_names has {len(twice)} gene names more than once, such as {list(twice[:3])}; genes are "
            "aligned by name, so each must be unique. Add up the columns of a gene, as "
            f"`{name} = hp.pp.map_genes({name})` does, or keep its first with "
            f"`{name} = {name}[:, ~{name}.var_names.duplicated()].copy()`. `var_names_make_unique` would hide them."
        )


def of_other_species(names: pd.Index, genes: pd.Index) -> bool:
    """Whether one side has human genes and the other mouse genes."""
    return {find_species(names), find_species(genes)} == {"human", "mouse"}


def in_other_case(names: pd.Index, missing: pd.Index) -> list[str]:
    """A sentence about genes that are `missing` among `names` by upper and lower case only; none if they are few."""
    lost = missing[missing.str.casefold().isin(names.str.casefold())]
    if len(lost) < max(0.05 * len(missing), 10):
        return []
    return [
        f"{len(lost)} of these are there in other upper or lower case, as {lost[0]!r}: write the names as the "
        "reference does."
    ]


def explain_mismatch(bulk: AnnData, genes: pd.Index) -> str:
    """Say why few of `genes` are in `bulk.var_names`, and what to do.

    Looks for genes as rows, a small panel of genes, another species, other names of the same genes, the right names in
    another column of `bulk.var`, Ensembl versions, upper and lower case, and Ensembl or Entrez identifiers against
    symbols, in this order.
    """
    names = bulk.var_names.astype(str)

    def share(others) -> float:
        return float(genes.isin(others).mean())

    if share(bulk.obs_names) > share(names) or (_ensembl(bulk.obs_names) and not _ensembl(names)):
        return "bulk.obs_names are genes: the matrix is transposed (genes as rows). Use bulk.T, samples must be rows."
    if names.isin(genes).mean() >= 0.5:
        return (
            "Most genes of the bulk are known, but they are few, or alike in all types. Use more genes, or merge types "
            "that they do not tell apart."
        )
    if (translated := _translated(names, genes)) is not None:
        return translated
    for key, column in in_memory(bulk.var).select_dtypes(["object", "category", "string"]).items():
        if share(column.astype(str)) >= 0.5:
            return f"They are in another column: `bulk.var_names = bulk.var[{key!r}].astype(str)`."
    if genes.str.replace(_VERSION, "", regex=True).isin(names.str.replace(_VERSION, "", regex=True)).mean() >= 0.5:
        return (
            "The Ensembl ids differ only in their version suffix. Remove it on both sides, for the bulk with "
            r"`bulk.var_names = bulk.var_names.str.replace(r'\.\d+$', '', regex=True)`."
        )
    if genes.str.casefold().isin(names.str.casefold()).mean() >= 0.5:
        return (
            "The names differ only in upper and lower case, as between human and mouse symbols. If the species is the "
            "same, write the names as the reference does; otherwise map orthologs."
        )
    for here, there, who, other in ((names, genes, "bulk", "model"), (genes, names, "model", "bulk")):
        if _ensembl(here) and not _ensembl(there):
            return (
                f"The {who} has Ensembl ids, the {other} gene symbols. For human and mouse genes, {MAP_GENES} "
                "Translate those of other species yourself."
            )
        if here.str.fullmatch(r"\d+").mean() > 0.5:
            return (
                f"The {who}'s names are numbers (Entrez ids or row numbers). Use the same kind of names on both sides."
            )
    return "Use the same gene identifiers (Ensembl or symbols), genome annotation and species as the reference."


def _translated(names: pd.Index, genes: pd.Index) -> str | None:
    """What `hpvade.pp.map_genes` would do about the mismatch."""
    here, there = find_species(names), find_species(genes)
    if {here, there} == {"human", "mouse"}:
        return (
            f"The bulk has {here} genes, the model {there} ones. Take a reference of the same species, or translate to "
            "orthologs first."
        )
    species = here or there
    if species not in ("human", "mouse"):
        return None
    share = genes.isin(match_genes(names, genes, species)["name"].dropna()).mean()
    if share < 0.5:
        return None
    return f"They are other names of the same genes. To find {share:.0%} of the model's, {MAP_GENES}"


def _ensembl(names: pd.Index) -> bool:
    return names.astype(str).str.match(_ENSEMBL).mean() > 0.5
