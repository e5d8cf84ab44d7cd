"""What is known of blood: which genes a type has, which it cannot have, and how people call it.

Sources: Monaco et al. 2019 (Cell Reports 26: 1627, RNA of 29 sorted types) and Hao et al. 2021 (Cell 184: 3573,
CITE-seq) for all; Villani et al. 2017 (Science 356: eaah4573) for DC and monocytes; Uhlen et al. 2019 (Science 366:
eaax9198, the blood atlas of the Human Protein Atlas) as a check. `lacks` are genes that define another lineage and
that cells of a type do not transcribe; `rarely` are genes that a part of them does (CD3 in NK cells), which speak
against a type in one cell but say nothing of a share. Monocytes have CD4, NK cells may have CD8A, CD79B is in T cells,
and LYZ is ambient everywhere, so these are in neither.
"""

import re

_CD3 = ["CD3D", "CD3E", "CD3G"]
_CD8 = ["CD8A", "CD8B"]
_B = ["MS4A1", "CD79A", "CD19"]
_MONO = ["CD14", "S100A12", "VCAN", "MS4A7"]
_NK = ["KLRF1", "NCAM1"]
_DC = ["FCER1A", "CLEC10A", "CD1C", "LILRA4", "CLEC4C"]
_PLATELET = ["PPBP", "PF4"]

MARKERS: dict[str, dict[str, list[str]]] = {
    "B": {"has": _B, "lacks": [*_CD3, *_CD8, *_NK, *_MONO, *_PLATELET, "FCER1A", "CLEC10A", "LILRA4"]},
    "CD4 T": {"has": _CD3, "lacks": [*_CD8, *_B, *_MONO, *_PLATELET], "rarely": _NK},
    "CD8 T": {"has": _CD8, "lacks": [*_B, *_MONO, *_PLATELET], "rarely": _NK},
    "T": {"has": _CD3, "lacks": [*_B, *_MONO, *_PLATELET]},
    "NK": {"has": [*_NK, "GNLY", "NKG7", "KLRD1"], "lacks": ["CD8B", *_B, *_MONO, *_PLATELET], "rarely": _CD3},
    "Mono": {
        "has": [*_MONO, "LYZ", "S100A8", "S100A9", "FCGR3A"],
        "lacks": [*_CD3, *_CD8, *_B, *_NK, *_DC, *_PLATELET],
    },
    "DC": {"has": _DC, "lacks": [*_CD3, *_CD8, "MS4A1", *_NK, *_PLATELET], "rarely": ["CD14"]},
    "Plasma": {
        "has": ["MZB1", "JCHAIN", "IGJ", "DERL3"],
        "lacks": [*_CD3, *_CD8, *_NK, *_MONO, *_PLATELET, "FCER1A", "CLEC10A", "LILRA4"],
    },
    "Platelet": {"has": _PLATELET, "lacks": [*_CD3, *_CD8, *_B, *_NK]},
}
"""Genes of human blood cells by type: those that it has, and those that it lacks."""

LINEAGES: dict[str, list[str]] = {
    "B": ["MS4A1", "CD19", "CD22", "BLK", "BANK1", "FCRL1", "FCRL2", "PAX5", "CR2", "FCER2", "TNFRSF13C", "VPREB3"],
    "T": ["CD3D", "CD3G", "CD5", "TRAT1", "UBASH3A", "CD28", "THEMIS", "ICOS", "CD40LG", "CTLA4"],
    "CD8 T": ["CD8A", "CD8B"],
    "NK": ["KLRF1", "NCAM1", "KIR2DL1", "KIR2DL3", "KIR3DL1", "KIR3DL2", "SH2D1B", "NMUR1", "NCR1", "KLRC1", "S1PR5"],
    "Mono": ["CD14", "VCAN", "MS4A7", "CD300E", "MAFB", "ASGR1", "ASGR2", "CES1", "LILRA5"],
    "Neutrophil": ["FCGR3B", "CXCR1", "CXCR2", "CMTM2", "MME", "VNN3", "KCNJ15", "TNFRSF10C", "MGAM", "ALPL", "CSF3R"],
}
"""Genes that a lineage of leukocytes has several times as much of as any other, by which its absence from a reference
shows in bulk. Checked in the sums of Hao et al. and, for neutrophils, in sorted ones. Only lineages that are large
enough in some blood to move the others: traces of red cells, platelets or plasma cells are in all of it, with genes
that no leukocyte has."""

_NAMES = [  # the first that fits decides
    (
        None,
        r"doublet|multiplet|unknown|unassigned|nkt|mait|gdt|gamma|\bilc|neutro|eryth|hspc|hsc|stem|progenitor|epithel",
    ),
    ("Plasma", r"plasma(?!cytoid)|\bpb\b"),
    ("DC", r"dendritic|plasmacytoid|(?<![a-z])(as|c|m|p|mo)?dcs?(?![a-z])"),
    ("Mono", r"mono"),
    ("Platelet", r"platelet|megakaryo"),
    ("NK", r"(?<![a-z])nk(?![a-z])|natural killer"),
    ("CD8 T", r"cd8|cytotoxic t|(?<![a-z])ctl"),
    ("CD4 T", r"cd4(?!\d)|treg|regulatory t|t[ _-]?helper|helper t|(?<![a-z])th\d"),
    ("T", r"(?<![a-z])t(?![a-z])"),
    ("B", r"(?<![a-z])b(?![a-z])"),
]


def blood_type(name: str) -> str | None:
    """The type of :data:`MARKERS` that a label means; None if it means none of them.

    Examples
    --------
    >>> [blood_type(name) for name in ("Naive CD4 T", "FCGR3A+ Monocytes", "T cells CD8", "pDC", "B-cells", "beta")]
    ['CD4 T', 'Mono', 'CD8 T', 'DC', 'B', None]
    """
    text = str(name).casefold().replace("_", " ")
    return next((kind for kind, pattern in _NAMES if re.search(pattern, text)), None)
