"""Labels, counterfactuals, effects: rows CV-03, CV-04, CV-05, CV-07, CV-12, CV-17, CV-20."""

import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp


def log_mean(table) -> np.ndarray:
    return np.log1p(np.asarray(table, dtype=float).mean(axis=0))


def cp10k(adata) -> np.ndarray:
    X = adata.X.toarray().astype(float)
    return 1e4 * X / X.sum(axis=1, keepdims=True)


# ---------------------------------------------------------------- CV-03


def test_cv_03_the_encoder_sees_neither_perturbation_nor_type(trained):
    adata = trained.adata[:30].copy()
    z = trained.model.get_latent_representation(adata)
    changed = adata.copy()
    changed.obs["perturbation"] = pd.Categorical(["drug_b"] * 30)
    changed.obs["cell_type"] = pd.Categorical(["T"] * 30)
    np.testing.assert_array_equal(trained.model.get_latent_representation(changed), z)
    net, x = trained.model.module.net, torch.from_numpy(adata.X.toarray())
    ids = [torch.full((30,), i) for i in (0, 1, 2)]
    for types, perturbations in ((ids[0], ids[1]), (ids[2], ids[0])):
        assert torch.equal(net.encode(x, types, perturbations, ids[0])[0], net.encode(x, ids[1], ids[2], ids[0])[0])
    assert not torch.equal(net.encode(x, ids[0], ids[0], ids[0])[0], net.encode(x, ids[0], ids[0], ids[1])[0])


def test_cv_03_conditioning_on_all_differs(cells, fit):
    adata = cells(90)
    model = fit(adata, 2, encoder_conditioning="all")
    changed = adata.copy()
    changed.obs["perturbation"] = pd.Categorical(["drug_b"] * 90)
    assert np.abs(model.get_latent_representation(changed) - model.get_latent_representation(adata)).max() > 1e-4


# ---------------------------------------------------------------- CV-04


def test_cv_04_predict_is_deterministic_and_right(trained):
    model, held_out = trained.model, trained.model.validation_indices
    truth = trained.adata.obs["cell_type"].astype(str).to_numpy()[held_out]
    majority = pd.Series(truth).value_counts(normalize=True).iloc[0]
    torch.manual_seed(1)
    first = model.predict(indices=held_out)
    torch.manual_seed(2)
    pd.testing.assert_series_equal(model.predict(indices=held_out, batch_size=7), first)
    for method in ("classifier", "elbo", "reconstruction"):
        found = model.predict(indices=held_out, method=method, n_samples=4)
        assert (found.astype(str).to_numpy() == truth).mean() > max(0.9, majority), method
    soft = model.predict(indices=held_out, soft=True)
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-5)
    assert (soft.idxmax(axis=1).to_numpy() == first.astype(str).to_numpy()).all()
    pd.testing.assert_series_equal(model.predict_cell_type(indices=held_out), first)


def test_cv_04_predict_does_not_look_at_the_labels(trained):
    adata = trained.adata[:40].copy()
    expected = trained.model.predict(adata, soft=True)
    del adata.obs["cell_type"], adata.obs["perturbation"]
    pd.testing.assert_frame_equal(trained.model.predict(adata, soft=True), expected)
    with pytest.raises(KeyError, match="'perturbation' is not a column"):
        trained.model.predict(adata, method="elbo")


def test_cv_04_bad_arguments(trained):
    for options, said in (
        ({"method": "vote"}, "method='vote'"),
        ({"n_samples": 0}, "n_samples=0"),
        ({"method": "reconstruction", "soft": True}, "no probabilities"),
    ):
        with pytest.raises(ValueError, match=said):
            trained.model.predict(**options)


def test_elbo_probabilities_equal_a_direct_computation(trained):
    """Softmax over types of log mean_s p(x|z_s,k) p(z_s) / q(z_s|x), with scipy's densities."""
    from scipy import special, stats

    model, cell = trained.model, trained.adata[:3].copy()
    net, x = model.module.net, torch.from_numpy(cell.X.toarray())
    experiments = torch.tensor([model.experiments.index(e) for e in cell.obs["experiment"]])
    perturbations = torch.tensor([model.perturbations.index(p) for p in cell.obs["perturbation"]])
    with torch.no_grad():
        mu, logvar = net.encode(x, None, None, experiments)
        sd = torch.exp(0.5 * logvar)
        noise = torch.randn(5, 8, generator=torch.Generator().manual_seed(20210907))
        theta = net.log_theta.exp().numpy()
        bound = np.zeros((3, 3))
        for k in range(3):
            terms = []
            for eps in noise:
                z = mu + eps * sd
                types = torch.full((3,), k)
                mean = net.decode(z, types, perturbations, experiments, library=x.sum(dim=1, keepdim=True)).numpy()
                fit = stats.nbinom.logpmf(x.numpy(), theta, theta / (theta + mean)).sum(axis=1)
                prior = stats.norm.logpdf(z.numpy()).sum(axis=1)
                terms.append(fit + prior - stats.norm.logpdf(z.numpy(), mu.numpy(), sd.numpy()).sum(axis=1))
            bound[:, k] = special.logsumexp(terms, axis=0)
    found = model.predict(cell, soft=True, n_samples=5, method="elbo")
    np.testing.assert_allclose(found, special.softmax(bound, axis=1), atol=2e-3)


# ---------------------------------------------------------------- CV-05


def test_cv_05_counterfactual_control_beats_mean_shift(trained):
    model, adata = trained.model, trained.adata
    values, obs = cp10k(adata), adata.obs.astype(str)
    mean = {
        pair: np.log1p(
            values[((obs["cell_type"] == pair[0]) & (obs["perturbation"] == pair[1])).to_numpy()].mean(axis=0)
        )
        for pair in obs[["cell_type", "perturbation"]].drop_duplicates().itertuples(index=False, name=None)
    }
    truth = np.exp(adata.uns["profile"])
    truth = np.log1p(1e4 * truth / truth.sum(axis=1, keepdims=True))
    for drug in ("drug_a", "drug_b"):
        shift = np.mean([mean[kind, "control"] - mean[kind, drug] for kind in model.cell_types], axis=0)
        for i, kind in enumerate(model.cell_types):
            group = np.flatnonzero((obs["cell_type"] == kind) & (obs["perturbation"] == drug))
            ours = log_mean(model.predict_perturbation_effect(indices=group, library_size=1e4))
            rmse = [np.sqrt(((guess - truth[i]) ** 2).mean()) for guess in (ours, mean[kind, drug] + shift)]
            assert rmse[0] < 0.8 * rmse[1], (drug, kind, rmse)


def test_cv_05_direction_of_planted_effects(trained):
    table = trained.model.perturbation_effects()
    assert set(table["perturbation"]) == {"drug_a", "drug_b"} and len(table) == 2 * 3 * 100
    effect = trained.adata.uns["effect"]
    right, sure = [], []
    for (drug, kind), rows in table.groupby(["perturbation", "cell_type"], observed=True):
        planted = effect[["control", "drug_a", "drug_b"].index(drug), ["B", "Mono", "T"].index(kind)]
        strong = np.abs(planted) > 0
        mean = rows["mean_log2_fold_change"].to_numpy()
        right += list(np.sign(mean[strong]) == np.sign(planted[strong]))
        sure += list(rows["direction_probability"].to_numpy()[strong])
    assert np.mean(right) > 0.8 and np.mean(sure) > 0.8
    assert (table["lower"] <= table["upper"]).all() and table["direction_probability"].between(0, 1).all()
    np.testing.assert_allclose(table["fold_change"], 2 ** table["mean_log2_fold_change"], rtol=1e-5)


# ---------------------------------------------------------------- CV-12


def test_cv_12_effects_equal_direct_computation(trained):
    model, adata = trained.model, trained.adata
    group = np.flatnonzero((adata.obs["cell_type"] == "T") & (adata.obs["perturbation"] == "drug_b"))
    own = model.get_counterfactual_expression(indices=group, library_size=1e4).to_numpy()
    control = model.get_counterfactual_expression(indices=group, perturbation="control", library_size=1e4).to_numpy()
    effect = np.log2((own + 1) / (control + 1))
    rows = model.perturbation_effects().query("perturbation == 'drug_b' and cell_type == 'T'")
    np.testing.assert_allclose(rows["mean_log2_fold_change"], effect.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(rows["sd"], effect.std(axis=0), atol=1e-4)
    np.testing.assert_allclose(rows["upper"], np.quantile(effect, 0.975, axis=0), atol=1e-4)
    assert (rows["n_cells"] == len(group)).all() and rows["gene"].tolist() == adata.var_names.tolist()


def test_effects_need_enough_cells(trained):
    with pytest.raises(ValueError, match="1000 cells or more; the largest has 80"):
        trained.model.perturbation_effects(min_cells=1000)
    with pytest.raises(ValueError, match="'placebo'"):
        trained.model.perturbation_effects(control="placebo")


# ---------------------------------------------------------------- CV-07


def test_cv_07_unknown_names_are_refused_or_taken_as_unknown(trained):
    model, adata = trained.model, trained.adata[:20].copy()
    adata.obs["experiment"] = "exp_9"
    said = r"'exp_9'.*obs\['experiment'\].*'exp_0', 'exp_1'"
    for method in (model.predict, model.get_counterfactual_expression, model.get_latent_representation, model.get_elbo):
        with pytest.raises(ValueError, match=said):
            method(adata)
    assert model.predict(adata, unseen="unk").shape == (20,)
    z = model.get_latent_representation(adata, unseen="unk")
    assert z.shape == (20, 8) and np.isfinite(z).all()
    assert set(adata.obs["experiment"]) == {"exp_9"}  # nothing was written
    for options in ({"labels": "NK"}, {"perturbation": "drug_c"}, {"experiment": "exp_9"}):
        name = next(iter(options.values()))
        with pytest.raises(ValueError, match=f"'{name}'"):
            model.get_counterfactual_expression(**options)
        given = {"labels": "B", "perturbation": "control"} | options
        with pytest.raises(ValueError, match=f"'{name}'"):
            model.generate(2, **given)
        assert model.generate(2, seed=0, unseen="unk", **given).shape == (2, 100)
    with pytest.raises(ValueError, match="unseen='maybe'"):
        model.generate(2, labels="NK", perturbation="control", unseen="maybe")


def test_cv_07_unknown_is_the_mean_of_the_known(trained):
    net = trained.model.module.net
    vectors = net.cell_type_embedding.vectors()
    torch.testing.assert_close(vectors[-1], vectors[:-1].mean(dim=0))
    perturbations = net.perturbation_embedding.vectors()
    assert (perturbations[0] == 0).all()  # the control is the origin
    torch.testing.assert_close(perturbations[-1], perturbations[1:3].mean(dim=0))


# ---------------------------------------------------------------- CV-17


def test_cv_17_control_decoded_as_control_is_the_reconstruction(trained):
    control = np.flatnonzero(trained.adata.obs["perturbation"] == "control")[:20]
    own = trained.model.get_counterfactual_expression(indices=control)
    pd.testing.assert_frame_equal(own, trained.model.predict_perturbation_effect(indices=control))
    np.testing.assert_allclose(own.sum(axis=1), 1, rtol=1e-4)
    many = trained.model.get_counterfactual_expression(indices=control, perturbation="drug_a", library_size=5e3)
    np.testing.assert_allclose(many.sum(axis=1), 5e3, rtol=1e-4)
    totals = np.asarray(trained.adata.X.sum(axis=1)).ravel()[control]
    latent = trained.model.get_counterfactual_expression(indices=control, library_size="latent")
    np.testing.assert_allclose(latent.sum(axis=1), totals, rtol=1e-4)
    with pytest.raises(ValueError, match="library_size=0"):
        trained.model.get_counterfactual_expression(library_size=0)


def test_cv_17_normalized_expression_decodes_the_same(trained):
    """Scvi's method averages over draws of z: with many it comes near the mean of z decoded."""
    some = np.arange(10)
    torch.manual_seed(0)
    sampled = trained.model.get_normalized_expression(indices=some, n_samples=200)
    ours = trained.model.get_counterfactual_expression(indices=some)
    assert np.corrcoef(np.log(sampled.to_numpy().ravel()), np.log(ours.to_numpy().ravel()))[0, 1] > 0.98
    as_other = trained.model.get_normalized_expression(indices=some, transform_batch="exp_1")
    assert as_other.shape == (10, 100)


# ---------------------------------------------------------------- CV-20


def test_cv_20_loaded_checkpoint_answers(trained, tmp_path):
    trained.model.export_checkpoint(tmp_path / "m.pt")
    net, config, vocabularies = hp.ConditionalVAE.load_trained_model(tmp_path / "m.pt")
    adata = trained.adata[:60].copy()
    x = torch.from_numpy(adata.X.toarray())
    ids = [
        torch.tensor([vocabularies[key][name] for name in adata.obs[column]])
        for key, column in (
            ("cell_type", "cell_type"),
            ("perturbation", "perturbation"),
            ("srx_accession", "experiment"),
        )
    ]
    out = net(x, *ids)
    assert {name: tuple(value.shape) for name, value in out.items()} == {
        "reconstructed": (60, 100), "mu": (60, 8), "logvar": (60, 8), "z": (60, 8), "conditioning": (60, 80),
    }  # fmt: skip
    assert torch.equal(out["z"], net.encode(x, *ids)[0])
    assert net.decode(out["z"], *ids).shape == (60, 100)
    counts = net.generate(*(part[:3] for part in ids), n_samples=4)
    assert counts.shape == (12, 100) and (counts >= 0).all() and torch.equal(counts, counts.round())
    assert (net.predict_cell_type(x, ids[1], ids[2]) == ids[0]).float().mean() > 0.9
    control = net.predict_perturbation_effect(x, ids[0], ids[2], vocabularies["perturbation"]["control"])
    from hpvade.nn.cvae import fold_change

    change = fold_change(x, control)
    assert change.shape == (60, 100) and torch.isfinite(change).all() and (change >= 0).all()
    torch.testing.assert_close(control.sum(dim=1), x.sum(dim=1), rtol=1e-4, atol=1e-2)


def test_untrained_models_say_so(cells):
    adata = cells(45)
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    model = hp.ConditionalVAE(adata)
    for call in (
        lambda: model.predict(),
        lambda: model.generate(1, labels="B", perturbation="control"),
        lambda: model.get_counterfactual_expression(),
        lambda: model.perturbation_effects(),
        lambda: model.augment_reference(min_cells=3),
        lambda: model.export_checkpoint("x.pt"),
    ):
        with pytest.raises(RuntimeError, match="train"):
            call()
