"""Relative RNA content per cell: published tables, and their pool with what the reference shows.

Values are those that SimBu collected (Dietrich et al. 2022, Bioinformatics), each table in its own unit. Their ratios
differ about twofold between tables, so they are a prior, not a constant.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

_T = 0.3952
PUBLISHED = {
    # Racle et al. 2017, eLife 6: e26476; one value for all T cells
    "epic": {
        "B": 0.4016, "T": _T, "CD4 T": _T, "CD8 T": _T, "Treg": _T,
        "NK": 0.4396, "Mono": 1.4196, "Macrophage": 1.4196, "Neutrophil": 0.13,
    },
    # Finotello et al. 2019, Genome Medicine 11: 34; T is the mean of its three T cells, Macrophage is M1
    "quantiseq": {
        "B": 65.66148, "T": 68.89323, "CD4 T": 63.872, "CD8 T": 70.25659, "Treg": 72.5511,
        "NK": 117.71584, "Mono": 130.65455, "Macrophage": 138.1152, "Neutrophil": 27.73634, "DC": 140.76091,
    },
    # Monaco et al. 2019, Cell Reports 26: 1627; B, CD4 T and CD8 T are naive cells, Mono is classical, DC is myeloid
    "abis": {
        "B": 24162.648934, "Plasma": 325800.989149, "CD4 T": 14262.064545, "CD8 T": 10660.952413,
        "NK": 21456.90598, "Mono": 22824.322779, "Neutrophil": 9546.742675, "DC": 57322.183941, "pDC": 28488.19477,
    },
}  # fmt: skip
SOURCES = ("pooled", "umi", *PUBLISHED, None)

_NOUNS = {
    "B": "b bcell bcells",
    "Plasma": "plasma plasmablast plasmablasts plasmacyte plasmacytes",
    "T": "t tcell tcells ctl tcm tem temra tscm trm",
    "CD4 T": "cd4 thelper tfh th1 th2 th17",
    "CD8 T": "cd8 cd8a cd8b",
    "Treg": "treg tregs",
    "NK": "nk nkcell nkcells",
    "Mono": "mono monos monocyte monocytes",
    "Macrophage": "macrophage macrophages mac macs",
    "Neutrophil": "neutrophil neutrophils neut neutro granulocyte granulocytes",
    "DC": "dc dcs dendritic mdc cdc mdcs cdcs dc1 dc2 dc3 cdc1 cdc2",
    "pDC": "pdc pdcs",
}
_CLASS = {word: name for name, words in _NOUNS.items() for word in words.split()}
_BROADER = {"CD4 T": {"T"}, "CD8 T": {"T"}, "Treg": {"CD4 T", "T"}, "Plasma": {"B"}, "pDC": {"DC"}}
_SHARPER = {
    ("T", "cytotoxic"): "CD8 T",
    ("T", "ctl"): "CD8 T",
    ("T", "helper"): "CD4 T",
    ("T", "regulatory"): "Treg",
    ("CD4 T", "regulatory"): "Treg",
    ("T", "reg"): "Treg",
    ("CD4 T", "reg"): "Treg",
    ("DC", "plasmacytoid"): "pDC",
}
_NEUTRAL_WORDS = """
    cell cells lymphocyte lymphocytes human blood peripheral circulating pos positive low lo high hi dim bright int
    intermediate naive memory mem central effector eff cm em emra activated resting classical nonclassical conventional
    myeloid switched unswitched immature mature transitional follicular thymus derived terminally differentiated alpha
    beta ab fcgr3a m0 m1 m2 ld
"""
_NEUTRAL = {*_NEUTRAL_WORDS.split(), *(word for _, word in _SHARPER)}


def canonical_class(label: str) -> str | None:
    """Class of `label` in the published tables, or None when any of its words says something else.

    Every word must be known: "CD14+ Mono" is Mono and "naive CD4 T cell" is CD4 T, while "B-ALL", "NKT", "gdT",
    "CD4/CD8 T", "NK-92" and "Beta" are None.
    """
    text = unicodedata.normalize("NFKD", label).lower()
    text = "".join(c for c in text if not unicodedata.combining(c)).replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"non[\s_-]classical", "nonclassical", re.sub(r"natural[\s_-]killer", "nk", text))
    # a marker's minus sign ("CD16- NK", "CD4-CD8- T") is not a hyphen ("CD4-T"); "CD4T" and "CD56dim" are two words
    text = re.sub(r"(?<![a-z0-9])(cd\d+[a-c]?)(-(?=\s|$|,|cd)|[\s-]*neg(ative)?\b)", r"\1 minus ", text)
    text = re.sub(r"(cd\d+)(?=t\b|[a-z]{2})", r"\1 ", text)
    words = re.findall(r"[^\W_]+", text)
    if any(b == "minus" and a in _CLASS for a, b in pairwise(words)):
        return None
    words = set(words) - {"minus"}
    if any(not re.fullmatch(r"cd\d+[a-c]?", word) for word in words - _CLASS.keys() - _NEUTRAL):
        return None
    found = {_CLASS[word] for word in words & _CLASS.keys()}
    found -= set().union(*(_BROADER.get(name, set()) for name in found))
    if len(found) != 1:
        return None
    (name,) = found
    return next((_SHARPER[name, word] for word in sorted(words) if (name, word) in _SHARPER), name)


def published_sizes(source: str, types: Sequence[str]) -> np.ndarray:
    """Published RNA content per cell of each type, NaN where the table has no value; shape (types,), the table's unit.

    Parameters
    ----------
    source
        ``"epic"``, ``"quantiseq"`` or ``"abis"``.
    types
        Labels in the user's words, see :func:`canonical_class`.

    Raises
    ------
    ValueError
        If `source` is not one of the tables.
    """
    if source not in PUBLISHED:
        raise ValueError(f"no published table {source!r}; expected one of {', '.join(map(repr, PUBLISHED))}")
    return np.array([PUBLISHED[source].get(canonical_class(str(label)), np.nan) for label in types])


def pool_sizes(sources: Sequence[np.ndarray]) -> np.ndarray:
    r"""Pool sizes that are each known up to a factor: least squares of :math:`\log s_{sk} = c_s + \log m_k`.

    Each known entry has equal weight. With complete sources this is their geometric mean, each scaled to geometric
    mean one. A source with fewer than two entries says nothing about ratios and drops out.

    Parameters
    ----------
    sources
        Vectors of shape (types,), positive, NaN where unknown.

    Returns
    -------
    Sizes of shape (types,), with geometric mean one.

    Raises
    ------
    ValueError
        If an entry is not positive, or some types are compared with the others by no source.
    """
    log_sizes = np.log(np.array([_positive(source, "a source", allow_nan=True) for source in sources]))
    n_types = log_sizes.shape[1]
    normal, target = np.zeros((n_types, n_types)), np.zeros(n_types)
    for row in log_sizes:  # c_s is profiled out by centring over the known entries
        known = np.isfinite(row).astype(float)
        centre = np.diag(known) - np.outer(known, known) / max(known.sum(), 1)
        normal += centre
        target += centre @ np.nan_to_num(row)
    if np.linalg.matrix_rank(normal, hermitian=True) < n_types - 1:
        raise ValueError("the sources do not compare all types with one another; expected one that covers every type")
    log_m = np.linalg.pinv(normal, hermitian=True) @ target
    return np.exp(log_m - log_m.mean())


def cell_sizes(
    types: Sequence[str], umi: np.ndarray, source: str | Mapping[str, float] | None = "pooled"
) -> np.ndarray:
    """Relative RNA content per cell of each type.

    Parameters
    ----------
    types
        Labels of the reference.
    umi
        UMI counts per reference cell of each type, shape (types,).
    source
        ``"pooled"``: `umi` and the three published tables together, see :func:`pool_sizes`; ``"umi"``: `umi`;
        ``"epic"``, ``"quantiseq"``, ``"abis"``: that table, with `umi` for the types it lacks, scaled to match on the
        shared ones; None: all equal; a dict ``{type: size}`` over all types.

    Returns
    -------
    Sizes of shape (types,), with geometric mean one.

    Raises
    ------
    ValueError
        If `source` is unknown, a dict misses types or names others, a size is not positive and finite, or the table
        asked for by name has none of the types.

    Examples
    --------
    >>> from hpvade.reference._cell_size import cell_sizes
    >>> cell_sizes(["CD4 T", "Mono"], [1000.0, 1500.0], "umi").round(3)
    array([0.816, 1.225])
    """
    types = list(types)
    if source is None:
        return np.ones(len(types))
    if isinstance(source, Mapping):
        missing, extra = [t for t in types if t not in source], [t for t in source if t not in types]
        if missing or extra:
            raise ValueError(f"cell sizes must name every type once; missing: {missing}, unknown: {extra}")
        return pool_sizes([_positive([source[t] for t in types], "cell sizes")])
    if source not in SOURCES:
        choices = ", ".join(map(repr, SOURCES))
        raise ValueError(f"unknown source of cell sizes {source!r}; expected one of {choices} or a dict {{type: size}}")
    umi = _positive(umi, "UMI counts per cell")
    if umi.shape != (len(types),):
        raise ValueError(f"UMI counts per cell have shape {umi.shape}; expected one value for each of {types}")
    if source == "umi":
        return pool_sizes([umi])
    if source == "pooled":
        return pool_sizes([umi, *(published_sizes(name, types) for name in PUBLISHED)])
    table = published_sizes(source, types)
    known = np.isfinite(table)
    if not known.any():
        raise ValueError(f"the {source!r} table has none of the types {types}; use 'umi' or a dict {{type: size}}")
    scale = np.exp(np.mean(np.log(table[known] / umi[known])))
    return pool_sizes([np.where(known, table, scale * umi)])


def _positive(sizes, what, *, allow_nan=False):
    """`sizes` as floats, refused unless positive and finite (or NaN where allowed)."""
    sizes = np.asarray(sizes, dtype=float)
    good = (sizes > 0) & (sizes < np.inf) | (np.isnan(sizes) if allow_nan else False)
    if not good.all():
        raise ValueError(f"{what} must be positive and finite; found {sizes[~good].tolist()[:3]}")
    return sizes
