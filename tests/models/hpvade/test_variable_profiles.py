"""`variable_types`: proportions, profiles, intervals, and what is refused."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import hpvade as hp

KEY = "hpvade_proportions"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def model(planted):
    reference, _ = planted(n_genes=600, n_cells=800)
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor")
    model = hp.HPVADE(reference)
    model.train(0, **QUIET)
    return model


def cohort(model, sd=0.6, n=16, seed=0, depth=3_000_000):
    """Counts of samples whose last type has a profile of its own, its log factors, the true fractions of RNA."""
    rng = np.random.default_rng(seed)
    signature = model.get_signature_matrix()
    share = (signature / signature.sum()).to_numpy()
    purity = rng.uniform(0.1, 0.9, (n, 1))
    truth = np.column_stack([rng.dirichlet(np.ones(3), n) * (1 - purity), purity])
    delta = sd * rng.standard_normal((n, len(share)))
    own = share[:, 3] * np.exp(delta)
    own /= own.sum(axis=1, keepdims=True)
    mean = truth[:, :3] @ share[:, :3].T + truth[:, 3:] * own
    obs, var = (pd.DataFrame(index=index) for index in ([f"s{i}" for i in range(n)], signature.index))
    counts = rng.multinomial(depth, mean / mean.sum(axis=1, keepdims=True))
    return AnnData(counts.astype(np.float32), obs=obs, var=var), own, truth


def rmse(table, truth):
    return float(np.sqrt(np.mean((table.to_numpy()[:, :3] - truth[:, :3]) ** 2)))


def test_the_other_types_gain_and_the_variation_is_written(model):
    bulk, _, truth = cohort(model)
    name = model.cell_types[3]
    plain = model.deconvolve(bulk, fractions="rna")
    assert "variation" not in bulk.uns[KEY]
    table = model.deconvolve(bulk, fractions="rna", variable_types=[name])
    assert rmse(table, truth) < 0.5 * rmse(plain, truth)
    assert abs((table[name] - truth[:, 3]).mean()) < 0.03
    variation = bulk.uns[KEY]["variation"]
    assert list(variation.index) == [name]
    assert variation.loc[name, "log_sd"] == pytest.approx(0.6, abs=0.1)


def test_tl_solve_gives_the_same(model):
    bulk, *_ = cohort(model)
    name = model.cell_types[3]
    table = model.deconvolve(bulk, fractions="rna", variable_types=[name])
    hp.tl.solve(bulk, model.adata, labels_key="cell_type", fractions="rna", variable_types=[name], device="cpu")
    np.testing.assert_allclose(bulk.obsm["robust_proportions"], table, atol=1e-3)
    pd.testing.assert_frame_equal(bulk.uns["robust_proportions"]["variation"], bulk.uns[KEY]["variation"], atol=0.01)
    with pytest.raises(ValueError, match="method='robust'"):
        hp.tl.solve(bulk, model.adata, labels_key="cell_type", method="nnls", variable_types=[name])


def test_profiles_follow_the_samples(model):
    bulk, own, _ = cohort(model)
    name = model.cell_types[3]
    before = bulk.copy()
    profiles = model.get_variable_profiles(bulk, [name])
    assert list(bulk.obsm) == list(before.obsm) and list(bulk.uns) == list(before.uns)
    assert list(profiles.obs_names) == [f"s{i}|{name}" for i in range(16)]
    table = model.deconvolve(bulk, variable_types=[name])
    np.testing.assert_allclose(profiles.obs["proportion"], table[name], atol=1e-5)
    known = profiles.layers["resolved"] > 0.8
    reference = model.get_signature_matrix(normalize="cpm")[name].to_numpy()
    found, planted, neutral = (np.log(x + 10) for x in (profiles.X, 1e6 * own, np.broadcast_to(reference, own.shape)))
    assert known.mean() > 0.1
    assert np.mean((found - planted)[known] ** 2) < 0.4 * np.mean((neutral - planted)[known] ** 2)
    np.testing.assert_allclose(profiles.X.sum(axis=1), reference.sum(), rtol=1e-4)


def log_error(table, planted):
    """Root mean squared error of log expression (types,), against planted counts per million."""
    found = table.layers["expression"].reshape(planted.shape)
    return np.sqrt(np.mean(np.square(np.log(found + 10) - np.log(planted + 10)), axis=(0, 2)))


def test_expression_of_the_other_types_no_longer_pays(model):
    bulk, own, _ = cohort(model)
    name, reference = model.cell_types[3], model.get_signature_matrix(normalize="cpm").to_numpy().T
    planted = np.repeat(reference[None], 16, axis=0)
    planted[:, 3] = 1e6 * own
    plain, found = (model.get_cell_type_expression(bulk, variable_types=names) for names in (None, [name]))
    before, after = log_error(plain, planted), log_error(found, planted)
    assert np.sqrt(np.mean(after[:3] ** 2)) < 0.5 * np.sqrt(np.mean(before[:3] ** 2))
    assert after[3] < 0.9 * before[3]
    table = model.deconvolve(bulk, variable_types=[name])
    np.testing.assert_allclose(found.obs["proportion"].to_numpy().reshape(table.shape), table, atol=1e-6)
    assert found.varm["is_resolved"][name].mean() > plain.varm["is_resolved"][name].mean()


def test_expression_is_the_plain_one_where_nothing_varies(model):
    bulk, *_ = cohort(model, sd=0.0)
    plain, found = (model.get_cell_type_expression(bulk, variable_types=x) for x in (None, [model.cell_types[3]]))
    for layer in ("expression", "variance"):
        largest = plain.layers[layer].max()
        np.testing.assert_allclose(found.layers[layer], plain.layers[layer], rtol=1e-3, atol=1e-4 * largest)


def test_expression_in_one_sample(model):
    bulk, own, _ = cohort(model)
    name, one = model.cell_types[3], bulk[:1].copy()
    with pytest.warns(UserWarning, match="every type but those of variable_types"):
        found = model.get_cell_type_expression(one, variable_types=[name]).layers["expression"]
    reference = model.get_signature_matrix(normalize="cpm").to_numpy().T
    np.testing.assert_allclose(found[:3], reference[:3], rtol=1e-4)
    error = [np.mean((np.log(x + 10) - np.log(1e6 * own[0] + 10)) ** 2) for x in (found[3], reference[3])]
    assert error[0] < 0.8 * error[1]


def test_expression_in_blocks_and_in_a_store(model, tmp_path):
    da, names = pytest.importorskip("dask.array"), [model.cell_types[3]]
    bulk, *_ = cohort(model)
    expected = model.get_cell_type_expression(bulk, variable_types=names)
    lazy = AnnData(da.from_array(bulk.X, chunks=(5, 100)), obs=bulk.obs.copy(), var=bulk.var.copy())
    stored = model.get_cell_type_expression(bulk, variable_types=names, store=tmp_path / "x.zarr").to_memory()
    for found in (model.get_cell_type_expression(lazy, variable_types=names), stored):
        for layer in ("expression", "variance"):
            largest = expected.layers[layer].max()
            np.testing.assert_allclose(found.layers[layer], expected.layers[layer], rtol=1e-3, atol=1e-5 * largest)


def test_intervals_are_around_the_answer(model):
    bulk, *_ = cohort(model)
    name = model.cell_types[3]
    table = model.deconvolve(bulk, variable_types=[name])
    bounds = model.get_proportion_intervals(bulk, variable_types=[name])
    lower, upper = (bounds.xs(bound, axis=1, level="bound") for bound in ("lower", "upper"))
    inside = (table >= lower[table.columns] - 1e-3) & (table <= upper[table.columns] + 1e-3)
    assert inside.to_numpy().mean() > 0.95


def test_one_sample(model):
    bulk, _, truth = cohort(model, n=1, seed=3)
    name = model.cell_types[3]
    table = model.deconvolve(bulk, fractions="rna", variable_types=[name])
    assert abs(table[name].iloc[0] - truth[0, 3]) < 0.06


def test_blocks_of_a_dask_array_give_the_same(model):
    da = pytest.importorskip("dask.array")
    bulk, *_ = cohort(model, n=20)
    names = model.cell_types[3:]
    blocks = AnnData(da.from_array(bulk.X, chunks=(7, -1)), obs=bulk.obs.copy(), var=bulk.var.copy())
    table = model.deconvolve(bulk, variable_types=names)
    np.testing.assert_allclose(model.deconvolve(blocks, variable_types=names), table, atol=1e-4)
    pd.testing.assert_frame_equal(blocks.uns[KEY]["variation"], bulk.uns[KEY]["variation"])


def test_several_studies(planted):
    reference, _ = planted(n_genes=600, n_cells=4000)  # so many that a study's own profiles are no source of error
    donors = reference.obs["donor"]
    reference.obs["study"] = pd.Categorical(np.where(donors.isin(donors.cat.categories[:2]), "a", "b"))
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor", study_key="study")
    model = hp.HPVADE(reference)
    model.train(0, **QUIET)
    bulk, _, truth = cohort(model)
    name = model.cell_types[3]
    plain = model.deconvolve(bulk, fractions="rna")
    table = model.deconvolve(bulk, fractions="rna", variable_types=[name])
    assert rmse(table, truth) < 0.7 * rmse(plain, truth)
    assert bulk.uns[KEY]["variation"].loc[name, "log_sd"] == pytest.approx(0.6, abs=0.15)
    answers = model.get_study_proportions(bulk, variable_types=[name])
    mean = answers.T.groupby(level="type").mean().T[model.cell_types]
    np.testing.assert_allclose(model.deconvolve(bulk, variable_types=[name]), mean, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"variable_types": ["Zebra"]}, ValueError, "Zebra; expected some of"),
        ({"variable_types": "all"}, ValueError, "all 4 types"),
        ({"variable_types": "text"}, TypeError, "expected a list"),
        ({"variable_types": "last", "unknown": True}, ValueError, "cannot be told"),
        ({"variable_types": "last", "refine": False}, ValueError, "regression"),
    ],
)
def test_what_is_refused_leaves_the_bulk_as_it_was(model, options, error, match):
    bulk, *_ = cohort(model)
    words = {"all": model.cell_types, "last": model.cell_types[3:], "text": model.cell_types[3]}
    names = options["variable_types"]
    options = options | {"variable_types": words[names] if isinstance(names, str) else names}
    with pytest.raises(error, match=match):
        model.deconvolve(bulk, **options)
    assert not bulk.obsm and not bulk.uns
    if "unknown" not in options and "refine" not in options:
        with pytest.raises(error, match=match):
            hp.tl.solve(bulk, model.adata, labels_key="cell_type", **options)
        with pytest.raises(error, match=match):
            model.get_variable_profiles(bulk, options["variable_types"])
        with pytest.raises(error, match=match):
            model.get_cell_type_expression(bulk, **options)


def test_profiles_of_no_type_are_refused(model):
    bulk, *_ = cohort(model)
    with pytest.raises(ValueError, match="empty"):
        model.get_variable_profiles(bulk, [])


def test_an_empty_list_is_none(model):
    bulk, *_ = cohort(model)
    plain = model.deconvolve(bulk)
    pd.testing.assert_frame_equal(model.deconvolve(bulk, variable_types=[]), plain)
    assert "variation" not in bulk.uns[KEY]
