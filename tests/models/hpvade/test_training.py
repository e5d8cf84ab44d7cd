"""HPVADE.train: streams, options, history, references of every kind."""

import lightning.pytorch as lp
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

import hpvade as hp

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def finite(history):
    return all(np.isfinite(frame.to_numpy(dtype=float)).all() for frame in history.values())


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
