"""CycleAE on AnnData: rows CA-01 to CA-21 that need a trained model."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import hpvade as hp
from hpvade.models.cycleae import _tables
from hpvade.models.cycleae._translate import changes

FIELDS = ["condition", "tissue", "sex"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def log1p(adata):
    X = adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)
    return np.log1p(1e4 * X / X.sum(axis=1, keepdims=True))


def correlation(a, b):
    return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def planted_change(adata, field):
    truth = adata.varm[f"effect_{field}"].to_numpy().T
    return truth[1:] - truth[0]


# ---------------------------------------------------------------- CA-04, CA-17: identifiable parts


def test_ca_04_parts_sum_to_the_reconstruction_and_effects_to_zero(cycle):
    model, adata = cycle.model, cycle.adata
    parts = model.get_head_logits()
    same = model.get_counterfactual_expression(context={})
    np.testing.assert_allclose(sum(parts.values()), same, atol=1e-5)
    for field in FIELDS:
        share = adata.obs[field].iloc[model.train_indices].value_counts(normalize=True)
        effects = model.get_context_effects(field).droplevel(0)
        assert np.abs((effects.mul(share.reindex(effects.index).to_numpy(), axis=0)).sum()).max() < 1e-5


def test_ca_17_index_columns_and_shape(cycle):
    table = cycle.model.get_context_effects()
    assert table.shape == (2 + 3 + 2 + 1, 150)
    assert table.index.names == ["field", "category"] and table.index[0] == ("base", "intercept")
    assert list(table.columns) == list(cycle.adata.var_names)
    assert list(table.index[1:4]) == [
        ("condition", "condition_0"),
        ("condition", "condition_1"),
        ("tissue", "tissue_0"),
    ]
    pd.testing.assert_frame_equal(cycle.model.get_context_effects("sex"), table.loc[["sex"]])
    # intercept plus one effect per field is the mean output in that context
    context = {"condition": "condition_1", "tissue": "tissue_2", "sex": "sex_0"}
    mean = cycle.model.get_counterfactual_expression(context=context, indices=cycle.model.train_indices).mean()
    total = table.loc[("base", "intercept")] + sum(table.loc[pair] for pair in context.items())
    np.testing.assert_allclose(total, mean, atol=1e-4)


def test_ca_04_permuted_fields_and_relabelled_categories_permute_results(cells, fit_cycle):
    adata, renamed = cells(), cells()
    swap = {"sex_0": "sex_9", "sex_1": "sex_1"}  # the categories change places
    renamed.obs["sex"] = renamed.obs["sex"].astype(str).map(swap)
    first = fit_cycle(adata, train={"learning_rate": 3e-4})
    second = fit_cycle(renamed, ["sex", "tissue", "condition"], train={"learning_rate": 3e-4})
    a, b = first.get_context_effects("sex"), second.get_context_effects("sex")
    assert list(b.index.get_level_values(1)) == ["sex_1", "sex_9"]
    assert correlation(a.loc[("sex", "sex_0")], b.loc[("sex", "sex_9")]) > 0.98
    assert correlation(a.loc[("sex", "sex_1")], b.loc[("sex", "sex_1")]) > 0.98


# ---------------------------------------------------------------- CA-06, CA-07, CA-08: planted truth


def test_ca_06_reconstruction_classifier_and_target_consistency(cycle):
    model, adata, X = cycle.model, cycle.adata, log1p(cycle.adata)
    train, held_out = model.train_indices, model.validation_indices
    pca = PCA(16, random_state=0).fit(X[train])
    error = np.mean((pca.inverse_transform(pca.transform(X[held_out])) - X[held_out]) ** 2)
    assert model.get_reconstruction_error(indices=held_out)["cycle_loss"] < error
    predicted = model.predict_context(indices=held_out)
    for field in FIELDS:
        truth = adata.obs[field].astype(str).to_numpy()
        majority = pd.Series(truth[held_out]).value_counts(normalize=True).max()
        assert np.mean(predicted[field].idxmax(axis=1).to_numpy() == truth[held_out]) > majority + 0.1
        np.testing.assert_allclose(predicted[field].sum(axis=1), 1, atol=1e-5)
        judge = LogisticRegression(max_iter=500).fit(X[train], truth[train])
        names = model.categories[field]
        target = np.array([names[(names.index(value) + 1) % len(names)] for value in truth[held_out]])
        moved = model.get_counterfactual_expression(context={field: target}, indices=held_out)
        assert np.mean(judge.predict(moved.to_numpy()) == target) > 0.8


def test_ca_07_counterfactuals_recover_the_planted_effect_and_nothing_else(cycle):
    model, adata = cycle.model, cycle.adata
    same = model.get_counterfactual_expression(context={})
    for field in FIELDS:
        names = model.categories[field]
        moved = [model.get_counterfactual_expression(context={field: name}).mean() for name in names]
        change = np.array([m - moved[0] for m in moved[1:]])
        assert correlation(change, planted_change(adata, field)) > 0.9
        others = [f for f in FIELDS if f != field]
        assert all(abs(correlation(change[0], planted_change(adata, f)[0])) < 0.3 for f in others)
        own = model.get_counterfactual_expression(context={field: adata.obs[field].astype(str).to_numpy()})
        np.testing.assert_allclose(own, same, atol=1e-5)
    both = model.get_counterfactual_expression(context={"sex": "sex_1", "condition": "condition_1"})
    parts = [model.get_counterfactual_expression(context={f: f"{f}_1"}) for f in ("sex", "condition")]
    np.testing.assert_allclose(both - same, sum(p - same for p in parts), atol=1e-4)  # additive
    pd.testing.assert_frame_equal(
        model.counterfactual(context={"sex": "sex_1"}, indices=[4, 2]), parts[0].iloc[[4, 2]], atol=1e-5
    )


def test_ca_08_influence_equals_direct_computation(cycle):
    table = cycle.model.get_head_influence()
    norms = {head: np.linalg.norm(part, axis=1) for head, part in cycle.model.get_head_logits().items()}
    assert list(table.index) == ["base", *FIELDS]
    for statistic in ("mean", "min", "max"):
        direct = [getattr(norm, statistic)() for norm in norms.values()]
        np.testing.assert_allclose(table[statistic], direct, rtol=1e-5)
    assert table["share"].sum() == pytest.approx(1)


def test_ca_08_ranks_are_stable_over_seeds(cells, fit_cycle):
    adata = cells()
    weak = [e for e in adata.varm if e.startswith("effect")]
    assert len(weak) == 3
    # tissue has three categories of full size; conditions get half, sexes a quarter of the difference
    counts = adata.X.toarray()
    for field, keep in (("condition", 0.5), ("sex", 0.75)):
        effect = adata.varm[f"effect_{field}"].to_numpy().T[adata.obs[field].cat.codes]
        counts = np.random.default_rng(0).poisson(counts * np.exp(-keep * effect)).astype(np.float32)
    adata.X = sparse.csr_matrix(counts)
    orders = []
    for seed in range(3):
        model = fit_cycle(adata.copy(), seed=seed, train={"max_epochs": 2})
        orders.append(list(model.get_head_influence().drop(index="base")["mean"].sort_values().index))
    assert orders[0] == orders[1] == orders[2] and orders[0][-1] == "tissue", orders


# ---------------------------------------------------------------- CA-05: metadata of any kind


def test_ca_05_missing_boolean_numeric_tuple_values_dotted_and_spaced_names(cells, fit_cycle, tmp_path):
    adata = cells(n_cells=200, n_genes=60)
    rng = np.random.default_rng(0)
    adata.obs["is.treated"] = rng.random(200) < 0.5
    adata.obs["day of life"] = rng.choice([1, 3, 7], 200)
    adata.obs[7] = pd.Series([("a", "b") if v else ("c",) for v in rng.random(200) < 0.5], index=adata.obs_names)
    adata.obs["tissue"] = adata.obs["tissue"].astype(object)
    adata.obs.iloc[::5, adata.obs.columns.get_loc("tissue")] = [np.nan, "", " "][0]
    keys = ["is.treated", "day of life", 7, "tissue"]
    model = fit_cycle(adata, keys, train={"max_epochs": 2})
    assert model.fields == ["is.treated", "day of life", "7", "tissue"]
    assert model.categories["is.treated"] == [False, True] and model.categories["day of life"] == [1, 3, 7]
    assert model.categories["7"] == [("a", "b"), ("c",)] and model.categories["tissue"] == [
        "tissue_0",
        "tissue_1",
        "tissue_2",
    ]
    table = model.get_context_effects()
    assert ("tissue", "<missing>") in table.index and ("day of life", 7) in table.index
    moved = model.get_counterfactual_expression(context={"is.treated": True, "day of life": 3, "7": [("c",)] * 200})
    assert np.isfinite(moved).all(axis=None)
    with pytest.raises(ValueError, match="'<missing>' is no category of this field; known values: 'tissue_0'"):
        model.get_counterfactual_expression(context={"tissue": "<missing>"})
    model.save(tmp_path / "m")
    loaded = hp.CycleAE.load(tmp_path / "m", adata)
    pd.testing.assert_frame_equal(loaded.get_context_effects(), table)
    assert loaded.categories == model.categories


def test_missing_as_a_mask_adds_nothing(cells, fit_cycle):
    adata = cells(n_cells=200, n_genes=60)
    adata.obs["sex"] = adata.obs["sex"].astype(object).where(np.arange(200) % 4 > 0)
    model = fit_cycle(adata, setup={"missing": "mask"}, train={"max_epochs": 2})
    assert model.get_context_effects("sex").index.get_level_values(1).tolist() == ["sex_0", "sex_1"]
    parts = model.get_head_logits()["sex"]
    lacking = adata.obs["sex"].isna().to_numpy()
    offset = model.module.offset("sex").numpy()
    np.testing.assert_allclose(parts[lacking], np.tile(-offset, (lacking.sum(), 1)), atol=1e-5)
    assert np.std(parts[~lacking], axis=0).max() > 1e-3


# ---------------------------------------------------------------- CA-10, CA-18: saving, input kinds, seeds


def test_ca_10_save_and_load_give_the_same_numbers(cycle, tmp_path):
    model = cycle.model
    model.save(tmp_path / "m")
    effects = model.get_context_effects()
    without = hp.CycleAE.load(tmp_path / "m", adata=False)
    pd.testing.assert_frame_equal(without.get_context_effects(), effects)
    fresh = hp.datasets.planted_contexts(n_cells=600, n_genes=150, seed=3)
    for loaded in (without, hp.CycleAE.load(tmp_path / "m", fresh.copy())):
        found = loaded.get_counterfactual_expression(fresh, context={"sex": "sex_1"})
        pd.testing.assert_frame_equal(found, model.get_counterfactual_expression(context={"sex": "sex_1"}))
    assert repr(without).startswith("<CycleAE(n_latent=16): trained for 12 epochs")
    assert without.history["validation_loss"].equals(model.history["validation_loss"])


def test_ca_18_same_seed_same_bits_and_another_seed_other_bits(cells, fit_cycle, weights):
    first, second, other = (weights(fit_cycle(cells(), seed=seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["generator.base"], other["generator.base"])


def test_ca_18_sparse_dense_csc_and_backed_input_agree(cells, fit_cycle, tmp_path):
    adata = cells(n_cells=200, n_genes=60)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    import anndata as ad

    kinds = {"csr": adata.copy(), "dense": adata.copy(), "csc": adata.copy(), "array": adata.copy()}
    kinds["backed"] = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    kinds["dense"].X, kinds["csc"].X = adata.X.toarray(), adata.X.tocsc()
    kinds["array"].X = sparse.csr_array(adata.X)
    found = {}
    for name, data in kinds.items():
        model = fit_cycle(data, train={"max_epochs": 2, "batch_size": 33})
        found[name] = model.get_counterfactual_expression(context={"sex": "sex_1"}, indices=[9, 3, 3, 150])
    for name, table in found.items():
        assert list(table.index) == ["cell_9", "cell_3", "cell_3", "cell_150"], name
        np.testing.assert_allclose(table, found["csr"], atol=1e-5, err_msg=name)


def test_one_cell_is_enough_to_ask(cycle):
    one = cycle.adata[[5]].copy()
    table = cycle.model.get_counterfactual_expression(one, context={"sex": "sex_1"})
    expected = cycle.model.get_counterfactual_expression(context={"sex": "sex_1"}, indices=[5])
    np.testing.assert_allclose(table, expected, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ca_18_cpu_and_gpu_agree(cycle, tmp_path):
    cycle.model.save(tmp_path / "m")
    loaded = hp.CycleAE.load(tmp_path / "m", adata=False, accelerator="gpu")
    found = loaded.get_counterfactual_expression(cycle.adata.copy(), context={"sex": "sex_1"})
    np.testing.assert_allclose(found, cycle.model.counterfactual(context={"sex": "sex_1"}), atol=1e-4)


def test_latent_representation_of_every_head(cycle):
    model = cycle.model
    z = model.get_latent_representation()
    np.testing.assert_allclose(z, log1p(cycle.adata) @ model.module.generator.base.detach().numpy().T, atol=1e-3)
    assert model.get_latent_representation(head="sex", indices=[3, 1]).shape == (2, 16)
    with pytest.raises(ValueError, match="expected 'base' or one of condition, tissue, sex"):
        model.get_latent_representation(head="age")


def test_relu_counts_scale_and_options_train(cells, fit_cycle):
    for options in ({"activation": "relu"}, {"scale": "counts"}, {"head_scale": 0.0159, "start": "uniform"}):
        for nonnegative in (True, False):
            model = fit_cycle(
                cells(n_cells=200, n_genes=60), train={"max_epochs": 2}, nonnegative=nonnegative, **options
            )
            parts = sum(model.get_head_logits().values())
            np.testing.assert_allclose(parts, model.counterfactual(context={}), rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- the reference for HPVADE


def test_translated_reference_is_counts_that_hpvade_takes(cycle, unchanged):
    model, adata = cycle.model, cycle.adata
    torch.manual_seed(0)
    with unchanged(adata):
        translated = model.translate_reference(to={"condition": "condition_1"})
    X = translated.X.toarray()
    assert sparse.issparse(translated.X) and (np.rint(X) == X).all() and (X >= 0).all()
    assert set(translated.obs["condition"]) == {"condition_1"} and "_scvi_batch" not in translated.obs
    pd.testing.assert_series_equal(translated.obs["cell_type"], adata.obs["cell_type"])
    hp.HPVADE.setup_anndata(translated, labels_key="cell_type")
    control = (adata.obs["condition"] == "condition_0").to_numpy()
    change = log1p(translated)[control].mean(axis=0) - log1p(adata)[control].mean(axis=0)
    assert correlation(change, planted_change(adata, "condition")) > 0.9
    # cells that are there already stay as they are, but for rounding
    np.testing.assert_allclose(X[~control].sum(), adata.X[~control].sum(), rtol=0.01)
    assert correlation(X[~control], adata.X[~control].toarray()) > 0.999
    torch.manual_seed(0)
    again = model.translate_reference(to={"condition": "condition_1"})
    assert (again.X != translated.X).nnz == 0


def log_mean(cells):
    """log1p of mean counts per 10,000."""
    X = cells.X.toarray()
    return np.log1p((1e4 * X / X.sum(axis=1, keepdims=True)).mean(axis=0))


def test_translated_cells_change_on_average_as_measured(cells, fit_cycle, tmp_path):
    """Types respond in their own ways: the mean of each type is that of the training cells, whatever the network."""
    adata = cells(specific_sd=1.0)
    for options in ({}, {"nonnegative": True}, {"activation": "relu"}):
        model = fit_cycle(adata, ["condition", "cell_type"], train={"max_epochs": 2}, **options)
        control = adata[(adata.obs["condition"] == "condition_0").to_numpy()].copy()
        kinds, rows = control.obs["cell_type"].astype(str).to_numpy(), np.arange(control.n_obs)
        cells_, indices = _tables.cells(model, control, rows)
        change = np.concatenate([c for _, _, c in changes(model, cells_, {"condition": "condition_1"}, indices)])
        train = model.train_indices
        of = adata.obs.iloc[train][["condition", "cell_type"]].astype(str).agg(" ".join, axis=1).to_numpy()
        translated = model.translate_reference(control, to={"condition": "condition_1"}, seed=0)
        for kind in np.unique(kinds):
            after, before = (log_mean(adata[train][of == f"{name} {kind}"]) for name in ("condition_1", "condition_0"))
            assert correlation(change[kinds == kind].mean(axis=0), after - before) > 0.98
            assert np.std(change[kinds == kind], axis=0).max() > 0
            own = translated[kinds == kind]
            found = log_mean(own) - log_mean(control[kinds == kind])
            assert correlation(found, after - before) > 0.98
            assert np.sqrt(np.mean((found - (after - before)) ** 2)) < 0.1 * np.std(after - before) + 0.1
        model.save(tmp_path / "model", overwrite=True)
        again = hp.CycleAE.load(tmp_path / "model", adata=control).module.shift
        assert torch.equal(again.residuals, model.module.shift.residuals) and again.residuals.abs().max() > 0.1


def test_a_translation_says_what_was_measured(cells, fit_cycle):
    adata = cells()
    absent = (adata.obs["condition"] == "condition_1") & (adata.obs["cell_type"] == "type_0")
    model = fit_cycle(adata[~absent.to_numpy()].copy(), ["condition", "cell_type"])
    with pytest.warns(UserWarning, match="1 of .* no training cells in the target.*cell_type=type_0"):
        translated = model.translate_reference(to={"condition": "condition_1"}, seed=3)
    table = translated.uns["cycleae_translation"]
    obs = model.adata.obs.iloc[model.train_indices].astype(str)
    for row in table.to_dict("records"):
        for column, condition in (("n_source", row["condition"]), ("n_target", row["to condition"])):
            same = (obs["condition"] == condition) & (obs["cell_type"] == row["cell_type"])
            assert row[column] == same.sum()
    assert table["n_cells"].sum() == model.adata.n_obs and table["measured"].between(0, 1).all()
    unmeasured = table["n_target"] == 0
    assert table.loc[unmeasured, "cell_type"].tolist() == ["type_0"] and (table["measured"][unmeasured] == 0).all()
    only = model.adata[(model.adata.obs["cell_type"] != "type_0").to_numpy()].copy()
    one, two, other = (model.translate_reference(only, to={"condition": "condition_1"}, seed=s) for s in (1, 1, 2))
    assert (one.X != two.X).nnz == 0 and (one.X != other.X).nnz > 0


def test_logged_cells_are_refused(cells, unchanged):
    adata = cells(n_cells=60)
    adata.X = adata.X.log1p()
    with unchanged(adata), pytest.raises(ValueError, match="looks log-transformed"):
        hp.CycleAE.setup_anndata(adata, ["condition"])


def test_defaults_are_signed_and_the_published_model_is_an_option(cells, fit_cycle):
    adata = cells(n_cells=100)
    hp.CycleAE.setup_anndata(adata, ["condition"])
    assert not hp.CycleAE(adata, n_latent=4).module.generator.nonnegative
    assert hp.CycleAE(adata, n_latent=4, nonnegative=True).module.generator.nonnegative
    assert hp.nn.cycleae.CAE(10, 3, {"a": {"cardinality": 2, "using": True}}).nonnegative
