"""The AnnData face: setup, training, splits, saving, and rows CV-02, CV-09, CV-10, CV-18, CV-19."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

import hpvade as hp
from hpvade.nn.cvae import VAEConfig

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_history_has_the_documented_parts(trained):
    parts = {"reconstruction_loss", "kl_local", "classifier_loss", "classifier_accuracy"}
    names = {f"{part}_{mode}" for part in parts for mode in ("train", "validation")}
    assert names | {"train_loss", "validation_loss"} <= trained.model.history.keys()
    losses = trained.model.history["validation_loss"].iloc[:, 0].astype(float)
    assert losses.iloc[-1] < losses.iloc[0] - 20
    assert (trained.model.history["kl_local_train"].iloc[:, 0].astype(float) >= 0).all()


def test_config_gives_sizes_and_arguments_replace_them(cells):
    adata = cells(90)
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    config = VAEConfig(latent_dim=5, hidden_dims=[20], kld_weight=0.5, batch_size=32, learning_rate=1e-2)
    found = hp.ConditionalVAE(adata, config=config, hidden_dims=(12, 6)).module.net.config
    assert (found.latent_dim, found.hidden_dims, found.kld_weight) == (5, [12, 6], 0.5)
    assert (found.input_dim, found.n_cell_types, found.n_perturbations, found.n_experiments) == (100, 4, 4, 2)
    assert (found.batch_size, found.learning_rate) == (32, 1e-2)
    assert (found.likelihood, found.encoder_conditioning, found.normalization) == ("nb", "experiment", "layer")


def test_defaults_are_those_of_the_specification(cells):
    adata = cells(90)
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    config, literal = hp.ConditionalVAE(adata).module.net.config, VAEConfig()
    for name in ("latent_dim", "hidden_dims", "cell_type_embed_dim", "perturbation_embed_dim", "experiment_embed_dim"):
        assert getattr(config, name) == getattr(literal, name)
    assert (config.kld_weight, config.reconstruction_weight, config.learning_rate, config.batch_size) == (
        literal.kld_weight, literal.reconstruction_weight, literal.learning_rate, literal.batch_size,
    )  # fmt: skip


# ---------------------------------------------------------------- CV-09


def test_cv_09_one_cell_batch_and_scheduler(cells, fit):
    adata = cells(91)
    model = fit(
        adata, 30, train={"batch_size": 10, "train_size": 0.9, "learning_rate": 0.05}
    )  # batches of one cell occur
    rates = model.history["lr-Adam"].iloc[:, 0].astype(float) if "lr-Adam" in model.history else pd.Series([0.05])
    assert rates.min() <= rates.max() <= 0.05
    scheduler = model.trainer.lr_scheduler_configs[0].scheduler
    assert isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert (scheduler.factor, scheduler.patience) == (0.5, 10)
    one = adata[:1].copy()
    assert model.get_counterfactual_expression(one, perturbation="drug_a").shape == (1, 100)
    model.module.train()
    assert model.generate(1, labels="B", perturbation="control", seed=0).n_obs == 1
    assert model.module.net.training


def test_cv_09_save_and_load_are_identical(trained, saved):
    for adata in (False, trained.adata):
        loaded = hp.ConditionalVAE.load(saved, adata=adata)
        assert (loaded.cell_types, loaded.perturbations) == (trained.model.cell_types, trained.model.perturbations)
        assert loaded.is_trained and loaded.history.keys() == trained.model.history.keys()
        one = loaded.generate(20, labels="T", perturbation="drug_a", seed=3).X.toarray()
        np.testing.assert_array_equal(
            one, trained.model.generate(20, labels="T", perturbation="drug_a", seed=3).X.toarray()
        )
        pd.testing.assert_frame_equal(
            loaded.predict(trained.adata, soft=True), trained.model.predict(trained.adata, soft=True)
        )


def test_cv_09_load_trained_model_returns_the_triple(trained, tmp_path):
    trained.model.export_checkpoint(tmp_path / "m.pt")
    net, config, vocabularies = hp.ConditionalVAE.load_trained_model(tmp_path / "m.pt")
    assert not net.training and config == trained.model.module.net.config
    assert vocabularies["cell_type"] == {"B": 0, "Mono": 1, "T": 2, "<UNK>": 3}
    assert vocabularies["perturbation"] == {"control": 0, "drug_a": 1, "drug_b": 2, "<UNK>": 3}
    assert vocabularies["srx_accession"] == {"exp_0": 0, "exp_1": 1, "<UNK>": 2}


# ---------------------------------------------------------------- CV-10


@pytest.mark.parametrize("split_by", ["experiment", "perturbation", "batch"])
def test_cv_10_groups_are_held_out_whole(cells, fit, split_by):
    adata = cells(180)
    adata.obs["batch"] = np.arange(180) // 30
    model = fit(adata, 1, train={"split_by": split_by, "train_size": 0.7})
    groups = adata.obs[split_by].astype(str).to_numpy()
    train, validation = model.train_indices, model.validation_indices
    assert len(validation) and not set(groups[train]) & set(groups[validation])
    assert not set(train) & set(validation) and len(train) + len(validation) == 180
    if split_by == "perturbation":
        assert "control" not in groups[validation]


def test_cv_10_unknown_or_too_few_groups(cells, fit):
    with pytest.raises(KeyError, match="split_by='donor'"):
        fit(cells(90), 1, train={"split_by": "donor"})
    with pytest.raises(KeyError, match="experiment_key"):
        fit(cells(90), 1, setup={"experiment_key": None}, train={"split_by": "experiment"})
    adata = cells(90)
    adata.obs["one"] = "same"
    with pytest.raises(ValueError, match="too few"):
        fit(adata, 1, train={"split_by": "one"})


# ---------------------------------------------------------------- CV-18


def test_cv_18_same_seed_same_weights(cells, fit):
    adata = cells(180)
    first, second, other = (fit(adata, 2, seed).module.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_cv_18_same_seed_with_two_threads(cells, fit):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, second = (fit(cells(180), 2).module.state_dict() for _ in range(2))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_cv_18_generated_cells_train_and_are_never_held_out(trained, fit):
    fuller = trained.model.augment_reference(min_cells=300, seed=0)
    generated = np.flatnonzero(fuller.obs["hpvade_generated"].to_numpy(dtype=bool))
    assert len(generated) == 180
    for split_by in (None, "experiment"):
        model = fit(fuller.copy(), 1, train={"split_by": split_by, "train_size": 0.6})
        assert set(generated) <= set(model.train_indices)
        assert len(model.validation_indices) and not set(generated) & set(model.validation_indices)


@pytest.mark.gpu
def test_cv_18_cpu_and_gpu_agree(trained, saved):
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    loaded = hp.ConditionalVAE.load(saved, trained.adata, accelerator="gpu")
    np.testing.assert_allclose(
        loaded.get_counterfactual_expression(perturbation="control"),
        trained.model.get_counterfactual_expression(perturbation="control"), atol=1e-4,
    )  # fmt: skip


# ---------------------------------------------------------------- CV-19


def test_cv_19_cells_without_label_train_and_are_predicted(cells, fit):
    adata = cells()
    truth = adata.obs["cell_type"].astype(str).to_numpy()
    hidden = np.random.default_rng(0).random(adata.n_obs) < 0.5
    adata.obs["cell_type"] = pd.Categorical(np.where(hidden, "Unknown", truth))
    model = fit(adata, 40, setup={"unlabeled_category": "Unknown"})
    assert model.cell_types == ["B", "Mono", "T"]
    found = model.predict()
    assert set(found.cat.categories) == {"B", "Mono", "T"}
    assert (found.astype(str).to_numpy() == truth)[hidden].mean() > 0.9
    assert model.get_counterfactual_expression(indices=np.flatnonzero(hidden)[:5]).shape == (5, 100)
    with pytest.raises(ValueError, match="'Unknwon'.*known are 'B', 'Mono', 'T'"):
        model.generate(1, labels="Unknwon", perturbation="control")


# ---------------------------------------------------------------- section 7


def test_cv_21_without_control_all_but_effects_works(cells, fit):
    adata = cells(180)
    with pytest.warns(UserWarning, match="'perturbation'.*no control cells.*'DMSO'"):
        model = fit(adata, 1, setup={"control_category": "DMSO"})
    with pytest.raises(ValueError, match="'perturbation'.*'DMSO'"):
        model.perturbation_effects()
    assert model.generate(2, labels="B", perturbation="drug_a", seed=0).n_obs == 2
    assert len(model.perturbation_effects(control="control"))


def test_cv_21_non_finite_loss_keeps_the_weights(cells, fit, monkeypatch, weights):
    model = fit(cells(90), 1)
    before = weights(model)
    monkeypatch.setattr(model.module.net, "reconstruction_error", lambda x, y: y.sum(dim=-1) * torch.nan)
    with pytest.raises(RuntimeError, match="not finite"):
        model.train(1, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert model.module.net.prior is not None


def test_cv_21_out_of_memory_says_what_to_do(cells, fit, monkeypatch):
    model = fit(cells(90), 1)

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(model.module.net, "encode", fail)
    with pytest.raises(torch.OutOfMemoryError, match=r"out of memory.*batch_size=32"):
        model.train(1, batch_size=64, **QUIET)


def test_bad_training_options(cells, fit):
    adata = cells(90)
    for options, error, said in (
        ({"n_epoch": 3}, TypeError, "n_epoch"),
        ({"plan_kwargs": {"learning": 1}}, TypeError, "learning"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"train_size": 1.0}, ValueError, "early_stopping"),
    ):
        with pytest.raises(error, match=said):
            fit(adata, 1, train=options)
    model = fit(adata, 1, train={"train_size": 1.0, "early_stopping": False})
    assert model._best()[0] == 1


def test_early_stopping_keeps_the_best_weights(cells, fit):
    model = fit(cells(180), 60, train={"early_stopping_patience": 3, "learning_rate": 0.02})
    losses = model.history["validation_loss"].iloc[:, 0].astype(float)
    assert len(losses) < 60 and model._best() == (int(losses.idxmin()) + 1, losses.min())


def test_checkpoints_resume(cells, fit, tmp_path):
    adata = cells(90)
    first = fit(adata, 2, train={"checkpoint_dir": str(tmp_path)})
    model = hp.ConditionalVAE(adata, n_latent=8, hidden_dims=(48, 32))
    model.train(3, batch_size=64, ckpt_path=str(tmp_path / "last.ckpt"), **QUIET)
    assert len(model.history["train_loss"]) == 3
    np.testing.assert_array_equal(model.train_indices, first.train_indices)


def test_size_factors_scale_the_library(cells, fit):
    adata = cells(180)
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.obs["sf"] = totals / 500
    model, plain = fit(adata.copy(), 2, setup={"size_factor_key": "sf"}), fit(adata.copy(), 2)
    train = model.train_indices
    scale = totals[train].sum() / adata.obs["sf"].to_numpy()[train].sum()
    assert float(model.module.size_factor_scale) == pytest.approx(scale, rel=1e-5)
    # size factors in proportion to the totals are the totals
    np.testing.assert_allclose(model.get_elbo(), plain.get_elbo(), rtol=2e-2)
    latent = model.get_counterfactual_expression(library_size="latent")
    np.testing.assert_allclose(latent.sum(axis=1), adata.obs["sf"] * scale, rtol=1e-4)


def test_backed_cells_train_and_are_read_in_order(cells, fit, tmp_path):
    adata = cells(180)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    model = fit(backed, 2)
    some = [7, 3, 90]
    table = model.get_counterfactual_expression(indices=some)
    whole = model.get_counterfactual_expression()
    pd.testing.assert_frame_equal(table, whole.iloc[some], rtol=1e-4)
    assert table.index.tolist() == ["cell_7", "cell_3", "cell_90"]


@pytest.mark.parametrize(
    "options", [{"likelihood": "mse"}, {"encoder_conditioning": "all"}, {"classifier_weight": 0.0}]
)
def test_options_change_the_model_and_everything_answers(cells, fit, tmp_path, options):
    adata = cells(180)
    model = fit(adata, 2, **options)
    assert np.isfinite(model.get_latent_representation()).all()
    counts = model.generate(5, labels=["B", "T"], perturbation="drug_a", seed=0).X.toarray()
    assert (counts >= 0).all() and (counts == np.rint(counts)).all()
    np.testing.assert_allclose(model.get_counterfactual_expression(perturbation="control").sum(axis=1), 1, rtol=1e-4)
    assert model.predict(soft=True, n_samples=2, method="elbo").sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-4)
    assert len(model.perturbation_effects()) == 600
    model.save(tmp_path / "m")
    loaded = hp.ConditionalVAE.load(tmp_path / "m", adata=False)
    assert loaded.module.net.config == model.module.net.config
    if options.get("classifier_weight") == 0:
        assert (model.predict() == model.predict(method="elbo")).all()
        with pytest.raises(ValueError, match="no classifier"):
            model.predict(method="classifier")


def test_unknown_options_are_refused(cells):
    adata = cells(45)
    hp.ConditionalVAE.setup_anndata(adata, "cell_type", perturbation_key="perturbation")
    for options, said in (
        ({"likelihood": "zinb"}, "likelihood='zinb'"),
        ({"encoder_conditioning": "perturbation"}, "encoder_conditioning"),
        ({"n_latent": 0}, "latent_dim=0"),
        ({"hidden_dims": ()}, "hidden_dims"),
        ({"mmd_weight": -1.0}, "mmd_weight"),
    ):
        with pytest.raises(ValueError, match=said):
            hp.ConditionalVAE(adata, **options)


def test_sparse_arrays_are_read(cells, fit):
    from scipy import sparse

    adata = cells(90)
    adata.X = sparse.csr_array(adata.X)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert fit(adata, 1).get_latent_representation().shape == (90, 8)
    assert scvi.settings.seed == 0
