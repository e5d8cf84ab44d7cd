"""Which gene a name means: Ensembl ids, current and previous symbols, decorated and damaged names."""

import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

PREFIX = {"human": "ENSG", "mouse": "ENSMUSG"}
_OTHER_IDS = r"ENS[A-Z]{0,6}G\d{11}(?:\.\d+)?|FBgn\d{7}|WBGene\d{8}|AT[1-5MC]G\d{5}"
_ENSEMBL = re.compile(r"^(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?$")
_INSIDE = re.compile(r"(?<![A-Z0-9])ENS[A-Z]*G\d{11}(?!\d)")
_GENOME = re.compile(r"^(?:hg19|hg38|GRCh3[78]|mm9|mm10|mm39|GRCm3[89])_+")
_ENTREZ_BEHIND = re.compile(r"\s*\(\d+\)$")
_MONTHS = {"jan": "JAN", "feb": "FEB", "mar": "MAR", "apr": "APR", "may": "MAY", "jun": "JUN", "jul": "JUL"} | {
    "aug": "AUG", "sep": "SEP", "oct": "OCT", "nov": "NOV", "dec": "DEC",
    "mär": "MAR", "mrz": "MAR", "mai": "MAY", "okt": "OCT", "dez": "DEC", "sept": "SEP", "march": "MAR",
}  # fmt: skip
_NAMES_OF_MONTH = {"MAR": ("MARCH", "MARC", "MAR"), "SEP": ("SEPT", "SEP")}
_BY_DAY = re.compile(r"^(\d{1,2})[-. /]{1,2}([^\W\d]{3,5})\.?(?:[-. /]\d{2,4})?$")
_BY_MONTH = re.compile(r"^([^\W\d]{3,5})\.?[-. /](\d{1,2})$")
_ISO = re.compile(r"^(?:19|20)\d\d-(\d\d)-(\d\d)(?:[ T]00:00:00)?$")
_LOOKED_AT = 3000
_SHORT = 4  # aliases such as p1 and p2 are what people call samples
_SURE = 0.2  # share of known names from which on a species is recognised


@cache
def gene_table(species: str) -> pd.DataFrame:
    """Genes of ``"human"`` or ``"mouse"``: Ensembl id, with the columns ``symbol`` and ``length`` in bases."""
    table = _read(f"genes_{species}.csv.gz")
    return table.drop(columns="number").set_axis(_ids(table["number"], species))


@cache
def _symbols(species: str) -> dict[str, str]:
    return {symbol: symbol for symbol in gene_table(species)["symbol"]}


@cache
def _of_ensembl(species: str) -> dict[str, str]:
    return gene_table(species)["symbol"].to_dict()


@cache
def _previous(species: str) -> dict[str, str]:
    """Previous and alias symbols, those of one gene only."""
    if species != "human":
        return {}
    table = _read("previous_human.csv.gz")
    gene = pd.Series(_ids(table["number"], species)).map(_of_ensembl(species))
    return dict(zip(table["name"], gene, strict=True))


@cache
def _capitals(species: str) -> dict[str, str]:
    """Human symbols of small letters as tables in capitals have them, such as C1ORF112."""
    names = (_previous(species) | _symbols(species)) if species == "human" else {}
    return {name.upper(): gene for name, gene in names.items() if "orf" in name}


def _read(file: str) -> pd.DataFrame:
    with files(__package__).joinpath("data", file).open("rb") as stream:
        return pd.read_csv(stream, compression="gzip", keep_default_na=False)


def _ids(numbers: pd.Series, species: str) -> list[str]:
    return [f"{PREFIX[species]}{number:011d}" for number in numbers]


def find_genes(names: Sequence[str], species: str) -> pd.DataFrame:
    """The gene that each name means.

    Parameters
    ----------
    names
        Names in any of the known forms.
    species
        ``"human"`` or ``"mouse"``; names of the other one are not found.

    Returns
    -------
    One row per name with the columns ``symbol``, the current one, missing where the name means no gene or several, and
    ``how``: ``"symbol"``, ``"ensembl"``, ``"previous"``, ``"decorated"``, ``"date"`` (damaged by Excel; also where no
    single gene fits) or ``""``.

    Examples
    --------
    >>> find_genes(["CD3E", "ENSG00000198851.10", "MARCH5", "7-Sep", "CD3E|916", "Cd3e"], "human")["symbol"].tolist()
    ['CD3E', 'CD3E', 'MARCHF5', 'SEPTIN7', 'CD3E', nan]
    """
    names = pd.Series([str(name).strip() for name in names], dtype=object)
    symbol, how = names.map(_symbols(species)).astype(object), np.full(len(names), "", dtype=object)
    how[symbol.notna()] = "symbol"
    for i in np.flatnonzero(symbol.isna()):
        symbol[i], how[i] = _find(names[i], species)
    return pd.DataFrame({"symbol": symbol, "how": how})


def _find(name: str, species: str) -> tuple[str | float, str]:
    """Symbol and kind of a name that is no current symbol."""
    ensembl = _ENSEMBL.match(name)
    if ensembl:
        return _of_ensembl(species).get(ensembl[1], np.nan), "ensembl"
    if name in _previous(species):
        return _previous(species)[name], "previous"
    if name in _capitals(species):
        return _capitals(species)[name], "previous"
    dates = date_genes(name, species)
    if dates is not None:
        return (dates[0] if len(dates) == 1 else np.nan), "date"
    inside = set(_INSIDE.findall(name))
    if len(inside) == 1 and (gene := _of_ensembl(species).get(inside.pop())):
        return gene, "decorated"
    found = {_plain(part, species) for part in _parts(name)} - {None}
    return (found.pop(), "decorated") if len(found) == 1 else (np.nan, "")


def _plain(name: str, species: str) -> str | None:
    return _symbols(species).get(name) or _previous(species).get(name)


def _parts(name: str) -> list[str]:
    """Names that may hide in a decorated one: behind a genome, before an Entrez id, beside an id, spelt by R."""
    if (bare := _GENOME.sub("", name)) != name:
        return [bare]
    if (bare := _ENTREZ_BEHIND.sub("", name)) != name:
        return [bare]
    if "|" in name or ";" in name:
        return [part.strip() for part in re.split(r"[|;]", name)]
    if _INSIDE.search(name):  # of a gene that the table lacks
        return [part for part in re.split(r"[_:, ]", name) if part]
    return [name.replace(".", "-")] if "." in name else []


def date_genes(name: str, species: str) -> list[str] | None:
    """Genes that Excel may have turned into the date `name`; None when it is no date."""
    if match := _BY_DAY.match(name):
        day, month = int(match[1]), _MONTHS.get(match[2].lower())
    elif match := _BY_MONTH.match(name):
        day, month = int(match[2]), _MONTHS.get(match[1].lower())
    elif match := _ISO.match(name):
        day, month = int(match[2]), list(dict.fromkeys(_MONTHS.values()))[int(match[1]) % 12 - 1]
    else:
        return None
    if month is None or not 1 <= day <= 31:
        return None
    spelt = [f"{stem}{day}" for stem in _NAMES_OF_MONTH.get(month, (month,))]
    if species == "mouse":
        spelt = [f"{name.capitalize()}" for name in spelt] + [f"Marchf{day}"] * (month == "MAR")
        spelt += [f"Septin{day}"] * (month == "SEP") + [f"Mtarc{day}"] * (month == "MAR")
    return sorted({gene for gene in (_plain(name, species) for name in spelt) if gene})


def find_species(names: Sequence[str]) -> str | None:
    """``"human"``, ``"mouse"``, ``"mixed"`` when both have many, None when neither is recognised."""
    sample = _sample(names)
    share = {species: _known(sample, species) for species in PREFIX}
    best = max(share, key=share.get)
    if share[best] < _SURE:
        return None
    return "mixed" if min(share.values()) > max(_SURE, 0.5 * share[best]) else best


def gene_likeness(names: Sequence[str]) -> float:
    """Share of `names` that are known genes or have the form of a gene id, over up to 3,000 of them."""
    sample = pd.Series(_sample(names), dtype=object)
    if not len(sample):
        return 0.0
    is_id = sample.str.fullmatch(_OTHER_IDS)
    return float(max((is_id | _knows(sample, species)).mean() for species in PREFIX))


def _known(names: list[str], species: str) -> float:
    return float(_knows(pd.Series(names, dtype=object), species).mean()) if names else 0.0


def _knows(names: pd.Series, species: str) -> pd.Series:
    found = find_genes(names, species)
    known = found["symbol"].notna() & (found["how"] != "date")  # dates say nothing of the species
    known &= ~((found["how"] == "previous") & (names.str.len() < _SHORT).to_numpy())
    return known | names.str.match(PREFIX[species] + r"\d{11}").astype(bool)


def _sample(names: Sequence[str]) -> list[str]:
    step = max(1, len(names) // _LOOKED_AT)
    return [str(name).strip() for name in list(names)[::step]]


def add_up(adata, names: pd.Index):
    """A copy of `adata`, in memory, with genes called `names`; those of one name are added up, in `X` and every layer.

    A matrix on disk is read a block of rows at a time.
    """
    from anndata import AnnData
    from scipy import sparse

    from ._rows import is_dask, on_disk

    unique = pd.Index(names).unique()
    codes = unique.get_indexer(names)
    var = adata.var.iloc[np.unique(codes, return_index=True)[1]].copy()
    var.index = unique
    pool = sparse.csr_matrix((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), len(unique)))

    def pooled(matrix):
        if is_dask(matrix):
            if len(unique) == len(codes):
                return matrix.copy()
            one = matrix.rechunk({1: -1})
            return one.map_blocks(pooled, chunks=(one.chunks[0], (len(unique),)), dtype=matrix.dtype)
        if len(unique) < len(codes):
            return _summed(matrix, pool)
        return matrix[:] if on_disk(matrix) else matrix.copy()

    layers = {key: pooled(layer) for key, layer in adata.layers.items()}
    out = AnnData(None if adata.X is None else pooled(adata.X), obs=adata.obs.copy(), var=var, layers=layers)
    out.obsm.update({key: value.copy() for key, value in adata.obsm.items()})
    out.uns.update(adata.uns)
    return out


def _summed(matrix, pool):
    """`matrix` @ `pool` (genes x names) in the dtype of `matrix`, a block of rows at a time; CSR or an array."""
    from anndata.abc import CSCDataset, CSRDataset
    from scipy import sparse

    from ._rows import iter_rows, stack_rows

    if sparse.issparse(matrix) or isinstance(matrix, CSRDataset | CSCDataset):
        blocks = ((block @ pool).astype(matrix.dtype) for _, block in iter_rows(matrix))
        return stack_rows(blocks, pool.shape[1], matrix.dtype)
    summed = np.empty((matrix.shape[0], pool.shape[1]), matrix.dtype)
    for rows, block in iter_rows(matrix, dense=True):
        summed[rows] = block @ pool
    return summed


def match_genes(names: pd.Index, wanted: pd.Index, species: str) -> pd.DataFrame:
    """Translate `names` to the spelling of `wanted`, by the gene that both mean.

    Returns
    -------
    One row per name: ``symbol`` and ``how`` as from `find_genes`, and ``name``, that of `wanted`, missing where there
    is none. Names that `wanted` has stay, with ``how`` ``"same"``; where several of `wanted` mean one gene, its symbol
    or else the first is taken.
    """
    found = find_genes(names, species)
    theirs = find_genes(wanted, species)
    theirs["name"] = np.asarray(wanted, dtype=object)
    # a symbol before an id, previous or decorated name of the same gene
    theirs = theirs.dropna(subset="symbol").sort_values("how", key=lambda how: how != "symbol", kind="stable")
    spelling = theirs.drop_duplicates("symbol").set_index("symbol")["name"]
    same = np.asarray(names.isin(wanted))
    found["name"] = found["symbol"].map(spelling).where(~same, np.asarray(names, dtype=object))
    found.loc[same, "how"] = "same"
    return found
