import numpy as np
import pytest

from hpvade.reference._cell_size import PUBLISHED, canonical_class, cell_sizes, pool_sizes, published_sizes

LABELS = {
    "B": ["B", "B cells", "B_cell", "naive B", "Naive B cells", "CD19+ B", "B intermediate", "B lymphocytes"],
    "Plasma": ["plasma", "Plasma cells", "Plasmablast", "plasma B cell"],
    "T": ["T", "T cells", "T.cells", "Tcell", "memory T", "CD3+ T"],
    "CD4 T": ["CD4 T", "Naive CD4 T", "CD4 T cells", "CD4+ T cell", "CD4T", "CD4-T", "CD4_Tcells", "T helper", "Th17"]
    + [
        "CD4 TCM",
        "CD4 Naive",
        "CD4 CTL",
        "CD4-positive, alpha-beta T cell",
        "Naïve CD4⁺ T",
        "T cells CD4 memory resting",
    ],
    "CD8 T": ["CD8 T", "CD8+ T", "cytotoxic T", "Cytotoxic T cells", "CTL", "CD8 TEM", "CD8A+ T"]
    + ["effector memory CD8-positive, alpha-beta T cell, terminally differentiated"],
    "Treg": ["Treg", "Tregs", "regulatory T cell", "CD4+CD25+ T reg", "T cells regulatory (Tregs)"],
    "NK": ["NK", "NK cells", "natural killer", "Natural-killer cell", "CD16- NK", "NK_CD56bright", "CD56dim NK"]
    + ["CD16-negative, CD56-bright natural killer cell, human"],
    "Mono": ["Mono", "Monocytes", "CD14+ Mono", "FCGR3A+ Monocytes", "classical monocyte", "Non-classical monocytes"]
    + ["CD14 Mono", "CD14-low, CD16-positive monocyte", "CD14+CD16- Mono"],
    "Macrophage": ["Macrophage", "Macrophages M1"],
    "Neutrophil": ["Neutrophils", "granulocyte", "LD neutrophils"],
    "DC": ["DC", "mDC", "cDC1", "Dendritic cells", "conventional dendritic cell", "CD1C+ DC"],
    "pDC": ["pDC", "plasmacytoid dendritic cell"],
    None: ["NKT", "NK T", "natural killer T cell", "T/NK", "CD4/CD8 T", "CD4-CD8- T", "T_CD4-", "CD8 negative T", "gdT"]
    + ["γδ T", "gamma-delta T cell", "MAIT", "B-ALL", "T-ALL", "B cell lymphoma", "pro-B", "non-B cells", "NK-92"]
    + ["type_0", "type B", "Class B", "Beta", "alpha", "Endothelial", "HCC827", "H1975", "A549", "T-47D", "Platelet"]
    + ["Mast", "Myeloid", "Mono/Mac", "Megakaryocytes", "Breg", "regulatory", "", "1", "naive", "nan", "TN"],
}
BLOOD = ["B", "CD4 T", "CD8 T", "NK", "Mono", "Neutrophil"]


@pytest.mark.parametrize(("label", "name"), [(label, name) for name, labels in LABELS.items() for label in labels])
def test_label_matches_class(label, name):
    assert canonical_class(label) == name


def test_published_values_in_the_users_words():
    types = ["CD14+ Mono", "naive CD4 T", "CD8 T cells", "Treg", "DC", "Platelet"]
    np.testing.assert_array_equal(published_sizes("epic", types), [1.4196, 0.3952, 0.3952, 0.3952, np.nan, np.nan])
    ratios = {name: published_sizes(name, types) for name in PUBLISHED}
    # METHOD 3.9: Mono / CD4 T is 3.6, 2.0 and 1.6
    assert [round(float(r[0] / r[1]), 1) for r in ratios.values()] == [3.6, 2.0, 1.6]
    assert np.isnan(ratios["abis"][3])
    with pytest.raises(ValueError, match="'epic', 'quantiseq', 'abis'"):
        published_sizes("EPIC", types)


def test_quantiseq_t_is_the_mean_of_its_t_cells():
    table = PUBLISHED["quantiseq"]
    assert table["T"] == pytest.approx(np.mean([table["CD4 T"], table["CD8 T"], table["Treg"]]), rel=1e-6)


def test_pool_of_complete_sources_is_their_geometric_mean():
    sources = np.random.default_rng(0).lognormal(size=(4, 6)) * np.array([[1], [1e-3], [1e4], [7]])
    logs = np.log(sources)
    expected = np.exp((logs - logs.mean(1, keepdims=True)).mean(0))
    np.testing.assert_allclose(pool_sizes(sources), expected, rtol=1e-12)


def test_pool_with_gaps_equals_lstsq():
    rng = np.random.default_rng(1)
    sources = rng.lognormal(size=(4, 6))
    sources[1, [0, 3]] = sources[2, 1:5] = sources[3, :5] = np.nan  # the last has one entry only
    s, k = np.nonzero(np.isfinite(sources))
    design = np.zeros((len(s), 4 + 6))
    design[np.arange(len(s)), s] = design[np.arange(len(s)), 4 + k] = 1
    log_m = np.linalg.lstsq(design, np.log(sources[s, k]), rcond=None)[0][4:]
    np.testing.assert_allclose(pool_sizes(sources), np.exp(log_m - log_m.mean()), rtol=1e-10)


def test_pool_recovers_planted_sizes_whatever_the_scales():
    sizes = np.array([1.0, 2.0, 4.0, 0.5, 1.0])
    sources = np.stack([sizes, 10 * sizes, 0.01 * sizes])
    sources[1, 3:] = sources[2, :3] = np.nan  # two blocks, joined by the first source alone
    np.testing.assert_allclose(pool_sizes(sources), sizes / np.exp(np.log(sizes).mean()), rtol=1e-12)


def test_sources_that_say_nothing_change_nothing():
    first = np.array([1.0, 3.0, 9.0])
    nothing = [np.full(3, np.nan), np.array([np.nan, 50.0, np.nan])]
    np.testing.assert_allclose(pool_sizes([first, *nothing]), [1 / 3, 1, 3], rtol=1e-12)
    np.testing.assert_allclose(pool_sizes([np.array([5.0])]), [1.0])


@pytest.mark.parametrize(
    "sources",
    [
        [[1.0, 2.0, np.nan], [2.0, 3.0, np.nan]],  # one type is nowhere
        [[1.0, 2.0, np.nan], [np.nan, np.nan, 3.0]],  # one type is never compared
        [[1.0, 2.0, np.nan, np.nan], [np.nan, np.nan, 3.0, 4.0]],  # two blocks
    ],
)
def test_pool_refuses_types_that_are_not_compared(sources):
    with pytest.raises(ValueError, match="do not compare all types"):
        pool_sizes([np.array(source) for source in sources])


@pytest.mark.parametrize("bad", [0.0, -1.0, np.inf])
def test_sizes_that_are_not_positive_are_refused(bad):
    with pytest.raises(ValueError, match="positive and finite"):
        pool_sizes([np.array([1.0, bad])])
    with pytest.raises(ValueError, match="positive and finite"):
        cell_sizes(["a", "b"], [1.0, bad])
    with pytest.raises(ValueError, match="positive and finite"):
        cell_sizes(["a", "b"], [1.0, 1.0], {"a": 1.0, "b": bad})


def test_nan_is_refused_in_umi_and_dict():
    for source in ("umi", {"a": 1.0, "b": np.nan}):
        with pytest.raises(ValueError, match="positive and finite"):
            cell_sizes(["a", "b"], [1.0, np.nan], source)


def test_every_source_has_geometric_mean_one():
    umi = np.array([1900.0, 2300.0, 2000.0, 2000.0, 2700.0, 900.0])
    for source in ("pooled", "umi", "epic", "quantiseq", "abis", None, dict(zip(BLOOD, umi, strict=True))):
        assert np.log(cell_sizes(BLOOD, umi, source)).mean() == pytest.approx(0, abs=1e-12)


def test_pooled_is_the_geometric_mean_of_four_sources():
    umi = np.array([1900.0, 2300.0, 2000.0, 2000.0, 2700.0, 900.0])
    four = np.stack([umi, *(published_sizes(name, BLOOD) for name in PUBLISHED)])
    mean = np.exp(np.log(four).mean(0))
    np.testing.assert_allclose(cell_sizes(BLOOD, umi), mean / np.exp(np.log(mean).mean()), rtol=1e-12)


def test_pooled_without_known_types_is_umi():
    types, umi = ["type_0", "A549", "Beta"], [1.0, 2.0, 4.0]
    np.testing.assert_allclose(cell_sizes(types, umi, "pooled"), cell_sizes(types, umi, "umi"), rtol=1e-12)


def test_table_keeps_its_ratios_and_umi_fills_the_rest():
    types = ["CD4 T", "Mono", "Platelet", "B"]
    umi = np.array([1000.0, 1500.0, 300.0, 800.0])
    sizes = cell_sizes(types, umi, "epic")
    assert sizes[1] / sizes[0] == pytest.approx(1.4196 / 0.3952)
    shared = np.array([0, 1, 3])
    table = np.array([0.3952, 1.4196, 0.4016])
    scale = np.exp(np.log(table / umi[shared]).mean())
    assert sizes[2] / sizes[0] == pytest.approx(scale * 300 / 0.3952)
    with pytest.raises(ValueError, match="'epic' table has none"):
        cell_sizes(["type_0", "type_1"], [1.0, 2.0], "epic")


def test_dict_and_unknown_sources():
    np.testing.assert_allclose(cell_sizes(["a", "b"], [1, 1], {"b": 4.0, "a": 1.0}), [0.5, 2.0])
    np.testing.assert_array_equal(cell_sizes(["a", "b"], [1, 9], None), [1.0, 1.0])
    with pytest.raises(ValueError, match=r"missing: \['b'\], unknown: \['c'\]"):
        cell_sizes(["a", "b"], [1, 1], {"a": 1.0, "c": 1.0})
    with pytest.raises(ValueError, match="'pooled', 'umi', 'epic', 'quantiseq', 'abis', None"):
        cell_sizes(["a", "b"], [1, 1], "EPIC")
    with pytest.raises(ValueError, match="one value for each"):
        cell_sizes(["a", "b"], [1, 1, 1])
