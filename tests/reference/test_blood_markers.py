import pytest

from hpvade.reference._blood_markers import MARKERS, blood_type


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
