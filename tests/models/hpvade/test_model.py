"""HPVADE end to end: accuracy on planted and shipped data, tables, files, reproducibility."""

import anndata as ad
import lightning.pytorch as lp
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import hpvade as hp

KEY = "hpvade_proportions"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def mae(table, truth):
    return float(np.abs(table.to_numpy() - truth[table.columns].to_numpy()).mean())


# ---------------------------------------------------------------- accuracy


def test_hp09_held_out_cells_planted(trained):
    """Mixtures of cells that training has not seen, beside the constant (mean of the truth) and NNLS."""
    model = trained.model
    assert not np.intersect1d(model.train_indices, model.validation_indices).size
    scores = model.evaluate(model.simulate_bulk(200, indices=model.validation_indices, seed=0))
    assert scores.loc[KEY, "sample_r"] > 0.85
    assert scores.loc[KEY, "mae"] < 0.5 * scores.loc["constant", "mae"]
    assert scores.loc[KEY, "mae"] <= scores.loc["nnls", "mae"]


@pytest.mark.slow
def test_hp09_held_out_cells_pbmc3k(pbmc):
    """Types with ten held-out cells. The two held-out platelets have five times the RNA: benchmarks/RESULTS.md."""
    labels = pbmc.adata.obs["cell_type"].to_numpy()
    cells = pbmc.validation_indices
    sizes = pbmc.adata.obs["cell_type"].iloc[cells].value_counts()
    kept = sizes.index[sizes >= 10]
    assert len(kept) == 5
    scores = pbmc.evaluate(pbmc.simulate_bulk(200, indices=cells[np.isin(labels[cells], kept)], seed=0))
    assert scores.loc[KEY, "sample_r"] > 0.85
    assert scores.loc[KEY, "mae"] < 0.5 * scores.loc["constant", "mae"]
    assert scores.loc[KEY, "mae"] <= scores.loc["nnls", "mae"]


@pytest.mark.slow
def test_hp18_real_bulk_with_measured_truth(pbmc):
    bulk = hp.datasets.pbmc_bulk()
    pbmc.deconvolve(bulk)
    scores = hp.tl.evaluate(bulk)
    assert scores.loc[KEY, "per_type_r"] >= 0.90
    assert scores.loc[KEY, "rmse"] < scores.loc["nnls", "rmse"]


def test_planted_bulk_of_new_donors(trained):
    bulk = trained.bulk.copy()
    trained.model.deconvolve(bulk)
    scores = hp.tl.evaluate(bulk)
    assert scores.loc[KEY, "per_type_r"] > 0.95
    assert scores.loc[KEY, "rmse"] < scores.loc["nnls", "rmse"]


def test_hp10_evaluate_has_model_nnls_and_constant_rows(trained, unchanged):
    bulk = trained.bulk
    with unchanged(bulk, trained.reference):
        scores = trained.model.evaluate(bulk)
        same = trained.model.evaluate(bulk, bulk.obsm["proportions"].iloc[::-1], key_added="mine")
    assert list(scores.index) == [KEY, "nnls", "constant"]
    assert list(same.index) == ["mine", "nnls", "constant"]
    np.testing.assert_array_equal(same.to_numpy(), scores.to_numpy())
    truth = bulk.obsm["proportions"]
    assert scores.loc["constant", "mae"] == pytest.approx((truth - truth.mean()).abs().to_numpy().mean())
    copy = bulk.copy()
    assert scores.loc[KEY, "mae"] == pytest.approx(mae(trained.model.deconvolve(copy), truth))
    assert scores.loc["nnls", "mae"] == pytest.approx(mae(copy.obsm[f"{KEY}_nnls"], truth))


def test_hp10_constant_row_meets_the_closed_forms(trained):
    """Uniform Dirichlet truth of K types: E|p - 1/K| and the RMSE of 1/K (spec 5.2)."""
    bulk = trained.model.simulate_bulk(2000, n_cells=2000, seed=0)
    scores = trained.model.evaluate(bulk, refine=False)
    k = 4
    assert scores.loc["constant", "mae"] == pytest.approx(2 / k * (1 - 1 / k) ** k, rel=0.05)
    assert scores.loc["constant", "rmse"] == pytest.approx(np.sqrt((k - 1) / (k**2 * (k + 1))), rel=0.05)


def test_hp12_cell_and_rna_fractions_each_meet_their_own_truth(trained):
    """RNA content per cell differs four times between the first and the last type."""
    bulk = trained.bulk.copy()
    cells = trained.model.deconvolve(bulk)
    rna = bulk.obsm[f"{KEY}_rna"]
    assert mae(cells, bulk.obsm["proportions"]) < 0.5 * mae(rna, bulk.obsm["proportions"])
    assert mae(rna, bulk.obsm["rna_proportions"]) < 0.5 * mae(cells, bulk.obsm["rna_proportions"])


# ---------------------------------------------------------------- the signature


def test_hp11_signature_is_positive_distinct_and_learned(trained):
    learned = trained.model.get_signature_matrix()
    start = trained.model.module.mean_counts.numpy()
    assert (learned >= 0).all(axis=None)
    correlation = np.corrcoef(learned.to_numpy().T)
    assert (correlation[~np.eye(4, dtype=bool)] < 1).all()
    assert np.linalg.norm(learned - start) > 0.01 * np.linalg.norm(start)
    cpm = trained.model.get_signature_matrix(normalize="cpm")
    np.testing.assert_allclose(cpm, 1e6 * learned / learned.sum(), rtol=1e-5)


def test_hp11_hp13_initial_columns_are_raw_means(planted, fit):
    """One donor: plain means, of the training cells while it trains, of those and the held-out ones in the end."""
    reference, _ = planted()
    seen = {}

    class Look(lp.Callback):
        def on_train_start(self, trainer, pl_module):
            seen["mean_counts"] = pl_module.module.mean_counts.clone()

    model = fit(reference, 1, keys={}, train={"plan_kwargs": {"lr": 0.0}, "callbacks": [Look()]})
    X, types = reference.X.toarray(), reference.obs["cell_type"].to_numpy()

    def means(cells):
        return np.stack([X[cells][types[cells] == name].mean(axis=0) for name in model.cell_types], axis=1)

    assert 0 < len(model.train_indices) < reference.n_obs
    np.testing.assert_allclose(seen["mean_counts"], means(model.train_indices), rtol=1e-5)
    np.testing.assert_allclose(model.module.mean_counts, means(np.arange(reference.n_obs)), rtol=1e-5)
    np.testing.assert_allclose(model.get_signature_matrix(), means(np.arange(reference.n_obs)), rtol=1e-5)


def test_hp19_tables_provenance_and_signatures(trained):
    bulk = trained.bulk[::-1].copy()
    result = trained.model.deconvolve(bulk, key_added="mine")
    assert list(result.index) == list(bulk.obs_names)
    assert list(result.columns) == trained.model.cell_types == [f"type_{k}" for k in range(4)]
    pd.testing.assert_frame_equal(bulk.obsm["mine"], result)
    for key in ("mine", "mine_rna", "mine_nnls"):
        assert bulk.obsm[key].shape == result.shape and (bulk.obsm[key] >= 0).all(axis=None)
        np.testing.assert_allclose(bulk.obsm[key].sum(axis=1), 1, atol=1e-12)
    how = bulk.uns["mine"]
    assert how["model"] == "HPVADE" and how["preset"] == "default" and how["fractions"] == "cell"
    assert how["input_type"] == "counts" and how["refined"] is True
    assert (how["n_genes"], how["n_genes_missing"], how["gene_overlap"]) == (300, 0, 1.0)
    assert list(how["cell_sizes"].index) == trained.model.cell_types
    result.iloc[0, 0] = -1  # what is returned is a copy
    assert bulk.obsm["mine"].iloc[0, 0] >= 0
    pd.testing.assert_frame_equal(trained.reference.varm["hpvade_signatures"], trained.model.get_signature_matrix())
    assert list(trained.model.get_signature_matrix().index) == list(trained.reference.var_names)


def test_provenance_survives_h5ad(trained, tmp_path):
    bulk = trained.bulk.copy()
    trained.model.deconvolve(bulk)
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    back = ad.read_h5ad(tmp_path / "bulk.h5ad")
    for key in (KEY, f"{KEY}_rna", f"{KEY}_nnls"):
        pd.testing.assert_frame_equal(back.obsm[key], bulk.obsm[key])
    before, after = bulk.uns[KEY], back.uns[KEY]
    assert after.keys() == before.keys()
    pd.testing.assert_frame_equal(after.pop("cell_sizes"), before.pop("cell_sizes"))
    assert after == before


@pytest.mark.filterwarnings("ignore:Forward slashes")
def test_type_names_with_a_slash_survive_h5ad(planted, fit, tmp_path):
    reference, bulk = planted()
    reference.obs["cell_type"] = reference.obs["cell_type"].cat.rename_categories({"type_0": "CD4/CD8"})
    model = fit(reference, 1)
    model.deconvolve(bulk)
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    back = ad.read_h5ad(tmp_path / "bulk.h5ad")
    assert list(back.uns[KEY]["cell_sizes"].index) == ["CD4/CD8", "type_1", "type_2", "type_3"]
    pd.testing.assert_frame_equal(back.obsm[KEY], bulk.obsm[KEY])


# ---------------------------------------------------------------- simulated bulk


def test_hp25_simulate_bulk(trained):
    model = trained.model
    bulk = model.simulate_bulk(50, n_cells=100, seed=3)
    assert bulk.shape == (50, 300) and list(bulk.var_names) == list(trained.reference.var_names)
    cells, rna = bulk.obsm["proportions"], bulk.obsm["rna_proportions"]
    np.testing.assert_allclose(cells * 100, np.rint(cells * 100), atol=1e-9)  # labels are the realised fractions
    np.testing.assert_allclose(rna.sum(axis=1), 1)
    X = bulk.X.toarray() if sparse.issparse(bulk.X) else bulk.X
    np.testing.assert_array_equal(X, np.rint(X))
    again, other = model.simulate_bulk(50, n_cells=100, seed=3), model.simulate_bulk(50, n_cells=100, seed=4)
    np.testing.assert_array_equal(again.X, X)
    assert not np.array_equal(other.X, X)

    def entropy(**options):
        p = model.simulate_bulk(300, seed=0, **options).obsm["proportions"].to_numpy()
        return -(p * np.log(np.maximum(p, 1e-12))).sum(axis=1).mean()

    assert entropy(alpha=0.1) < entropy() < entropy(alpha=10)
    assert entropy(sparse=1.0) < entropy()


def test_hp25_indices_are_the_only_cells_drawn(trained):
    """One cell per type: a sample is its cells times their numbers; positions, masks and negative numbers agree."""
    types = trained.reference.obs["cell_type"].cat.codes.to_numpy()
    chosen = np.array([np.flatnonzero(types == k)[-1] for k in range(4)])
    bulk = trained.model.simulate_bulk(10, n_cells=30, indices=chosen[::-1], seed=0)
    expected = bulk.obsm["proportions"].to_numpy() * 30 @ trained.reference.X[chosen].toarray()
    X = bulk.X.toarray() if sparse.issparse(bulk.X) else bulk.X
    np.testing.assert_allclose(X, expected, rtol=1e-5)
    mask = np.isin(np.arange(480), chosen)
    for indices in (mask, list(chosen), chosen - 480):
        np.testing.assert_array_equal(trained.model.simulate_bulk(10, n_cells=30, indices=indices, seed=0).X, bulk.X)


# ---------------------------------------------------------------- invariances


@pytest.mark.parametrize("refine", [True, False])
def test_hp07_scale_of_a_sample_does_not_matter(trained, refine):
    """Any positive factor per sample: the same proportions to 1e-5, on the predict path."""
    bulk = trained.bulk.copy()
    factors = np.geomspace(1e-9, 1e12, bulk.n_obs)
    scaled = ad.AnnData(bulk.X * factors[:, None], bulk.obs, bulk.var)
    expected = trained.model.deconvolve(bulk, input_type="tpm", refine=refine)
    found = trained.model.deconvolve(scaled, input_type="tpm", refine=refine)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_hp07_scale_does_not_matter_to_the_spec_preset(literal):
    bulk = literal.bulk.copy()
    scaled = ad.AnnData(bulk.X * np.geomspace(1e-3, 1e6, bulk.n_obs)[:, None], bulk.obs, bulk.var)
    found = literal.model.deconvolve(scaled, input_type="tpm")
    np.testing.assert_allclose(found, literal.model.deconvolve(bulk, input_type="tpm"), atol=1e-5)


@pytest.mark.parametrize("preset", ["trained", "literal"])
def test_hp15_gene_order_and_unknown_genes_do_not_matter(preset, request):
    which = request.getfixturevalue(preset)
    bulk = which.bulk.copy()
    expected = which.model.deconvolve(bulk)
    order = np.random.default_rng(0).permutation(bulk.n_vars)
    pd.testing.assert_frame_equal(which.model.deconvolve(bulk[:, order].copy()), expected)
    extra = ad.AnnData(np.full((bulk.n_obs, 50), 7.0, dtype=np.float32), bulk.obs)
    extra.var_names = [f"other_{i}" for i in range(50)]
    more = ad.concat([extra, bulk[:, order]], axis=1)
    np.testing.assert_allclose(which.model.deconvolve(more), expected, atol=1e-6)


@pytest.mark.parametrize("missing", ["mean", "zero"])
def test_hp15_missing_genes_warn_and_cost_little(trained, missing):
    """A fifth of the genes missing: with "mean" about as good as with all, with "zero" as if measured as 0."""
    bulk, fewer = trained.bulk.copy(), trained.bulk[:, 60:].copy()
    full = mae(trained.model.deconvolve(bulk), bulk.obsm["proportions"])
    with pytest.warns(UserWarning, match=r"240 of the model's 300 genes \(80.0%\); missing are 60"):
        found = trained.model.deconvolve(fewer, missing=missing)
    assert fewer.uns[KEY]["n_genes_missing"] == 60 and fewer.uns[KEY]["gene_overlap"] == 0.8
    if missing == "mean":
        assert mae(found, bulk.obsm["proportions"]) < 2 * full
    else:
        bulk.X[:, :60] = 0
        pd.testing.assert_frame_equal(found, trained.model.deconvolve(bulk, missing="zero"))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("adata", [None, False, "reference"])
def test_hp17_loaded_model_gives_identical_proportions(trained, saved, planted, adata):
    reference = planted()[0] if adata == "reference" else adata
    loaded = hp.HPVADE.load(saved, adata=reference)
    bulk = trained.bulk.copy()
    pd.testing.assert_frame_equal(loaded.deconvolve(bulk), trained.model.deconvolve(trained.bulk.copy()), rtol=0)
    pd.testing.assert_frame_equal(loaded.get_signature_matrix(), trained.model.get_signature_matrix())
    assert loaded.cell_types == trained.model.cell_types
    if adata != "reference":
        assert loaded.adata is None
        with pytest.raises(ValueError, match="loaded without data"):
            loaded.train()
        with pytest.raises(ValueError, match="loaded without data"):
            loaded.simulate_bulk(2)
    else:
        assert loaded.adata is reference
        np.testing.assert_array_equal(loaded.get_latent_representation(), trained.model.get_latent_representation())
        loaded.train(1, **QUIET)
        assert len(loaded.history["train_loss"]) == 51


@pytest.mark.parametrize(
    "options", [{"preset": "spec", "n_latent": 5}, {"cell_size": {f"type_{k}": k + 1.0 for k in range(4)}}]
)
def test_hp17_options_are_saved(planted, fit, tmp_path, options):
    reference, bulk = planted()
    model = fit(reference, 1, **options)
    model.save(tmp_path / "m")
    loaded = hp.HPVADE.load(tmp_path / "m", adata=False)
    assert loaded.preset == model.preset and loaded.cell_size == model.cell_size
    pd.testing.assert_frame_equal(loaded.deconvolve(bulk.copy()), model.deconvolve(bulk.copy()), rtol=0)


# ---------------------------------------------------------------- reproducibility and devices


@pytest.mark.parametrize("preset", ["default", "spec"])
def test_hp24_one_seed_one_result(planted, fit, preset):
    results = []
    for seed in (0, 0, 1):
        reference, bulk = planted()
        results.append(fit(reference, 2, seed, preset=preset).deconvolve(bulk))
    pd.testing.assert_frame_equal(results[0], results[1], rtol=0, atol=0, check_exact=True)
    assert np.abs(results[0] - results[2]).to_numpy().max() > 1e-6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_hp21_cpu_and_gpu_agree(trained, saved, planted, fit):
    expected = trained.model.deconvolve(trained.bulk.copy())
    on_gpu = hp.HPVADE.load(saved, adata=False, accelerator="gpu")
    assert on_gpu.device.type == "cuda"
    np.testing.assert_allclose(on_gpu.deconvolve(trained.bulk.copy()), expected, atol=1e-4)
    reference, bulk = planted()
    model = fit(reference, 2, train={"accelerator": "gpu"})
    assert model.device.type == "cuda"
    assert np.isfinite(model.deconvolve(bulk)).all(axis=None)
    assert np.isfinite(model.history["validation_loss"]).all(axis=None)
