"""Clean references: counts without the ambient part that HPVADE takes."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse
from sklearn.preprocessing import normalize

import hpvade as hp
from hpvade.models.ambient._native_share import native_share
from hpvade.models.ambient._profile import refine_profile

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_expected_counts_follow_from_sums_per_group_batch_and_gene(single):
    """The split of the sums, recomputed from the model's tables, is shared out over the cells in proportion."""
    model, adata = single.model, single.adata
    clean = model.get_clean_reference(labels_key="cell_type", integer=False)
    profile = model.get_ambient_profile() * model.get_feature_scaling().mean(axis=1).to_numpy()[:, None]
    group, batch = (adata.obs[key].cat.codes.to_numpy() for key in ("cell_type", "batch"))
    sums = np.stack([[adata.X[(group == k) & (batch == b)].sum(0) for b in range(3)] for k in range(2)])
    cells = np.stack([[((group == k) & (batch == b)).sum() for b in range(3)] for k in range(2)])
    profile = refine_profile(sums, (profile / profile.sum()).to_numpy().T, cells)
    np.testing.assert_allclose(clean.varm["ambient_profile"], profile.T, rtol=0.02)
    split = native_share(sums, profile, (adata.X, group * 3 + batch))
    expected = adata.X * split.share[group, batch]
    limit = split.ambient[batch] * adata.X.sum(1, keepdims=True)
    expected = np.maximum(expected, adata.X - limit - 3 * np.sqrt(limit) - 1)
    np.testing.assert_allclose(clean.X.toarray(), expected, rtol=0.02, atol=1e-3)  # scaling is of single cells
    removed = 1 - clean.X.toarray().sum(1) / adata.X.sum(1)
    np.testing.assert_allclose(clean.obs["ambient_removed"], removed, rtol=1e-4, atol=1e-6)
    assert list(clean.uns["ambient_share"].index) == ["b0", "b1", "b2"]
    np.testing.assert_allclose(clean.uns["ambient_share"]["share"], split.level, rtol=0.02, atol=1e-6)


def test_labels_are_checked(single):
    model, adata = single.model, single.adata
    with pytest.raises(KeyError, match="'kind' is not in obs"):
        model.get_clean_reference(labels_key="kind")
    incomplete = adata.copy()
    incomplete.obs["cell_type"] = incomplete.obs["cell_type"].where(np.arange(90) > 3)
    with pytest.raises(ValueError, match="no value for 4 cells"):
        model.get_clean_reference(incomplete, labels_key="cell_type")
    incomplete.obs["cell_type"] = "one"
    with pytest.warns(UserWarning, match="all cells are of one group"):
        model.get_clean_reference(incomplete, labels_key="cell_type")


def test_whole_counts_are_unbiased_and_reproducible(single):
    model, adata = single.model, single.adata
    expected = model.get_clean_reference(integer=False).X.toarray()
    clean = model.get_clean_reference()
    X = clean.X.toarray()
    assert sparse.isspmatrix_csr(clean.X) and clean.X.dtype == np.float32
    assert (np.rint(X) == X).all() and (X <= adata.X).all() and (np.abs(X - expected) < 1).all()
    fraction = expected - np.floor(expected)
    spread = np.sqrt((fraction * (1 - fraction)).sum())
    assert abs(X.sum() - expected.sum()) < 4 * spread
    np.testing.assert_array_equal(model.get_clean_reference(batch_size=7).X.toarray(), X)
    assert (model.get_clean_reference(seed=1).X.toarray() != X).any()


def test_labels_and_genes_are_kept_and_the_cells_unchanged(single, unchanged, tmp_path):
    with unchanged(single.adata):
        clean = single.model.get_clean_reference()
    assert list(clean.obs_names) == list(single.adata.obs_names) and list(clean.var_names) == list(
        single.adata.var_names
    )
    assert (clean.obs["cell_type"] == single.adata.obs["cell_type"]).all()
    assert not [column for column in clean.obs if column.startswith("_scvi")]
    clean.write_h5ad(tmp_path / "clean.h5ad")
    stored = ad.read_h5ad(tmp_path / "clean.h5ad")
    np.testing.assert_array_equal(stored.X.toarray(), clean.X.toarray())
    assert stored.uns["ambient_share"].equals(clean.uns["ambient_share"])


def test_empty_cells_are_left_out_with_a_warning(build, make):
    adata = make.rna()
    adata.X[4] = 0
    with pytest.warns(UserWarning, match="1 cells without any count"):
        model = build(adata, epochs=1)
    with pytest.warns(UserWarning, match="1 of 90 cells have no count left"):
        clean = model.get_clean_reference()
    assert clean.n_obs == 89 and "c4" not in clean.obs_names


def test_hpvade_takes_a_clean_reference(build, planted):
    """From contaminated counts to proportions, without a warning of the count checks."""
    reference, bulk = planted()
    observed = hp.datasets.plant_ambient(reference, batch_key="lane")
    model = build(observed, {"batch_key": "lane"}, epochs=2)
    clean = model.get_clean_reference()
    scvi.settings.seed = 0
    hp.HPVADE.setup_anndata(clean, labels_key="cell_type", sample_key="donor")
    deconvolution = hp.HPVADE(clean)
    deconvolution.train(2, early_stopping=False, **QUIET)
    proportions = deconvolution.deconvolve(bulk)
    np.testing.assert_allclose(proportions.sum(1), 1, rtol=1e-5)
    assert list(proportions.columns) == [f"type_{k}" for k in range(4)]


def test_the_rna_of_a_mudata_can_be_cleaned(multi):
    clean = multi.model.get_clean_reference()
    assert clean.shape == (90, 40) and (clean.X.toarray() <= multi.mdata.mod["rna"].X).all()
    assert "cell_type" in clean.obs


@pytest.fixture(scope="module")
def planted_ambient(build):
    """Four types with genes that are truly absent from each, three batches with 5, 15 and 30 % ambient counts."""
    rng = np.random.default_rng(0)
    n_cells, n_genes, n_types = 600, 120, 4
    kind = np.arange(n_cells) % n_types
    profiles = rng.gamma(1.0, 1.0, (n_types, n_genes))
    own = np.arange(n_genes) % 6  # a third of the genes is in all types, the others in one each
    for k in range(n_types):
        profiles[k, (own < n_types) & (own != k)] = 0
    profiles /= profiles.sum(1, keepdims=True)
    native = rng.poisson(400 * profiles[kind] * rng.lognormal(0, 0.3, (n_cells, 1)))
    labels = pd.Categorical([f"type_{k}" for k in kind])
    adata = ad.AnnData(native.astype(np.float32), obs=pd.DataFrame({"cell_type": labels}))
    adata.obs_names = [f"c{i}" for i in range(n_cells)]
    adata.var_names = [f"g{i}" for i in range(n_genes)]
    observed = hp.datasets.plant_ambient(adata, seed=1)
    model = build(observed, epochs=80, n_hidden=64, n_latent=6, train={"train_size": 1.0, "batch_size": 64})
    return observed, model, profiles


@pytest.mark.slow
def test_rv_09_planted_profile_is_found(planted_ambient):
    observed, model, _ = planted_ambient
    found, truth = model.get_ambient_profile(normalize=True), observed.varm["ambient_profile"]
    for batch in truth:
        assert np.corrcoef(found[batch], truth[batch])[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("labels_key", ["cell_type", None])
def test_what_deviates_from_the_mean_of_the_batch_is_found(planted_ambient, labels_key):
    """The mean of a batch alone correlates with its ambient profile; the deviation of the two does not."""
    observed, model, _ = planted_ambient
    found = model.get_clean_reference(labels_key=labels_key).varm["ambient_profile"]
    relative = normalize(observed.X, norm="l1")
    for k, batch in enumerate(("batch_0", "batch_1", "batch_2")):
        mean = relative[(observed.obs["batch"] == batch).to_numpy()].mean(axis=0).A1
        truth = observed.varm["ambient_profile"][batch]
        if k > 0:  # 15 and 30 %
            assert np.corrcoef(found[:, k] - mean, truth - mean)[0, 1] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("labels_key", ["cell_type", None])
def test_rv_09_counts_of_absent_genes_drop_and_true_counts_stay(planted_ambient, labels_key):
    observed, model, profiles = planted_ambient
    clean = model.get_clean_reference(labels_key=labels_key)
    types = observed.obs["cell_type"].cat.codes.to_numpy()
    absent = profiles[types] == 0
    before, after, native = (np.asarray(m.todense()) for m in (observed.X, clean.X, observed.layers["native"]))
    assert after[absent].sum() < 0.2 * before[absent].sum()
    assert np.minimum(after, native).sum() > 0.95 * native.sum()


def test_a_measured_profile_takes_the_place_of_the_learned_one(single):
    model, adata = single.model, single.adata
    group, batch = (adata.obs[key].cat.codes.to_numpy() for key in ("cell_type", "batch"))
    sums = np.stack([[adata.X[(group == k) & (batch == b)].sum(0) for b in range(3)] for k in range(2)])
    profile = pd.Series(adata.X.mean(axis=0), index=adata.var_names)
    split = native_share(sums, np.tile(profile / profile.sum(), (3, 1)), (adata.X, group * 3 + batch))
    clean = model.get_clean_reference(labels_key="cell_type", integer=False, ambient_profile=7 * profile[::-1])
    np.testing.assert_allclose(clean.uns["ambient_share"]["share"], split.level, rtol=1e-4, atol=1e-8)
    assert (
        (clean.uns["ambient_share"]["lower"] <= split.level) & (split.level <= clean.uns["ambient_share"]["upper"])
    ).all()
    np.testing.assert_allclose(clean.varm["ambient_profile"], np.tile(profile / profile.sum(), (3, 1)).T, rtol=1e-6)
    table = pd.DataFrame({"all": profile})
    again = model.get_clean_reference(labels_key="cell_type", integer=False, ambient_profile=table)
    np.testing.assert_array_equal(again.X.toarray(), clean.X.toarray())
    for wrong, error, said in (
        (pd.DataFrame({"b0": profile}), KeyError, "no column 'b1'"),
        (profile.rename("x{}".format), ValueError, "0 of 40 genes"),
        (-profile, ValueError, "at least 0"),
        (profile.to_numpy(), TypeError, "a ndarray, which names no genes; expected a table"),
        (profile.to_dict(), TypeError, "a dict, which names no genes"),
        (profile.map("{:.3f}".format), ValueError, "expected numbers"),
    ):
        with pytest.raises(error, match=said):
            model.get_clean_reference(ambient_profile=wrong)
    with pytest.warns(UserWarning, match="has 30 of the 40 genes of the model"):
        part = model.get_clean_reference(labels_key="cell_type", integer=False, ambient_profile=profile[:30])
    assert (part.varm["ambient_profile"][30:] == 0).all()
