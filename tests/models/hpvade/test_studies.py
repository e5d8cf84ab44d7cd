"""Several studies, and sums of cells, as one reference."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi

import hpvade as hp
from hpvade.models.hpvade._consensus import average, disagreement
from hpvade.models.hpvade._intervals import _study_weights

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
KEY = "hpvade_proportions"


def two_studies(planted, factor_sd=0.5, lacking=30):
    """The planted reference as two studies of two donors; the second sees genes by factors of its own."""
    reference, bulk = planted()
    X, names = reference.X.toarray(), reference.obs["donor"].cat.categories
    second = reference.obs["donor"].isin(names[2:]).to_numpy()
    rng = np.random.default_rng(0)
    X[second] = rng.poisson(X[second] * rng.lognormal(0, factor_sd, reference.n_vars))
    X[np.flatnonzero(~second)[:, None], np.arange(lacking)] = 0
    X[X.sum(axis=1) == 0, lacking] = 1
    reference.X = X.astype(np.float32)
    reference.obs["study"] = pd.Categorical(np.where(second, "b", "a"))
    return reference, bulk


def fitted(reference, study_key="study", **keys):
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor", study_key=study_key, **keys)
    model = hp.HPVADE(reference)
    model.train(0, **QUIET)
    return model


@pytest.fixture(scope="module")
def studies(planted):
    reference, bulk = two_studies(planted)
    return fitted(reference), reference, bulk


def test_the_answer_is_the_mean_of_the_studies(studies):
    model, _, bulk = studies
    bulk = bulk.copy()
    assert model.studies == ["a", "b"]
    parts = model.get_study_proportions(bulk)
    answer = model.deconvolve(bulk)
    mean = parts.T.groupby(level="type").mean().T[model.cell_types]
    np.testing.assert_allclose(answer, mean, atol=1e-6)
    np.testing.assert_allclose(parts["a"].sum(axis=1), 1, atol=1e-6)
    apart = np.abs(parts["a"] - parts["b"]).sum(axis=1).mean() / 2
    table = bulk.uns[KEY]["studies"]
    np.testing.assert_allclose(table["disagreement"], apart, rtol=1e-5)
    assert list(table.index) == ["a", "b"]


def test_how_far_studies_are_apart_is_said_of_a_dask_array_too(studies):
    dask_array = pytest.importorskip("dask.array")
    model, _, bulk = studies
    expected, found = bulk.copy(), bulk.copy()
    found.X = dask_array.from_array(np.asarray(bulk.X), chunks=(5, -1))
    model.deconvolve(expected)
    model.deconvolve(found)
    np.testing.assert_allclose(found.obsm[KEY], expected.obsm[KEY], atol=1e-5)
    pd.testing.assert_frame_equal(found.uns[KEY]["studies"], expected.uns[KEY]["studies"], atol=1e-5)


def test_a_sample_that_is_skipped_has_no_row_in_any_study(studies):
    """A logged sample among linear ones is skipped whatever `on_bad_sample` says."""
    model, _, bulk = studies
    other = bulk.copy()
    other.X = np.asarray(other.X, dtype=float)
    other.X[3] = np.log1p(other.X[3])
    with pytest.warns(UserWarning, match="looks log-transformed"):
        parts = model.get_study_proportions(other)
    kept = np.arange(bulk.n_obs) != 3
    assert parts.iloc[3].isna().all() and list(parts.index) == list(bulk.obs_names)
    pd.testing.assert_frame_equal(parts[kept], model.get_study_proportions(bulk[kept].copy()), atol=1e-6)


def test_a_study_alone_says_what_it_says_among_others(studies):
    """Its own cells, its own genes: the fit of one study is that of a model made of it alone."""
    model, reference, bulk = studies
    own = reference[reference.obs["study"] == "b"].copy()
    alone = fitted(own, study_key=None).deconvolve(bulk.copy())
    np.testing.assert_allclose(model.get_study_proportions(bulk)["b"], alone, atol=2e-3)


def test_genes_that_a_study_lacks_take_no_part_in_its_fit(studies):
    model, _, bulk = studies
    changed = bulk.copy()
    changed.X = np.asarray(changed.X).copy()
    changed.X[:, :30] *= np.random.default_rng(1).uniform(0.2, 5, 30)
    before, after = (model.get_study_proportions(b) for b in (bulk, changed))
    assert np.abs(after["a"] - before["a"]).to_numpy().max() < 0.005
    assert np.abs(after["b"] - before["b"]).to_numpy().max() > 0.005


def test_one_study_by_name_is_as_without(planted):
    reference, bulk = planted()
    reference.obs["study"] = "only"
    first, second = fitted(reference), fitted(planted()[0], study_key=None)
    assert first.studies == [] and not hasattr(first.module, "study_mean_counts")
    np.testing.assert_array_equal(first.deconvolve(bulk.copy()), second.deconvolve(bulk.copy()))
    with pytest.raises(ValueError, match="the reference of this model is one study"):
        first.get_study_proportions(bulk)


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_study_whose_donors_are_all_held_out(planted, epochs):
    """Donors are held out whole, and with them a study that has one; the answer is of both studies all the same."""
    reference, bulk = two_studies(planted)
    reference.obs["study"] = pd.Categorical(np.where(reference.obs["donor"] == "donor_0", "b", "a"))
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor", study_key="study")
    seen = set()
    for seed in range(6):
        scvi.settings.seed = seed
        model = hp.HPVADE(reference, n_hidden=8, n_latent=2)
        model.train(epochs, **QUIET)
        train = set(reference.obs["study"].iloc[np.asarray(model.train_indices)])
        seen.add(frozenset(train))
        assert model.studies == ["a", "b"]
        np.testing.assert_allclose(model.deconvolve(bulk.copy()), bulk.obsm["proportions"], atol=0.2)
    assert seen == {frozenset("a"), frozenset("ab")}


def test_studies_of_test_cells_only_are_refused(planted):
    reference, _ = two_studies(planted)
    reference.obs["study"] = pd.Categorical(reference.obs["donor"].astype(str))
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor", study_key="study")
    with pytest.raises(ValueError, match="are test cells, of which nothing is learned"):
        hp.HPVADE(reference).train(0, train_size=0.5, validation_size=0.25, **QUIET)


def test_saved_and_loaded_without_the_cells(studies, tmp_path):
    model, _, bulk = studies
    model.save(tmp_path / "model", save_anndata=False)
    loaded = hp.HPVADE.load(tmp_path / "model", adata=False, accelerator="cpu")
    np.testing.assert_array_equal(loaded.deconvolve(bulk.copy()), model.deconvolve(bulk.copy()))
    pd.testing.assert_frame_equal(loaded.get_study_proportions(bulk), model.get_study_proportions(bulk))


def test_studies_that_differ_make_wider_intervals(planted, studies):
    """The spread of the studies is inside the intervals."""
    _, _, bulk = studies
    widths = []
    for factor_sd in (0.01, 1.0):
        table = fitted(two_studies(planted, factor_sd, 0)[0]).get_proportion_intervals(bulk, n_draws=400)
        widths.append(
            (table.xs("upper", axis=1, level="bound") - table.xs("lower", axis=1, level="bound")).mean().mean()
        )
    assert widths[1] > 1.3 * widths[0]


def test_diagnose_names_the_study_whose_labels_are_wrong(planted):
    reference, bulk = planted()
    names = reference.obs["donor"].cat.categories
    study = reference.obs["donor"].map(dict(zip(names, "abcc", strict=True))).astype(str)
    reference.obs["study"] = pd.Categorical(study)
    swapped = {"type_0": "type_1", "type_1": "type_0"}
    wrong = (study == "b").to_numpy()
    labels = reference.obs["cell_type"].astype(str)
    reference.obs["cell_type"] = pd.Categorical(labels.where(~wrong, labels.map(lambda name: swapped.get(name, name))))
    model = fitted(reference)
    hp.tl.diagnose(bulk, model, n_simulated=8)
    messages = list(bulk.uns["hpvade_qc"]["messages"])
    assert any("Study 'b' answers unlike the others" in message for message in messages), messages
    assert bulk.uns["hpvade_qc"]["studies"]["disagreement"].idxmax() == "b"


@pytest.mark.parametrize("n", [3, 5, 10])
def test_study_weights_vary_as_the_mean_of_studies_does(n):
    """Var(sum w x) = sum (x - mean)^2 / n / (n - 1), the squared standard error of a mean."""
    import torch

    x = np.random.default_rng(n).normal(size=n)
    drawn = _study_weights(n, 200_000, torch.Generator().manual_seed(0)).numpy() @ x
    assert drawn.mean() == pytest.approx(x.mean(), abs=0.01)
    assert drawn.var() == pytest.approx(x.var(ddof=1) / n, rel=0.03)


def test_average_and_disagreement_by_hand():
    from types import SimpleNamespace

    import torch

    parts = [torch.tensor([[0.2, 0.8]]), torch.tensor([[0.4, 0.6]]), torch.tensor([[0.9, 0.1]])]
    torch.testing.assert_close(average(parts), torch.tensor([[0.5, 0.5]]))
    apart = disagreement([SimpleNamespace(name=n, cells=x) for n, x in zip("abc", parts, strict=True)])
    np.testing.assert_allclose(apart, [0.45, 0.15, 0.6], atol=1e-6)


def test_networks_train_on_all_studies(planted):
    reference, bulk = two_studies(planted)
    hp.HPVADE.setup_anndata(reference, "cell_type", sample_key="donor", study_key="study", batch_key="study")
    model = hp.HPVADE(reference)
    model.train(2, **QUIET)
    assert model.get_latent_representation().shape == (reference.n_obs, 32)
    assert np.isfinite(model.deconvolve(bulk.copy(), unknown=True)).all(axis=None)


# ---------------------------------------------------------------- sums of cells


def test_sums_answer_as_their_cells_do(studies):
    model, reference, bulk = studies
    sums = hp.pp.summarize(reference, "cell_type", sample_key="donor", study_key="study")
    by_sums = fitted(sums, n_cells_key="n_cells")
    np.testing.assert_allclose(by_sums.deconvolve(bulk.copy()), model.deconvolve(bulk.copy()), atol=1e-5)
    np.testing.assert_allclose(by_sums.get_signature_matrix(), model.get_signature_matrix(), rtol=1e-5)
    assert by_sums.get_proportion_intervals(bulk).notna().all(axis=None)
    assert by_sums.get_cell_type_expression(bulk).layers
    with pytest.raises(ValueError, match="max_epochs=5, and the rows of this reference are sums of cells"):
        hp.HPVADE(sums).train(5, **QUIET)
    for what in (by_sums.get_latent_representation, lambda: by_sums.deconvolve(bulk, refine=False)):
        with pytest.raises(RuntimeError, match="needs the networks.*the rows of this reference are sums of cells"):
            what()


def test_one_row_per_type_is_enough(planted):
    reference, bulk = planted()
    sums = hp.pp.summarize(reference, "cell_type")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # "Category 0 has fewer than 3 cells" is said of cells, not of sums
        hp.HPVADE.setup_anndata(sums, "cell_type", n_cells_key="n_cells")
    model = hp.HPVADE(sums)
    model.train(**QUIET)
    cells = fitted(planted()[0], study_key=None)
    intervals = model.get_proportion_intervals(bulk)
    assert intervals.notna().all(axis=None)  # nothing can be held out of single sums: the scale of other platforms
    np.testing.assert_array_equal(model.module.interval_scale, 2.0)
    assert np.abs(model.deconvolve(bulk.copy()) - cells.deconvolve(bulk.copy())).to_numpy().max() < 0.03


@pytest.mark.parametrize(
    ("n_cells", "message"),
    [
        (0, "is 0 for row .* expected the number of cells that each row sums up"),
        (2.5, "is 2.5 for row"),
        (np.nan, "is missing"),
        (-3, "is -3 for row"),
        ("many", "is 'many' for row"),
    ],
)
def test_bad_numbers_of_cells_are_named(planted, n_cells, message):
    sums = hp.pp.summarize(planted()[0], "cell_type", sample_key="donor")
    sums.obs["n_cells"] = sums.obs["n_cells"].astype(object)
    sums.obs.iloc[3, sums.obs.columns.get_loc("n_cells")] = n_cells
    with pytest.raises(ValueError, match=message):
        hp.HPVADE.setup_anndata(sums, "cell_type", n_cells_key="n_cells")


def test_cells_called_sums_are_refused(planted):
    reference, _ = planted()
    reference.obs["n_cells"] = 1
    with pytest.raises(ValueError, match="which are single cells then"):
        hp.HPVADE.setup_anndata(reference, "cell_type", n_cells_key="n_cells")


def test_cells_among_sums_are_refused(planted):
    reference, _ = planted()
    sums = hp.pp.summarize(reference, "cell_type", sample_key="donor")
    reference.obs["n_cells"] = 1
    with pytest.raises(ValueError, match="sum up cells that stand among sums"):
        hp.HPVADE.setup_anndata(ad.concat([sums, reference]), "cell_type", n_cells_key="n_cells")


def test_one_type_under_two_names_is_told(planted):
    reference, _ = planted()
    reference.obs["study"] = np.where(reference.obs["donor"] == reference.obs["donor"].iloc[0], "one", "other")
    here = reference.obs["study"] == "one"
    names = {"type_0": "CD4 T", "type_1": "pDC", "type_2": "mDC"}  # pDC and mDC are together in both
    labels = reference.obs["cell_type"].astype(str).replace(names)
    reference.obs["own"] = labels.mask(labels == "type_3", np.where(here, "Mono", "Monocytes"))
    with pytest.warns(UserWarning, match="under two names: 'Mono' and 'Monocytes'. If they are") as found:
        hp.HPVADE.setup_anndata(reference, "own", study_key="study")
    assert not any("DC" in str(one.message) for one in found)
    reference.obs["own"] = reference.obs["own"].replace({"Monocytes": "Mono"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hp.HPVADE.setup_anndata(reference, "own", study_key="study")


def test_a_study_of_one_type_is_refused(planted):
    reference, _ = planted()
    reference.obs["study"] = np.where(reference.obs["cell_type"] == "type_0", "sorted", "mixed")
    with pytest.raises(ValueError, match="study 'sorted' has one type only; expected two or more"):
        hp.HPVADE.setup_anndata(reference, "cell_type", study_key="study")
