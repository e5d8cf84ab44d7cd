"""HPVADE.train: streams, options, stopping, resuming, and what a failure leaves behind."""

import lightning.pytorch as lp
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

import hpvade as hp
from hpvade.models.hpvade._scvi_module import HPVADEModule

KEY = "hpvade_proportions"
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def finite(history):
    return all(np.isfinite(frame.to_numpy(dtype=float)).all() for frame in history.values())


class AtEpoch(lp.Callback):
    """Do something at the start of an epoch, counted from 0."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            self.action(pl_module.module)


def stop(module):
    raise KeyboardInterrupt


# ---------------------------------------------------------------- HP-06, HP-08, HP-22: the training loop


def counts_times_1e5(reference):
    reference.X = reference.X * 1e5


def cpm(reference):
    X = reference.X.toarray()
    reference.X = 1e6 * X / X.sum(axis=1, keepdims=True)


SPARSE = {"simulation_kwargs": {"prior": {"sparse": 1.0}}}


@pytest.mark.filterwarnings("ignore:adata.X holds values that are not integers", "ignore:.*unnormalized count data")
@pytest.mark.parametrize("epochs", [2, pytest.param(20, marks=pytest.mark.slow)], ids=["20 steps", "200 steps"])
@pytest.mark.parametrize(
    ("change", "options"),
    [(counts_times_1e5, {}), (cpm, {}), (None, SPARSE)],
    ids=["counts x 1e5", "CPM", "zero proportions"],
)
def test_hp06_losses_are_finite(planted, fit, epochs, change, options):
    reference, bulk = planted()
    if change is not None:
        change(reference)
    model = fit(reference, epochs, train={"early_stopping": False, **options})
    assert len(model.history["train_loss"]) == epochs
    assert finite(model.history)
    assert np.isfinite(model.deconvolve(bulk, input_type="tpm")).all(axis=None)


def test_hp08_few_dead_units_after_500_steps(trained):
    dead = trained.model.history["dead_units_validation"]["dead_units_validation"]
    assert len(dead) == 50 and trained.model.trainer.global_step == 500
    assert dead.iloc[-1] < 0.2


@pytest.mark.slow
def test_hp08_few_dead_units_pbmc3k(pbmc):
    assert pbmc.history["dead_units_validation"]["dead_units_validation"].iloc[-1] < 0.2


PARTS = ["loss", "prop", "bulk_recon", "rmse", "rmse_skill", "elbo", "reconstruction_loss", "kl_local", "proto"]


@pytest.mark.parametrize("preset", ["trained", "literal"])
def test_history_holds_every_part_of_both_streams(preset, request):
    history = request.getfixturevalue(preset).model.history
    expected = {f"{part}_{mode}" for part in PARTS[1:] for mode in ("train", "validation")}
    expected |= {"train_loss", "validation_loss", "dead_units_validation", "gradient_share_bulk_recon_train"}
    assert expected <= history.keys()
    assert finite(history)
    assert all(list(frame) == [name] for name, frame in history.items())
    shares = [frame for name, frame in history.items() if name.startswith("gradient_share_")]
    np.testing.assert_allclose(sum(frame.to_numpy(dtype=float) for frame in shares), 1, atol=1e-5)


@pytest.fixture(scope="module")
def without_networks(planted, fit):
    """Model of a small reference after no step, its reference and bulk."""
    reference, bulk = planted()
    return fit(reference, 0), reference, bulk


def test_without_a_step_the_model_answers_as_tl_solve_does(without_networks):
    """Both read the same cells; they may differ by what training learns, and here it learned nothing."""
    model, reference, bulk = without_networks
    assert model.is_trained_ and not model.history
    found, solved = bulk.copy(), bulk.copy()
    model.deconvolve(found, fractions="rna")
    hp.tl.solve(
        solved, reference, labels_key="cell_type", sample_key="donor", method="robust", fractions="rna", key_added="by"
    )
    np.testing.assert_allclose(found.obsm[KEY], solved.obsm["by"], atol=1e-5)
    np.testing.assert_allclose(found.obsm[f"{KEY}_nnls"], solved.obsm["by_nnls"], atol=1e-5)


def test_what_needs_no_network_works_without_a_step(without_networks, tmp_path):
    model, _, bulk = without_networks
    model.save(tmp_path / "model")
    for one in (model, hp.HPVADE.load(tmp_path / "model", accelerator="cpu")):
        assert one.get_proportion_intervals(bulk).notna().all(axis=None)
        assert (one.module.interval_scale != 2).any()  # the folds were judged
        assert one.get_detection_limits(bulk)["limit"].notna().any()
        hp.tl.diagnose(bulk, one)
        for options in ({"refine": False}, {"prior": "network"}):
            with pytest.raises(RuntimeError, match=r"needs the networks, which train\(max_epochs=0\) left"):
                one.deconvolve(bulk, **options)
    for method in ("get_latent_representation", "get_elbo", "get_normalized_expression"):
        with pytest.raises(RuntimeError, match=r"needs the networks, which train\(max_epochs=0\) left"):
            getattr(model, method)()


def test_networks_can_be_trained_later(without_networks, planted):
    _, reference, bulk = without_networks
    model = hp.HPVADE(reference)
    model.train(0, **QUIET)
    model.train(1, **QUIET)
    assert model.module.bulk_input.std.ne(1).any()  # it started from the data, as a new model does
    assert model.get_latent_representation().shape == (480, 32)


@pytest.mark.parametrize("n_donors", [2, 4])
def test_the_signature_is_that_of_all_cells_times_what_training_learned(planted, fit, n_donors):
    """Genes that the networks do not see keep their measured column."""
    reference, _ = planted(n_donors=n_donors)
    model = fit(reference, 3, keys={"sample_key": "donor"}, n_genes=100)
    assert len(model.validation_indices) > 0
    X, types, donors = (
        reference.X.toarray().astype(float),
        *(reference.obs[c].to_numpy() for c in ("cell_type", "donor")),
    )
    expected = donor_average(X, types, donors, model.cell_types)
    unseen = np.setdiff1d(np.arange(reference.n_vars), model.module.gene_index)
    found = model.get_signature_matrix().to_numpy()
    np.testing.assert_allclose(found[unseen], expected[unseen], rtol=1e-5)
    change = found[model.module.gene_index] / np.maximum(expected[model.module.gene_index], 1e-30)
    seen = expected[model.module.gene_index] > 0
    np.testing.assert_allclose(change[seen], np.exp(0.1 * model.module.log_change.detach())[seen], rtol=1e-4)
    assert not np.allclose(change[seen], 1, atol=1e-5)


def donor_average(X, types, donors, names):
    """Relative profiles, shrunk to the pooled one by 50 cells, averaged over donors, times the counts per cell."""
    columns, sizes, size_by_donor, cells = [], [], [], []
    for name in names:
        pooled = X[types == name].sum(axis=0)
        cells.append((types == name).sum())
        sizes.append(pooled.sum() / cells[-1])
        profiles, own_sizes = [], []
        for donor in np.unique(donors):
            own = X[(types == name) & (donors == donor)]
            weight = len(own) / (len(own) + 50)
            profiles.append(weight * own.sum(axis=0) / own.sum() + (1 - weight) * pooled / pooled.sum())
            own_sizes.append(own.sum() / len(own))
        columns.append(np.mean(profiles, axis=0))
        size_by_donor.append(own_sizes)
    # every type in every donor, and all cells pooled as one more: least squares is the mean over them
    logs = np.log(np.column_stack([size_by_donor, sizes]))
    relative = np.exp((logs - logs.mean(axis=0)).mean(axis=1))
    relative *= np.dot(cells, sizes) / np.dot(cells, relative)
    return np.stack(columns, axis=1) * relative


@pytest.mark.parametrize(("n_cells", "epochs", "steps"), [(480, 10, 10), (8000, 10, 10)])
def test_the_default_budget_does_not_grow_with_cells(planted, fit, n_cells, epochs, steps, monkeypatch):
    from hpvade.models.hpvade import _training

    seen = []

    class Count(lp.Callback):
        def on_train_batch_end(self, *args):
            seen.append(1)

    class Stop(lp.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = True

    model = fit(planted(n_cells=n_cells, n_genes=60)[0], None, train={"callbacks": [Count(), Stop()], "min_epochs": 1})
    assert len(seen) == steps and model.trainer.max_epochs == epochs
    assert steps * epochs == _training._STEPS


def test_losses_fall_and_skill_rises(trained):
    for name in ("train_loss", "validation_loss", "prop_validation"):
        values = trained.model.history[name][name]
        assert values.iloc[-5:].mean() < values.iloc[:5].mean()
    assert trained.model.history["rmse_skill_validation"]["rmse_skill_validation"].iloc[-5:].mean() > 0.5


def test_hp22_tensorboard_receives_every_key(planted, fit, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(tmp_path, name="run")
    model = fit(planted()[0], 2, train={"logger": logger, "log_every_n_steps": 1})
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    keys = set(events.Tags()["scalars"])
    reference = fit(planted()[0], 1).history.keys()  # scvi's own logger
    assert set(reference) <= keys
    assert model.is_trained_


AFTER_TRAINING = {
    "gene_score",
    "mean_counts",
    "composition",
    "size_ratio",
    "interval_scale",
    "size_sd",
    "network_trained",
}


def during_training(weights):
    """Names and values without those that come from all cells after training."""
    return [(name, value) for name, value in weights.items() if name not in AFTER_TRAINING]


def test_hp22_early_stopping_and_best_weights_on_the_validation_loss(planted, fit, weights):
    """Weights are those of the lowest validation loss, although later epochs follow."""
    kept, losses = [], []

    class Recorder(lp.Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                losses.append(float(trainer.callback_metrics["validation_loss"]))
                kept.append({k: v.detach().clone() for k, v in pl_module.module.state_dict().items()})

    train = {"callbacks": [Recorder()], "early_stopping_patience": 2, "plan_kwargs": {"lr": 0.3}}
    model = fit(planted()[0], 40, train=train)
    best = int(np.argmin(losses))
    assert best < len(losses) - 1 < 39, "the rate is meant to be too large to improve for long"
    assert len(losses) == best + 3  # patience 2
    assert model.history["validation_loss"]["validation_loss"].tolist() == pytest.approx(losses)
    assert all(torch.equal(value, kept[best][name]) for name, value in during_training(weights(model)))


def test_hp22_best_checkpoint_is_that_of_the_lowest_loss(planted, fit, weights, tmp_path):
    model = fit(planted()[0], 5, train={"checkpoint_dir": tmp_path, "plan_kwargs": {"lr": 0.05}})
    losses = model.history["validation_loss"]["validation_loss"]
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert state["epoch"] == losses.astype(float).idxmin()
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 4
    saved = {k.removeprefix("module."): v for k, v in state["state_dict"].items() if k.startswith("module.")}
    assert all(torch.equal(value, saved[name]) for name, value in during_training(weights(model)))


# ---------------------------------------------------------------- HP-14: losses that are not finite


def break_theta(module):
    module.log_theta.data.fill_(torch.nan)


def break_network(module):
    module.bulk_logits.weight.data.fill_(torch.nan)


@pytest.mark.parametrize(
    ("action", "term"), [(break_theta, "cells"), (break_network, "prop")], ids=["cell stream", "bulk stream"]
)
def test_hp14_non_finite_loss_raises_and_leaves_the_model(planted, fit, weights, tmp_path, action, term):
    reference, bulk = planted()
    model = fit(reference, 1)
    before, expected = weights(model), model.deconvolve(bulk)
    history = {name: frame.copy() for name, frame in model.history.items()}
    with pytest.raises((RuntimeError, ValueError), match=f"Loss term '{term}' is not finite at step 20"):
        model.train(5, callbacks=[AtEpoch(2, action)], checkpoint_dir=tmp_path, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert model.is_trained_ and not model.module.training
    assert model.history.keys() == history.keys() and len(model.history["train_loss"]) == 1
    pd.testing.assert_frame_equal(model.deconvolve(bulk), expected)
    for path in tmp_path.glob("*.ckpt"):  # the last good one stays
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(value.isfinite().all()) for value in state.values())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


def test_hp14_first_training_that_fails_leaves_the_model_untrained(planted, monkeypatch):
    reference, bulk = planted()
    hp.HPVADE.setup_anndata(reference, "cell_type")
    model = hp.HPVADE(reference)
    losses = HPVADEModule.bulk_losses
    monkeypatch.setattr(HPVADEModule, "bulk_losses", lambda self, batch: (losses(self, batch)[0] * torch.inf, {}))
    with pytest.raises(RuntimeError, match="Loss term 'total' is not finite at step 0"):
        model.train(2, **QUIET)
    assert not model.is_trained_
    assert all(bool(value.isfinite().all()) for value in model.module.state_dict().values())
    assert "hpvade_signatures" not in reference.varm


# ---------------------------------------------------------------- Ctrl-C, resuming, going on


def test_ctrl_c_keeps_the_model(planted, fit):
    reference, bulk = planted()
    with pytest.warns(UserWarning, match="stopped by the user after 2 epochs; the best weights so far are kept"):
        model = fit(reference, 10, train={"callbacks": [AtEpoch(2, stop)]})
    assert model.is_trained_ and len(model.history["train_loss"]) == 2
    assert np.isfinite(model.deconvolve(bulk)).all(axis=None)
    pd.testing.assert_frame_equal(reference.varm["hpvade_signatures"], model.get_signature_matrix())


def test_resume_from_a_checkpoint(planted, fit, tmp_path):
    """A new model goes on after the last epoch, with the split and the weights of the checkpoint."""
    first = fit(planted()[0], 3, train={"checkpoint_dir": tmp_path})
    reference, bulk = planted()
    hp.HPVADE.setup_anndata(reference, "cell_type", batch_key="batch", sample_key="donor")
    model = hp.HPVADE(reference)
    start = {}
    callback = AtEpoch(3, lambda module: start.update({k: v.clone() for k, v in module.state_dict().items()}))
    model.train(5, ckpt_path=str(tmp_path / "last.ckpt"), checkpoint_dir=tmp_path, callbacks=[callback], **QUIET)
    for part in ("train_indices", "validation_indices", "test_indices"):
        np.testing.assert_array_equal(getattr(model, part), getattr(first, part))
    assert model.history["train_loss"].index.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(start["gene_index"], first.module.gene_index)
    assert torch.equal(start["log_S_ref"], first.module.log_S_ref)
    torch.testing.assert_close(model.module.mean_counts, first.module.mean_counts)  # of all cells, at the end
    assert model.trainer.global_step == 50
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 4
    assert np.isfinite(model.deconvolve(bulk)).all(axis=None)


def test_checkpoints_that_do_not_fit_are_refused(planted, fit, tmp_path):
    model = fit(planted()[0], 1, train={"checkpoint_dir": tmp_path})
    with pytest.raises(FileNotFoundError, match="not a file"):
        model.train(2, ckpt_path=str(tmp_path / "absent.ckpt"), **QUIET)
    other, _ = planted(n_cells=400)
    hp.HPVADE.setup_anndata(other, "cell_type", batch_key="batch", sample_key="donor")
    with pytest.raises(ValueError, match="480 cells, this reference has 400"):
        hp.HPVADE(other).train(2, ckpt_path=str(tmp_path / "last.ckpt"), **QUIET)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"foreign\.ckpt .* no checkpoint of hpvade"):
        model.train(2, ckpt_path=str(tmp_path / "foreign.ckpt"), **QUIET)


def test_second_training_goes_on(planted, fit, weights):
    """Same split, history appended, weights moved on from where they were."""
    model = fit(planted()[0], 2)
    before, split = weights(model), model.train_indices.copy()
    start = {}
    callback = AtEpoch(0, lambda module: start.update({k: v.clone() for k, v in module.state_dict().items()}))
    model.train(3, callbacks=[callback], **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in start.items())
    assert not torch.equal(model.module.log_change, before["log_change"])
    np.testing.assert_array_equal(model.train_indices, split)
    assert model.history["train_loss"].index.tolist() == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- references of every kind


@pytest.mark.parametrize("keys", [{}, {"batch_key": "batch"}, {"sample_key": "donor"}], ids=str)
def test_with_and_without_batches_and_donors(planted, fit, keys):
    reference, bulk = planted()
    model = fit(reference, 2, keys=keys)
    assert model.module.n_batch == (2 if "batch_key" in keys else 1)
    assert model.summary_stats["n_sample"] == {"sample_key": 4, "batch_key": 2}.get(next(iter(keys), None), 1)
    assert np.isfinite(model.deconvolve(bulk)).all(axis=None)


def test_hp13_donors_are_held_out_whole(trained):
    """With three donors or more no donor is on both sides; a donor is chosen anew by each seed."""
    model, donors = trained.model, trained.reference.obs["donor"].to_numpy()
    held_out = set(donors[model.validation_indices])
    assert held_out and not held_out & set(donors[model.train_indices])
    assert sorted([*model.train_indices, *model.validation_indices, *model.test_indices]) == list(range(480))


def test_hp13_cells_are_held_out_with_one_donor(planted, fit):
    """Ten per cent of each type, none of them in training."""
    model = fit(planted()[0], 1, keys={})
    types = model.adata.obs["cell_type"].to_numpy()
    assert not np.intersect1d(model.train_indices, model.validation_indices).size
    assert np.unique(types[model.validation_indices], return_counts=True)[1].tolist() == [12, 12, 12, 12]


def test_one_epoch_without_validation(planted, fit):
    reference, bulk = planted()
    model = fit(reference, 1, train={"train_size": 1.0, "early_stopping": False})
    assert len(model.train_indices) == 480 and len(model.validation_indices) == 0
    assert "validation_loss" not in model.history and len(model.history["train_loss"]) == 1
    assert np.isfinite(model.deconvolve(bulk)).all(axis=None)


def test_default_number_of_epochs_is_about_100_steps(planted):
    reference, _ = planted()
    hp.HPVADE.setup_anndata(reference, "cell_type")
    model = hp.HPVADE(reference)
    seen = []

    class Look(lp.Callback):
        def on_train_start(self, trainer, pl_module):
            seen.append((trainer.max_epochs, trainer.num_training_batches))
            trainer.should_stop = True

    model.train(callbacks=[Look()], min_epochs=0, **QUIET)
    epochs, steps = seen[0]
    assert epochs * steps == 100 and epochs >= 10


def test_constant_predictor_alarm(planted, fit):
    """A network without a bulk loss never beats the mean composition: training stops and says so."""
    with pytest.warns(UserWarning, match="predicts nearly the same composition"):
        model = fit(planted()[0], 30, lambda_bulk=0.0)
    assert len(model.history["train_loss"]) == 10
    assert model.is_trained_


def test_simulation_options_reach_the_stream(planted, fit):
    """Mixtures of one cell: labels are zeros and ones, and the skill of the network is that of classifying cells."""
    seen = []

    class Look(lp.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append(batch["bulk"])

    train = {"callbacks": [Look()], "simulation_kwargs": {"n_cells": 1, "noise": None}}
    fit(planted()[0], 1, train=train)
    labels = torch.cat([batch["proportions"] for batch in seen])
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(seen[0]["bulk"], seen[1]["bulk"])
