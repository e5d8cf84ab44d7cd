"""HPVADE.train that ends early, fails or goes on: best weights, losses that are not finite, Ctrl-C, checkpoints."""

import lightning.pytorch as lp
import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp
from hpvade.models.hpvade._scvi_module import HPVADEModule

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


class AtEpoch(lp.Callback):
    """Do something at the start of an epoch, counted from 0."""

    def __init__(self, epoch, action):
        self.epoch, self.action = epoch, action

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            self.action(pl_module.module)


def stop(module):
    raise KeyboardInterrupt


AFTER_TRAINING = {
    "gene_score",
    "mean_counts",
    "composition",
    "size_ratio",
    "interval_scale",
    "size_sd",
    "recovery",
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
