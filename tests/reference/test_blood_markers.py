import numpy as np
import pytest

import hpvade as hp
from hpvade.reference._blood_markers import LINEAGES, MARKERS, blood_type


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("B", ["B", "B cells", "B-cells", "Memory B", "naive_B", "B cell (naive)"]),
        ("Plasma", ["Plasma cells", "Plasmablasts", "PB"]),
        ("CD4 T", ["CD4 T", "Naive CD4+ T", "CD4 T cells", "T cells CD4 conv", "Tregs", "Treg", "Th17", "T helper"]),
        ("CD8 T", ["CD8 T", "T cells CD8", "CD8+ cytotoxic T", "Effector CD8"]),
        ("T", ["T", "T cells", "T-cells"]),
        ("NK", ["NK", "NK cells", "NK_CD56bright", "natural killer cells"]),
        ("Mono", ["CD14+ Mono", "FCGR3A+ Monocytes", "Monocytes", "monocytes C"]),
        ("DC", ["DC", "mDC", "pDC", "cDC2", "Dendritic cells", "plasmacytoid dendritic cells"]),
        ("Platelet", ["Platelet", "Megakaryocytes"]),
        (
            None,
            ["NKT", "MAIT", "gdT", "ILC", "alpha", "beta", "ductal", "H1975", "BC", "Rod", "CAFs", "PVL", "Myeloid"],
        ),
        (None, ["doublets", "unknown", "Neutrophil", "Cancer Epithelial", "Endothelial", "Microglia", "neurons", "0"]),
    ],
)
def test_names_of_labels(kind, names):
    assert {name: blood_type(name) for name in names} == dict.fromkeys(names, kind)


def test_no_type_lacks_what_it_has():
    for name, sets in MARKERS.items():
        assert not set(sets["has"]) & {*sets["lacks"], *sets.get("rarely", [])}, name
        assert len(set(sets["lacks"])) == len(sets["lacks"]), name


def test_every_type_but_t_is_told_from_every_other():
    """Some gene of one is lacked by the other, or the other way round."""
    for a in MARKERS:
        for b in MARKERS:
            if a != b and {a, b} not in ({"T", "CD4 T"}, {"T", "CD8 T"}, {"T", "NK"}, {"B", "Plasma"}):
                lacked = {*MARKERS[b]["lacks"], *MARKERS[b].get("rarely", [])}
                back = {*MARKERS[a]["lacks"], *MARKERS[a].get("rarely", [])}
                assert set(MARKERS[a]["has"]) & lacked or set(MARKERS[b]["has"]) & back, (a, b)


@pytest.mark.parametrize("read", [hp.datasets.blood_anchor, hp.datasets.pbmc_reference])
def test_genes_of_a_lineage_are_its_own_in_real_cells(read):
    """3.4 times as much as in any other lineage; platelets aside, which stick to cells, and CD4 T, which hold CD8 T."""
    adata = read()
    counts = adata.X.toarray()
    level = counts / counts.sum(axis=1, keepdims=True)
    kind = np.array([blood_type(name) or "" for name in adata.obs["cell_type"]])
    for name, genes in LINEAGES.items():
        own = np.isin(kind, ["CD4 T", "CD8 T"]) if name == "T" else kind == name
        if own.any():
            some = level[:, adata.var_names.isin(genes)].sum(axis=1)
            others = set(kind[~own]) - {"", "Platelet"}
            assert max(some[kind == other].mean() for other in others) < some[own].mean() / 3.4, name
    listed = [gene for genes in LINEAGES.values() for gene in genes]
    assert len(listed) == len(set(listed))
