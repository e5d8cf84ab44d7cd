"""Trees of types: the automatic one, the user's, answers at every level, shrinkage of splits."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade.models.hpvade._hierarchy import check_hierarchy, cut_tree, shrink_splits

KEY = "hpvade_hierarchy"
TYPES = [f"type_{k}" for k in range(4)]
TREE = {"type_0": "left", "type_1": "left", "type_2": "right", "type_3": "right"}
NESTED = pd.DataFrame(
    {"coarse": ["all", "all", "all", "rest"], "fine": ["pair", "pair", "single", "rest"]}, index=TYPES[:3] + TYPES[3:]
)


# ---------------------------------------------------------------- the automatic tree


def lineages(sizes, within=0.3, seed=0):
    """Log signatures of types that share their lineage's deviations, and the lineage of each type."""
    rng = np.random.default_rng(seed)
    lineage = np.repeat(np.arange(len(sizes)), sizes)
    common, own = rng.normal(0, 3, (400, 1)), rng.normal(0, within, (400, len(lineage)))
    return common + rng.normal(0, 1, (400, len(sizes)))[:, lineage] + own, lineage


@pytest.mark.parametrize("sizes", [(2, 3, 2), (4, 2), (3, 1, 3, 2)])
def test_planted_lineages_are_found(sizes):
    log_signature, lineage = lineages(sizes)
    found = cut_tree(log_signature, 1)[:, 0]
    assert len(set(zip(found, lineage, strict=True))) == len(sizes) == len(set(found))


def test_the_cut_has_the_highest_silhouette():
    """Against a silhouette written out by hand, for every cut of the same tree."""
    log_signature, _ = lineages((2, 3, 2), within=1.0, seed=3)
    centred = log_signature - log_signature.mean(axis=1, keepdims=True)
    distance = 1 - np.corrcoef(centred.T)

    def silhouette(groups):
        values = []
        for i, group in enumerate(groups):
            mates = (groups == group) & (np.arange(len(groups)) != i)
            inside = distance[i, mates].mean() if mates.any() else None
            outside = min(distance[i, groups == other].mean() for other in set(groups) - {group})
            values.append(0 if inside is None else (outside - inside) / max(inside, outside))
        return np.mean(values)

    every = cut_tree(log_signature, 5)
    scores = np.array([silhouette(cut) for cut in every.T])
    np.testing.assert_array_equal(cut_tree(log_signature, 1)[:, 0], every[:, scores.argmax()])
    two = every[:, np.sort(np.argsort(-scores)[:2])]
    np.testing.assert_array_equal(cut_tree(log_signature, 2), two)


def test_levels_are_nested_from_coarse_to_fine():
    cuts = cut_tree(lineages((2, 3, 4), within=1.0)[0], 6)
    assert (np.diff(cuts.max(axis=0)) > 0).all()
    for coarse, fine in zip(cuts.T, cuts.T[1:], strict=False):
        assert len(set(zip(coarse, fine, strict=True))) == fine.max()


def test_what_all_types_express_does_not_matter():
    log_signature, _ = lineages((2, 3), within=0.5)
    shift = np.random.default_rng(1).normal(0, 10, (400, 1))
    np.testing.assert_array_equal(cut_tree(log_signature, 2), cut_tree(log_signature + shift, 2))


@pytest.mark.parametrize("preset", ["trained", "literal"])
def test_get_hierarchy_names_groups_by_their_types(preset, request):
    model = request.getfixturevalue(preset).model
    tree = model.get_hierarchy(levels=2)
    assert list(tree.index) == model.cell_types and list(tree.columns) == ["level_1", "level_2"]
    for level in tree:
        for name, members in tree.groupby(level).groups.items():
            assert name == " + ".join(members)
    check_hierarchy(tree, model.cell_types)  # nested
    pd.testing.assert_frame_equal(model.get_hierarchy(levels=2), tree)


def test_similar_types_are_one_group(planted, fit):
    reference, _ = planted(n_types=5, similar=0.9, seed=2)
    groups = fit(reference, 1).get_hierarchy(levels=3)["level_3"]
    assert groups["type_3"] == groups["type_4"] == "type_3 + type_4"


@pytest.mark.parametrize("levels", [0, 3, 1.0, True, "2"])
def test_bad_levels(trained, levels):
    with pytest.raises(ValueError, match="from 1 to 2 for 4 types"):
        trained.model.get_hierarchy(levels=levels)


def test_two_types_have_no_tree_of_their_own(planted, fit):
    reference, bulk = planted(n_types=2)
    model = fit(reference, 1)
    with pytest.raises(ValueError, match="2 types; expected three or more.*Pass your own tree"):
        model.get_hierarchy()
    tables = model.deconvolve_hierarchy(bulk, hierarchy={"type_0": "both", "type_1": "both"})
    np.testing.assert_allclose(tables["level_1"], 1)


# ---------------------------------------------------------------- shrinkage


def draw(n=200, spread=0.05, error=0.08, seed=0):
    """Fractions of four types in two groups whose splits vary and are measured with known errors."""
    rng = np.random.default_rng(seed)
    total = rng.uniform(0.3, 0.7, n)
    split = np.clip(0.4 + spread * rng.standard_normal((n, 2)), 0.05, 0.95)
    true = np.column_stack([total * split[:, 0], total * (1 - split[:, 0]), (1 - total) * split[:, 1]])
    true = np.column_stack([true, 1 - true.sum(axis=1)])
    sd = error * rng.uniform(0.3, 2, n)  # of the split of each sample
    noise = sd[:, None] * rng.standard_normal((n, 2))
    parts = [total, total, 1 - total, 1 - total]
    found = true + np.column_stack([noise[:, 0], -noise[:, 0], noise[:, 1], -noise[:, 1]]) * np.column_stack(parts)
    signs, covariance = np.array([1, -1]), np.zeros((n, 4, 4))
    for i, part in enumerate((total, 1 - total)):
        covariance[:, 2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = (sd * part)[:, None, None] ** 2 * np.outer(signs, signs)
    return true, np.clip(found, 0, None), covariance, sd


GROUPS = np.array(["a", "a", "b", "b"])


def totals(x):
    return np.column_stack([x[:, name == GROUPS].sum(axis=1) for name in GROUPS])


def test_shrunk_splits_are_the_formula():
    """Sample by sample and type by type, in plain loops."""
    _, found, covariance, _ = draw(12)
    found = found / found.sum(axis=1, keepdims=True)
    splits, weights = shrink_splits(found, GROUPS, covariance)
    for j, name in enumerate("ab"):
        members = np.flatnonzero(name == GROUPS)
        q = np.array([[row[k] / row[members].sum() for k in members] for row in found])
        v = np.zeros(len(found))
        for n, row in enumerate(found):
            total = row[members].sum()
            for i in range(2):
                gradient = np.array([((i == m) - q[n, i]) / total for m in range(2)])
                v[n] += gradient @ covariance[n][np.ix_(members, members)] @ gradient
        spread = max(sum(np.var(q[:, i], ddof=1) for i in range(2)) - v.mean(), 0)
        centre = sum(q[n] / (spread + v[n]) for n in range(len(q))) / sum(1 / (spread + v))
        own = spread / (spread + v)
        np.testing.assert_allclose(splits[:, members], centre + own[:, None] * (q - centre), rtol=1e-9)
        np.testing.assert_allclose(weights[:, j], own, rtol=1e-9)


def test_weights_follow_the_planted_errors_and_the_error_falls():
    true, found, covariance, sd = draw(5000)
    splits, weights = shrink_splits(found, GROUPS, covariance)
    expected = 0.05**2 / (0.05**2 + sd**2)
    np.testing.assert_allclose(weights, np.column_stack([expected] * 2), atol=0.08)
    error = [np.sqrt(np.mean((x - true / totals(true)) ** 2)) for x in (found / totals(found), splits)]
    assert error[1] < 0.6 * error[0]
    np.testing.assert_allclose(splits[:, 0] + splits[:, 1], 1)


def test_certain_splits_stay_and_undecided_ones_become_the_mean():
    _, found, covariance, _ = draw(30)
    splits, weights = shrink_splits(found, GROUPS, covariance * 0)
    np.testing.assert_allclose(splits, found / totals(found), rtol=1e-6)
    splits, weights = shrink_splits(found, GROUPS, covariance * 1e6)
    assert (weights == 0).all() and np.ptp(splits, axis=0).max() < 1e-12


def test_groups_of_one_type_and_samples_without_the_group():
    _, found, covariance, _ = draw(10)
    splits, weights = shrink_splits(found, np.array(["a", "b", "c", "c"]), covariance)
    assert (splits[:, :2] == 1).all() and (weights[:, :2] == 1).all()
    found[:2, :2] = 0
    splits, weights = shrink_splits(found, GROUPS, covariance)
    np.testing.assert_allclose(splits[0, :2], splits[1, :2])
    assert (weights[:2, 0] == 0).all() and np.isfinite(splits).all()
    found[2:8, :2] = 0  # in two samples only: no cohort to learn from
    splits, weights = shrink_splits(found, GROUPS, covariance)
    np.testing.assert_allclose(splits[8:, :2], (found[8:] / totals(found[8:]))[:, :2])
    np.testing.assert_array_equal(splits[:8, :2], 0.5)


# ---------------------------------------------------------------- answers


@pytest.fixture
def bulk(trained):
    return trained.bulk.copy()


def test_levels_add_up_and_are_written(trained, bulk, tmp_path):
    leaves = trained.model.deconvolve(bulk.copy())
    before = set(bulk.obsm), set(bulk.uns)
    tables = trained.model.deconvolve_hierarchy(bulk, hierarchy=TREE)
    assert list(tables) == ["level_1", "type"]
    pd.testing.assert_frame_equal(tables["type"], leaves)
    np.testing.assert_allclose(tables["level_1"]["left"], leaves["type_0"] + leaves["type_1"])
    assert list(tables["level_1"].columns) == ["left", "right"]
    assert set(bulk.obsm) - before[0] == {f"{KEY}_level_1", f"{KEY}_type"} and set(bulk.uns) - before[1] == {KEY}
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    read = ad.read_h5ad(tmp_path / "bulk.h5ad")
    for level, table in tables.items():
        pd.testing.assert_frame_equal(read.obsm[f"{KEY}_{level}"], table)
    assert read.uns[KEY]["hierarchy"]["level_1"].to_dict() == TREE and not read.uns[KEY]["shrink"]


@pytest.mark.parametrize("preset", ["trained", "literal"])
def test_automatic_tree(preset, request):
    which = request.getfixturevalue(preset)
    samples = which.bulk.copy()
    tables = which.model.deconvolve_hierarchy(samples, levels=2, key_added="tree")
    assert list(tables) == ["level_1", "level_2", "type"]
    pd.testing.assert_frame_equal(samples.uns["tree"]["hierarchy"], which.model.get_hierarchy(levels=2))
    for table in tables.values():
        np.testing.assert_allclose(table.sum(axis=1), 1)


@pytest.mark.parametrize("tree", [TREE, NESTED, NESTED[["coarse"]], NESTED.iloc[::-1]], ids=str)
def test_shrinkage_keeps_the_coarsest_level_and_parts_add_up(trained, bulk, tree):
    plain = trained.model.deconvolve_hierarchy(bulk.copy(), hierarchy=tree)
    shrunk = trained.model.deconvolve_hierarchy(bulk, hierarchy=tree, shrink=True)
    coarsest = next(iter(plain))
    pd.testing.assert_frame_equal(shrunk[coarsest], plain[coarsest])
    assert np.abs(shrunk["type"] - plain["type"]).max(axis=None) > 1e-4
    placed = bulk.uns[KEY]["hierarchy"]
    for level in placed:
        summed = shrunk["type"].T.groupby(placed[level], sort=False).sum().T
        np.testing.assert_allclose(shrunk[level], summed[shrunk[level].columns])
    assert (shrunk["type"] >= 0).all(axis=None)
    weights = bulk.uns[KEY]["own_weight"]
    assert weights["own_weight"].between(0, 1).all()
    assert set(weights["group"]) == set(placed.to_numpy().ravel())


def test_shrinkage_draws_splits_together(trained, bulk):
    def spread(table):
        return (table["type_0"] / (table["type_0"] + table["type_1"])).std()

    plain = trained.model.deconvolve_hierarchy(bulk.copy(), hierarchy=TREE)["type"]
    shrunk = trained.model.deconvolve_hierarchy(bulk, hierarchy=TREE, shrink=True)["type"]
    assert spread(shrunk) < spread(plain)


def test_two_levels_are_the_product_of_their_splits(trained, bulk):
    """The split within "pair" and that of "all" are shrunk on their own."""
    nested = trained.model.deconvolve_hierarchy(bulk.copy(), hierarchy=NESTED, shrink=True)
    pair = {"type_0": "pair", "type_1": "pair", "type_2": "type_2", "type_3": "type_3"}
    alone = trained.model.deconvolve_hierarchy(bulk.copy(), hierarchy=pair, shrink=True)["type"]
    for tables in (nested["type"], alone):
        tables["part"] = tables["type_0"] / (tables["type_0"] + tables["type_1"])
    np.testing.assert_allclose(nested["type"]["part"], alone["part"])


def test_the_user_can_write_over_the_result_without_changing_the_bulk(trained, bulk):
    tables = trained.model.deconvolve_hierarchy(bulk, hierarchy=TREE)
    tables["type"].iloc[:] = -1
    assert (bulk.obsm[f"{KEY}_type"] >= 0).all(axis=None)


# ---------------------------------------------------------------- bad input


def without(tree, *names):
    return {name: group for name, group in tree.items() if name not in names}


BAD_TREES = {
    "absent type": (TREE | {"Mast": "right"}, ValueError, r"unknown types \['Mast'\]"),
    "type left out": (without(TREE, "type_2"), ValueError, r"types without a group \['type_2'\]"),
    "empty": ({}, ValueError, "types without a group"),
    "named twice": (pd.concat([NESTED, NESTED.iloc[:1]]), ValueError, r"named twice \['type_0'\]"),
    "no level": (NESTED[[]], ValueError, "expected one or more"),
    "level called type": (NESTED.rename(columns={"fine": "type"}), ValueError, "none of them 'type'"),
    "levels of one name": (NESTED.set_axis(["a", "a"], axis=1), ValueError, "different names"),
    "missing group": (NESTED.replace({"fine": {"single": None}}), ValueError, "'type_2' has no group at 'fine'"),
    "not nested": (NESTED[["fine", "coarse"]], ValueError, "'all' of 'coarse' lies in several groups of 'fine'"),
    "word": ("automatic", TypeError, "hierarchy is 'automatic'; expected 'auto'"),
    "list": ([["type_0", "type_1"]], TypeError, "expected 'auto', a dict"),
}


@pytest.mark.parametrize("name", BAD_TREES)
def test_bad_trees_are_refused(trained, bulk, unchanged, name):
    tree, error, message = BAD_TREES[name]
    with unchanged(bulk), pytest.raises(error, match=message):
        trained.model.deconvolve_hierarchy(bulk, hierarchy=tree)


def test_shrinkage_that_is_impossible_is_refused(trained, literal, bulk, unchanged):
    few = bulk[:3].copy()
    with unchanged(few), pytest.raises(ValueError, match="3 samples; expected at least 4"):
        trained.model.deconvolve_hierarchy(few, shrink=True)
    for model, options in ((trained.model, {"refine": False}), (literal.model, {})):
        with unchanged(bulk), pytest.raises(ValueError, match="refine=True and preset='default'"):
            model.deconvolve_hierarchy(bulk, shrink=True, **options)
    one = bulk[:1].copy()
    assert trained.model.deconvolve_hierarchy(one)["level_1"].shape[0] == 1


def test_bad_bulk_and_options_leave_it_unchanged(trained, bulk, unchanged):
    logged = bulk.copy()
    logged.X = np.log1p(logged.X)
    with unchanged(logged), pytest.raises(ValueError, match="log"):
        trained.model.deconvolve_hierarchy(logged)
    with unchanged(bulk), pytest.raises(ValueError, match=r"levels=2 is for.*has the levels \['level_1'\]"):
        trained.model.deconvolve_hierarchy(bulk, hierarchy=TREE, levels=2)
    with unchanged(bulk), pytest.raises(TypeError, match="fractions"):
        trained.model.deconvolve_hierarchy(bulk, fractions="rna")


def test_untrained(planted):
    adata, bulk = planted()
    hp.HPVADE.setup_anndata(adata, "cell_type")
    model = hp.HPVADE(adata)
    for call in (model.get_hierarchy, lambda: model.deconvolve_hierarchy(bulk)):
        with pytest.raises(RuntimeError, match="needs a trained model"):
            call()
