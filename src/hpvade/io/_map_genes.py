"""Gene names that meet: one spelling for bulk and reference; public as :func:`hpvade.pp.map_genes`."""

from collections.abc import Iterable, Sequence
from typing import Literal

import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._text import check_adata, is_mudata, listed, warn
from ._frames import as_bulk
from ._gene_map import PREFIX, add_up, find_genes, find_species, gene_table, match_genes
from ._rows import pick_matrix
from ._units import detect_units


def map_genes(
    adata: AnnData,
    to: Literal["symbol", "ensembl"] | AnnData | Sequence[str] = "symbol",
    *,
    species: Literal["human", "mouse"] | None = None,
    duplicates: Literal["sum", "first", "error"] = "sum",
) -> AnnData:
    """Translate the names of genes.

    Read are Ensembl ids with or without version, current symbols, previous and alias symbols of one gene (human),
    decorated names (``CD3E|ENSG...``, ``ENSG..._CD3E``, ``CD3E|916``, ``CD3E (916)``, ``hg19_CD3E``, ``HLA.A`` as R
    spells it), and the dates that Excel makes of MARCH5 or SEPT7, where one gene only fits. The tables are those of
    GENCODE and HGNC that the package ships. Names that mean no gene, or several, stay as they are.

    Parameters
    ----------
    adata
        Samples or cells x genes, an AnnData or a DataFrame; it is not changed.
    to
        ``"symbol"`` or ``"ensembl"``; or the reference, its names, or the model, whose spelling is to be met.
    species
        ``"human"`` or ``"mouse"``; told by the names when None. The two are never mapped onto each other.
    duplicates
        What to do with names that become one: ``"sum"``, which is right for counts and other linear values, keep the
        ``"first"``, or raise an ``"error"``.

    Returns
    -------
    A new AnnData. ``var["original_name"]`` has the first of the names that became one; ``uns["hpvade_gene_map"]`` the
    ``species``, how many names were found and ``how``, the ``share`` of genes found (of the names in `to`, if such are
    given), ``summed`` names, ``repaired`` dates (``"7-Sep: SEPTIN7"``) and ``unclear`` ones.

    Raises
    ------
    ValueError
        The species is not recognised, mixed, or another than that of `to`; names are one gene in logged values, or with
        ``duplicates="error"``.

    Warns
    -----
    UserWarning
        Dates were repaired, or could not be.

    References
    ----------
    Mudge et al., Nucleic Acids Research 53 (2025), GENCODE; Seal et al., Nucleic Acids Research 51 (2023), HGNC;
    Ziemann et al., Genome Biology 17 (2016), on dates.

    Examples
    --------
    >>> import numpy as np
    >>> names = pd.DataFrame(index=["ENSG00000198851.10", "MARCH5", "CD19"])
    >>> bulk = map_genes(AnnData(np.array([[5.0, 1.0, 3.0]]), var=names))
    >>> list(bulk.var_names)
    ['CD3E', 'MARCHF5', 'CD19']
    """
    if duplicates not in ("sum", "first", "error"):
        raise ValueError(f"duplicates={duplicates!r}; expected 'sum', 'first' or 'error'.")
    check_adata(adata, "adata", frame=True)
    adata = as_bulk(adata)
    if is_mudata(to):
        check_adata(to, "to")
    names = adata.var_names.astype(str)
    wanted = None if isinstance(to, str) else _names_of(to)
    species = _species(names, species, wanted)
    found = _translated(names, to, wanted, species)
    new = pd.Index(found["name"].where(found["name"].notna(), names).astype(str).to_numpy(), name=names.name)
    twice = new.duplicated()
    out = _united(adata, new, duplicates)
    summary = _summary(names, found, wanted, out.var_names, species, int(twice.sum()))
    out.uns[Keys.GENE_MAP] = summary
    dates = summary["repaired"] + summary["unclear"]
    if dates:
        warn(
            f"Excel turned {len(dates)} names of genes into dates. Repaired: {listed(summary['repaired'])}; "
            f"without a single gene that fits: {listed(summary['unclear'])}."
        )
    return out


def _names_of(to) -> pd.Index:
    """The names whose spelling is to be met: of a reference, of a model, or as they are."""
    names = to.get_var_names() if hasattr(to, "get_var_names") else getattr(to, "var_names", to)
    if not isinstance(names, Iterable):
        raise TypeError(
            f"to is a {type(to).__name__}; expected 'symbol', 'ensembl', the reference, its names or a model."
        )
    return pd.Index(list(names)).astype(str)


def _species(names: pd.Index, species: str | None, wanted: pd.Index | None) -> str:
    """The species of `names`, which must be that of `wanted`, too."""
    if species is not None and species not in PREFIX:
        raise ValueError(f"species={species!r}; expected one of {', '.join(map(repr, PREFIX))}.")
    there = None if wanted is None else find_species(wanted)
    here = species or find_species(names) or there
    if here == "mixed":
        raise ValueError(
            "The names are those of two species, human and mouse. Split the data by species, or say which one to "
            "translate with species='human' or species='mouse'."
        )
    if here is None:
        raise ValueError(
            f"The names ({listed(list(names[:3]))}) are no genes of human or mouse that the tables know. Say the "
            "species with species='human' or species='mouse', or translate the names yourself."
        )
    if there not in (None, "mixed", here):
        raise ValueError(
            f"The genes are {here} ones, and the names to translate to are {there} ones. Species are never mapped onto "
            "each other silently: translate to orthologs first, or take a reference of the same species."
        )
    return here


def _translated(names: pd.Index, to, wanted: pd.Index | None, species: str) -> pd.DataFrame:
    if wanted is not None:
        return match_genes(names, wanted, species)
    found = find_genes(names, species)
    if to == "symbol":
        return found.assign(name=found["symbol"])
    if to != "ensembl":
        raise ValueError(f"to={to!r}; expected 'symbol', 'ensembl', an AnnData, or names of genes.")
    table = gene_table(species)["symbol"]
    ids = table[~table.duplicated(keep=False)]
    by_symbol = found["symbol"].map(pd.Series(ids.index, index=ids.to_numpy()))
    bare = pd.Series(names).str.extract(r"^(ENS[A-Z]*G\d{11})(?:\.\d+)?$", expand=False)
    return found.assign(name=bare.where(bare.notna(), by_symbol))


def _united(adata: AnnData, names: pd.Index, duplicates: str) -> AnnData:
    twice = names.duplicated()
    if twice.any() and duplicates == "error":
        raise ValueError(
            f"{int(twice.sum())} names become those of other genes, such as {listed(list(names[twice].unique()[:3]))}. "
            "Pass duplicates='sum' or 'first'."
        )
    original = adata.var_names
    if duplicates == "first" and twice.any():
        adata, original, names = adata[:, ~twice], original[~twice], names[~twice]
    elif twice.any():
        _refuse_logged(adata)
    out = add_up(adata, names)
    out.var["original_name"] = original[~names.duplicated()].to_numpy()
    return out


def _refuse_logged(adata: AnnData) -> None:
    X, _ = pick_matrix(adata, None, "adata")
    if detect_units(X) == "log":
        raise ValueError(
            "Several names become one gene, but X looks log-transformed, and logs cannot be added up. Undo the log "
            "first, or pass duplicates='first'."
        )


def _summary(names, found, wanted, new: pd.Index, species: str, n_twice: int) -> dict:
    date = (found["how"] == "date").to_numpy()
    known = date & found["name"].notna().to_numpy()
    share = found["name"].notna().mean() if wanted is None else wanted.isin(new).mean()
    return {
        "species": species,
        "how": {str(how): int(count) for how, count in found.loc[found["name"].notna(), "how"].value_counts().items()},
        "share": float(share),
        "summed": n_twice,
        "repaired": [f"{old}: {name}" for old, name in zip(names[known], found["name"][known], strict=True)],
        "unclear": list(names[date & ~known]),
    }
