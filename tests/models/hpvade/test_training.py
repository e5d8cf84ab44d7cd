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


def during_training(weights):
    """Names and values without the uncertainty, which is found after training."""
    return [(name, value) for name, value in weights.items() if name not in ("interval_scale", "size_sd")]


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
    assert model.history["train_loss"].index.tolist() == [3, 4]
    assert torch.equal(start["mean_counts"], first.module.mean_counts)
    assert model.trainer.global_step == 50
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 4
    assert np.isfinite(model.deconvolve(bulk)).all(axis=None)


def test_checkpoints_that_do_not_fit_are_refused(planted, fit, tmp_path):
    model = fit(planted()[0], 1, train={"checkpoint_dir": tmp_path})
    with pytest.raises(FileNotFoundError, match="not a file"):
        model.train(2, ckpt_path=str(tmp_path / "absent.ckpt"), **QUIET)
    other, _ = planted(n_cells=400)
    hp.HPVADE.setup_anndata(other, "cell_type", batch_key="batch", sample_key="donor")
    with pytest.raises(ValueError, match="was made with 480 cells, this reference has 400"):
        hp.HPVADE(other).train(2, ckpt_path=str(tmp_path / "last.ckpt"), **QUIET)
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="holds no split of cells"):
        model.train(2, ckpt_path=str(tmp_path / "foreign.ckpt"), **QUIET)


def test_second_training_goes_on(planted, fit, weights):
    """Same split, history appended, weights moved on from where they were."""
    model = fit(planted()[0], 2)
    before, split = weights(model), model.train_indices.copy()
    start = {}
    callback = AtEpoch(0, lambda module: start.update({k: v.clone() for k, v in module.state_dict().items()}))
    model.train(3, callbacks=[callback], **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in start.items())
    assert not torch.equal(model.module.log_S, before["log_S"])
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


def test_default_number_of_epochs_is_about_400_steps(planted):
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
    assert epochs * steps == 400 and epochs >= 10


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
