"""`tl.diagnose`: planted trouble is found, clean bulk passes, and nothing but the documented slots is written."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp
from hpvade.models.hpvade._detection import simulated_estimate
from hpvade.models.hpvade._estimate import estimate
from hpvade.simulate import PlatformNoise

KEY = "hpvade_qc"
COLUMNS = ["residual", "percentile", "unexplained", "unknown", "disagreement", "zeros", "missing", "flagged", "verdict"]


def bulk_of(expression, reference, names=None):
    names = [f"s{i}" for i in range(len(expression))] if names is None else names
    return ad.AnnData(
        np.rint(expression).astype(np.float32), obs=pd.DataFrame(index=names), var=reference.var[[]].copy()
    )


def mixtures(reference, n=12, seed=0, sd=0.5, alpha=4.0):
    """Expected counts of mixtures on another platform, 5 million each, with NB noise; and the fractions of RNA."""
    rng = np.random.default_rng(seed)
    profiles = (reference.varm["signature"] / reference.varm["signature"].sum()).to_numpy().T
    rna = rng.dirichlet(np.full(len(profiles), alpha), n)
    seen = rna @ profiles * np.exp(sd * rng.standard_normal(profiles.shape[1]))
    seen *= np.exp(0.1 * rng.standard_normal(seen.shape))
    return rng.poisson(5e6 * seen / seen.sum(axis=1, keepdims=True)).astype(float), rna


@pytest.fixture(scope="module")
def clean(trained):
    counts, _ = mixtures(trained.reference)
    return bulk_of(counts, trained.reference)


@pytest.fixture(scope="module")
def diagnosed(trained, clean):
    return hp.tl.diagnose(clean, trained.model, copy=True)


def test_writes_the_documented_slots_and_nothing_else(trained, clean, unchanged):
    with unchanged(clean):
        copied = hp.tl.diagnose(clean, trained.model, copy=True)
    assert list(copied.obs) == [f"{KEY}_{name}" for name in COLUMNS]
    assert list(copied.uns) == [KEY]
    here = clean.copy()
    assert hp.tl.diagnose(here, trained.model) is None
    pd.testing.assert_frame_equal(here.obs, copied.obs)  # same seed, same numbers
    here.obs = here.obs[[]]
    del here.uns[KEY]
    assert not (here.obsm or here.varm or here.layers or here.uns)
    np.testing.assert_array_equal(here.X, clean.X)


def test_clean_bulk_passes(diagnosed):
    obs, summary = diagnosed.obs, diagnosed.uns[KEY]
    assert (obs[f"{KEY}_verdict"] == "No sign of trouble.").all()
    assert not obs[f"{KEY}_flagged"].any()
    assert list(summary["messages"]) == []
    assert summary["input_type"] == "counts"
    assert summary["gene_overlap"] == summary["expression_overlap"] == 1
    assert summary["n_genes"] == 300 and summary["n_genes_missing"] == 0


def test_numbers_follow_from_the_estimate(trained, clean, diagnosed):
    found = estimate(trained.model, clean)
    summary, module = diagnosed.uns[KEY], trained.model.module
    np.testing.assert_allclose(diagnosed.obs[f"{KEY}_residual"], found.fit.residual, rtol=1e-5)
    np.testing.assert_allclose(diagnosed.obs[f"{KEY}_zeros"], (clean.X == 0).mean(axis=1))
    cells = found.cells.double().numpy()
    pd.testing.assert_index_equal(summary["types"].index, pd.Index(trained.model.cell_types, name="type"))
    np.testing.assert_allclose(summary["types"]["mean"], cells.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(summary["types"]["sd"], cells.std(axis=0, ddof=1), atol=1e-6)
    drift = np.abs(cells.mean(axis=0) - module.composition.numpy()).sum() / 2
    assert summary["drift"] == pytest.approx(drift, abs=1e-5)
    assert summary["factor_sd"] == pytest.approx(float(found.fit.gene_factor.std(correction=0)), rel=1e-4)
    signature = module.signature().detach().numpy()
    signature = (signature / signature.sum(axis=0))[found.genes.numpy()]
    mean = signature @ found.rna.numpy().mean(axis=0) + 5e-5
    weighted = signature / mean[:, None] * np.sqrt(found.fit.gene_weight.numpy())[:, None]
    unit = weighted / np.sqrt((weighted**2).sum(axis=0))
    values = np.linalg.svd(unit, compute_uv=False)
    assert summary["condition_number"] == pytest.approx(values[0] / values[-1], rel=1e-4)
    assert summary["max_cosine"] == pytest.approx((unit.T @ unit - 2 * np.eye(4)).max(), rel=1e-4)


def test_percentile_is_uniform_for_what_the_model_assumes(trained):
    """Samples drawn like the yardstick lie anywhere in it; the least and the most are not piled up."""
    rng = np.random.default_rng(5)
    percentiles = []
    for _ in range(6):
        drawn = simulated_estimate(
            trained.model, rng.dirichlet(np.full(4, 4.0), 12), rng, noise=PlatformNoise(platform_sd=(0.5, 0.5))
        )
        bulk = bulk_of(drawn.shares.numpy() * drawn.total.numpy()[:, None], trained.reference)
        percentiles += list(hp.tl.diagnose(bulk, trained.model, copy=True).obs[f"{KEY}_percentile"])
    assert 30 < np.mean(percentiles) < 70
    assert np.mean(np.array(percentiles) >= 99) < 0.1


def test_a_foreign_sample_is_out_of_distribution(trained, clean):
    """One sample with its genes shuffled: it alone is flagged, by its residual, and says so."""
    mixed = clean.copy()
    rng = np.random.default_rng(0)
    mixed.X[3] = mixed.X[3][rng.permutation(mixed.n_vars)]
    hp.tl.diagnose(mixed, trained.model)
    obs = mixed.obs
    assert obs[f"{KEY}_percentile"].iloc[3] > 99
    assert obs[f"{KEY}_residual"].idxmax() == "s3" and obs[f"{KEY}_flagged"].iloc[3]
    assert "swapped or failed sample" in obs[f"{KEY}_verdict"].iloc[3]
    assert obs[f"{KEY}_flagged"].sum() <= 2


def test_unexplained_follows_the_planted_unknown(trained, planted):
    reference = trained.reference
    counts, _ = mixtures(reference, sd=0.3)
    _, donor = planted(unknown=0.2)
    foreign = donor.var["unknown_profile"].to_numpy()
    share = np.linspace(0, 0.6, 12)[:, None]
    foreign = foreign / foreign.sum()
    mixed = (1 - share) * counts / counts.sum(axis=1, keepdims=True) + share * foreign
    bulk = bulk_of(5e6 * mixed, reference)
    hp.tl.diagnose(bulk, trained.model)
    unexplained = bulk.obs[f"{KEY}_unexplained"].to_numpy()
    # what is above the fit: small shares are absorbed by known types and gene factor
    large = share[:, 0] > 0.2
    assert np.corrcoef(unexplained[large], share[large, 0])[0, 1] > 0.95
    assert unexplained[0] < 0.02 and unexplained[-1] - unexplained[0] > 0.05
    unknown = bulk.obs[f"{KEY}_unknown"].to_numpy()
    assert np.corrcoef(unknown, share[:, 0])[0, 1] > 0.95
    assert unknown[0] < 0.02 and unknown[-1] > 0.25
    assert bulk.obs[f"{KEY}_flagged"].iloc[-1]
    assert "the reference lacks" in bulk.obs[f"{KEY}_verdict"].iloc[-1]
    genes = bulk.uns[KEY]["residual_genes"]
    top = set(reference.var_names[np.argsort(-foreign)[:50]])
    assert len(top & set(genes.index[:10])) >= 6


def test_truth_adds_the_baselines(trained, clean, unchanged):
    bulk = clean.copy()
    rng = np.random.default_rng(1)
    cells = estimate(trained.model, clean).cells.double().numpy()
    truth = pd.DataFrame(cells, bulk.obs_names, trained.model.cell_types)
    bulk.obsm["flow"] = (truth["type_0"] + truth["type_1"]).to_frame("A").assign(B=truth["type_2"] + truth["type_3"])
    bulk.uns["flow_mapping"] = {"type_0": "A", "type_1": "A", "type_2": "B", "type_3": "B"}
    hp.tl.diagnose(bulk, trained.model, truth_key="flow")
    table = bulk.uns[KEY]["evaluation"]
    assert list(table.index) == ["hpvade", "nnls", "constant"]
    assert table.loc["hpvade", "rmse"] < 1e-6 < table.loc["nnls", "rmse"]
    bulk.obsm["flow"] = pd.DataFrame(rng.dirichlet([900, 900], 12), bulk.obs_names, ["A", "B"])  # a level of its own
    hp.tl.diagnose(bulk, trained.model, truth_key="flow")
    assert any("the cohort's mean has the smaller error" in text for text in bulk.uns[KEY]["messages"])
    with unchanged(bulk), pytest.raises(KeyError, match="no 'facs'"):
        hp.tl.diagnose(bulk, trained.model, truth_key="facs", key_added="other")


def test_identical_samples_raise_the_alarm(trained, clean):
    bulk = bulk_of(np.repeat(clean.X[:1], 8, axis=0), trained.reference)
    hp.tl.diagnose(bulk, trained.model)
    assert any("All samples are alike" in text for text in bulk.uns[KEY]["messages"])


def test_one_sample_has_no_gene_factor_and_says_so(trained, clean):
    bulk = clean[:1].copy()
    hp.tl.diagnose(bulk, trained.model)
    summary = bulk.uns[KEY]
    assert any("one sample, hence no gene factor" in text for text in summary["messages"])
    assert summary["factor_sd"] == summary["factor_r2"] == 0
    assert np.isfinite(bulk.obs[f"{KEY}_percentile"]).all()


def test_missing_genes_are_weighed_by_expression(trained, clean):
    """The abundant half of the genes: half of the names, most of the expression; and the other way round."""
    module = trained.model.module
    level = (module.mean_counts @ module.composition).numpy()
    order = np.argsort(-level)
    few = clean[:, np.sort(order[120:])].copy()  # without the 120 most abundant genes
    with pytest.warns(UserWarning, match="missing are 120"):
        hp.tl.diagnose(few, trained.model)
    summary = few.uns[KEY]
    assert summary["gene_overlap"] == pytest.approx(0.6)
    assert summary["expression_overlap"] == pytest.approx(level[order[120:]].sum() / level.sum(), rel=1e-4)
    assert summary["expression_overlap"] < 0.7
    assert any("Check gene names" in text for text in summary["messages"])


def test_similar_types_are_named(planted, fit):
    reference, bulk = planted(similar=0.97, n_cells=240)
    model = fit(reference, 2)
    hp.tl.diagnose(bulk, model, n_simulated=12)
    summary = bulk.uns[KEY]
    assert set(summary["most_similar"]) == {"type_2", "type_3"}
    assert summary["max_cosine"] > 0.9


def test_a_type_of_few_cells_beside_a_similar_one_is_named(planted, fit):
    """With five cells its bulk share is halved or worse, the similar type has it, and held-out cells show it."""
    reference, bulk = planted(similar=0.9, n_cells=800)
    cells = np.flatnonzero(reference.obs["cell_type"] == "type_3")
    few = reference[np.setdiff1d(np.arange(reference.n_obs), cells[5:])].copy()
    whole, model = (fit(adata, 0) for adata in (reference, few))
    error = model.deconvolve(bulk.copy()) - bulk.obsm["proportions"]
    assert error["type_3"].mean() < -0.5 * bulk.obsm["proportions"]["type_3"].mean() < 0 < error["type_2"].mean()
    messages = [hp.tl.diagnose(bulk, m, copy=True).uns["hpvade_qc"]["messages"] for m in (model, whole)]
    said, unsaid = ([text for text in texts if "a part of their share" in text] for texts in messages)
    assert len(said) == 1 and "'type_3' at" in said[0] and "type_2" not in said[0]
    assert not unsaid


def test_survives_a_file(diagnosed, tmp_path):
    diagnosed.write_h5ad(tmp_path / "bulk.h5ad")
    back = ad.read_h5ad(tmp_path / "bulk.h5ad")
    assert list(back.obs[f"{KEY}_verdict"]) == list(diagnosed.obs[f"{KEY}_verdict"])
    pd.testing.assert_frame_equal(
        back.uns[KEY]["types"], diagnosed.uns[KEY]["types"], check_names=False, check_index_type=False
    )
    assert list(back.uns[KEY]["messages"]) == []
    assert back.uns[KEY]["condition_number"] == pytest.approx(diagnosed.uns[KEY]["condition_number"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "no model"}, TypeError, "model is a str; expected a trained"),
        ({"n_simulated": 0}, ValueError, "n_simulated=0; expected"),
        ({"layer": "tpm"}, KeyError, "tpm"),
        ({"input_type": "guess"}, ValueError, "input_type='guess'"),
        ({"truth_key": "facs"}, KeyError, "no 'facs'"),
    ],
)
def test_bad_input_leaves_the_bulk_unchanged(trained, clean, unchanged, options, error, message):
    model = options.pop("model", trained.model)
    with unchanged(clean), pytest.raises(error, match=message):
        hp.tl.diagnose(clean, model, **options)


def test_models_that_cannot_be_diagnosed(literal, planted, unchanged):
    reference, bulk = planted()
    hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
    with unchanged(bulk):
        with pytest.raises(ValueError, match="use preset='default'"):
            hp.tl.diagnose(bulk, literal.model)
        with pytest.raises(RuntimeError, match="train"):
            hp.tl.diagnose(bulk, hp.HPVADE(reference))


def test_bad_values_are_refused_before_anything_is_written(trained, clean, unchanged):
    bulk = clean.copy()
    bulk.X[0, 0] = np.nan
    with unchanged(bulk), pytest.raises(ValueError, match="NaN"):
        hp.tl.diagnose(bulk, trained.model)


def test_a_withheld_type_is_named_in_real_blood():
    """Monocytes, a sixth of these samples; with them in the reference no lineage of mononuclear cells is named."""
    reference, bulk = hp.datasets.pbmc_reference(), hp.datasets.pbmc_bulk()
    named = {}
    for withheld in ("none", "Mono"):
        adata = reference[reference.obs["cell_type"] != withheld].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # labels as published, genes that only the reference has
            hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor")
            model = hp.HPVADE(adata)
            model.train(0, accelerator="cpu")
            result = hp.tl.diagnose(bulk, model, copy=True)
        named[withheld] = result.obs[f"{KEY}_missing"].str.split(", ").map(set)
    assert all("Mono" in names for names in named["Mono"]) and result.obs[f"{KEY}_flagged"].all()
    assert not set.union(*named["none"]) & {"B", "T", "CD8 T", "NK", "Mono"}
    assert result.uns[KEY]["messages"][0].startswith("100% of the samples express markers of Mono")
    assert result.uns[KEY]["missing_types"].loc["Mono", "share"] == 1


def test_markers_that_cannot_be_read_change_nothing(trained, clean, unchanged):
    with unchanged(clean), pytest.raises(ValueError, match="markers='skin' is unknown"):
        hp.tl.diagnose(clean, trained.model, markers="skin")
