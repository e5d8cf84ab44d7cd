"""ResumableTrainRunner: Ctrl-C, errors, checkpoints and the history over several calls."""

import logging
import signal
import warnings

import anndata as ad
import lightning.pytorch as lp
import numpy as np
import pandas as pd
import pytest
import scvi
import torch

from hpvade.train._callbacks import KeepBest, checkpoint_callbacks
from hpvade.train._checkpoint import SealedCheckpoints
from hpvade.train._runner import ResumableTrainRunner, merge_history


class Tiny(scvi.model.SCVI):
    _train_runner_cls = ResumableTrainRunner


@pytest.fixture
def model():
    scvi.settings.seed = 0
    adata = ad.AnnData(np.random.default_rng(0).poisson(2.0, (100, 20)).astype(np.float32))
    Tiny.setup_anndata(adata)
    return Tiny(adata, n_hidden=8, n_latent=2, n_layers=1)


def train(model, max_epochs, callbacks=(), **kwargs):
    defaults = {"batch_size": 32, "check_val_every_n_epoch": 1, "enable_progress_bar": False, "accelerator": "cpu"}
    model.train(max_epochs, callbacks=list(callbacks), **(defaults | kwargs))


class RaiseAt(lp.Callback):
    """Raise at the start of an epoch, counted from 0."""

    def __init__(self, epoch, error):
        self.epoch, self.error = epoch, error

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            raise self.error


class Recorder(lp.Callback):
    """Keep the weights at the start of training and after each epoch's validation."""

    def __init__(self):
        self.start, self.weights, self.epochs = None, [], []

    def on_train_start(self, trainer, pl_module):
        self.start = copy(pl_module.module)
        self.optimizer_steps = [float(s["step"]) for s in trainer.optimizers[0].state.values()]

    def on_validation_end(self, trainer, pl_module):
        self.weights.append(copy(pl_module.module))
        self.epochs.append(trainer.current_epoch)


def copy(module):
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_normal_training_is_quiet_and_complete(model, capfd):
    levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")}
    callbacks, recorder = [], Recorder()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, 2, [recorder])
        model.train(1, accelerator="cpu", enable_progress_bar=False, callbacks=callbacks, early_stopping=True)
    assert callbacks == []  # the caller's list is not changed
    assert capfd.readouterr() == ("", "")
    assert {name: logging.getLogger(name).level for name in levels} == levels
    assert model.is_trained_ and not model.module.training
    assert len(model.train_indices) == 90 and len(model.validation_indices) == 10 and len(model.test_indices) == 0
    assert model.trainer.current_epoch == 1
    assert recorder.epochs == [0, 1]


def test_early_stopping_is_logged_and_not_printed(model, capfd, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("scvi"), "handlers", [])
    monkeypatch.setattr(logging.getLogger("scvi"), "propagate", True)
    options = {"early_stopping_patience": 1, "early_stopping_min_delta": 1e9}  # nothing is better by that much
    with caplog.at_level(logging.INFO, "scvi"):
        train(model, 20, early_stopping=True, **options)
    assert model.trainer.current_epoch < 20
    assert "did not improve in the last" in caplog.text
    assert capfd.readouterr().out == ""  # where `--json` writes its object


@pytest.mark.parametrize("keep_best", [True, False])
def test_ctrl_c_keeps_the_model(model, keep_best, capfd):
    handler = signal.getsignal(signal.SIGINT)
    recorder = Recorder()
    callbacks = [recorder, RaiseAt(2, KeyboardInterrupt()), *([KeepBest()] if keep_best else [])]
    expected = "after 2 epochs; the best weights" if keep_best else "after 2 epochs; the last weights"
    with pytest.warns(UserWarning, match=f"stopped by the user {expected} so far are kept"):
        train(model, 6, callbacks)
    assert "Exception" not in capfd.readouterr().out
    assert model.is_trained_ and not model.module.training
    assert len(model.train_indices) == 90
    assert model.history["train_loss"].index.tolist() == [0, 1]
    scores = model.history["validation_loss"]["validation_loss"]
    wanted = recorder.weights[int(scores.idxmin())] if keep_best else recorder.weights[-1]
    assert equal(copy(model.module), wanted)
    assert signal.getsignal(signal.SIGINT) is handler
    assert np.isfinite(model.get_latent_representation()).all()


def test_ctrl_c_before_the_first_step_is_an_error(model):
    before = copy(model.module)
    with pytest.raises(KeyboardInterrupt):
        train(model, 3, [RaiseAt(0, KeyboardInterrupt())])
    assert equal(copy(model.module), before)
    assert not model.is_trained_


@pytest.mark.parametrize("error", [ValueError("bad batch"), SystemExit(3), RuntimeError("x")], ids=repr)
@pytest.mark.parametrize("trained", [False, True])
def test_other_errors_leave_the_model_as_it_was(model, error, trained, capfd):
    if trained:
        train(model, 2)
    before, history = copy(model.module), model.history_ and {k: v.copy() for k, v in model.history_.items()}
    indices, training = model.train_indices, model.module.training
    with pytest.raises(type(error)) as caught:
        train(model, 4, [RaiseAt(2, error)])
    assert caught.value is error
    assert equal(copy(model.module), before)
    assert model.is_trained_ is trained
    assert model.module.training == training
    assert model.train_indices is indices
    if trained:
        for name, frame in history.items():
            pd.testing.assert_frame_equal(model.history_[name], frame)
    else:
        assert model.history_ is None
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------- history


def test_history_goes_on(model, tmp_path):
    train(model, 4)
    first = model.history_["train_loss"].copy()
    checkpoint = scvi.train.SaveCheckpoint(dirpath=str(tmp_path), monitor="validation_loss")
    train(model, 2, [checkpoint])  # sets is_trained_ to False on the way
    for name in ("train_loss", "validation_loss", "elbo_train"):
        frame = model.history_[name]
        assert list(frame) == [name]
        assert frame.index.tolist() == [0, 1, 2, 3, 4, 5]
        assert frame.index.name == "epoch"
        assert frame[name].dtype == np.float64
    pd.testing.assert_frame_equal(model.history_["train_loss"].iloc[:4], first)


def test_history_without_a_logger_that_keeps_it(model):
    train(model, 1, logger=False)
    assert model.history_ == {}
    train(model, 2)
    assert len(model.history_["train_loss"]) == 2


def frame(name, **values):
    return pd.DataFrame({name: list(values.values())}, index=[int(key[1:]) for key in values], dtype=object)


def test_merge_history():
    earlier = {"a": frame("a", e0=1.0, e1=2.0, e2=3.0), "v": frame("v", e1=5.0)}
    new = {"a": frame("a", e0=7.0, e1=8.0), "w": frame("w", e1=9.0)}
    merged = merge_history(earlier, new)
    assert {name: merged[name][name].to_dict() for name in merged} == {
        "a": {0: 1.0, 1: 2.0, 2: 3.0, 3: 7.0, 4: 8.0},
        "v": {1: 5.0},
        "w": {4: 9.0},
    }
    assert earlier["a"].index.tolist() == [0, 1, 2] and new["a"].index.tolist() == [0, 1]  # not changed
    resumed = merge_history(earlier, {"a": frame("a", e2=7.0, e3=8.0)}, resumed=True)
    assert resumed["a"]["a"].to_dict() == {0: 1.0, 1: 2.0, 2: 7.0, 3: 8.0}
    assert resumed["v"]["v"].to_dict() == {1: 5.0}
    assert merge_history(None, {}) == {}


# ---------------------------------------------------------------- checkpoints


def test_resume_goes_on_from_the_checkpoint(model, tmp_path):
    scvi.settings.seed = 0
    train(model, 3, [*checkpoint_callbacks(tmp_path), KeepBest()])
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    weights = {k.removeprefix("module."): v for k, v in saved["state_dict"].items() if k.startswith("module.")}

    fresh, recorder = Tiny(model.adata, n_hidden=8, n_latent=2), Recorder()
    train(fresh, 6, [recorder, KeepBest(), *checkpoint_callbacks(tmp_path)], ckpt_path=tmp_path / "last.ckpt")
    assert equal(recorder.start, weights)
    assert recorder.epochs == [3, 4, 5]
    steps = int(np.ceil(90 / 32))
    assert saved["global_step"] == 3 * steps
    assert set(recorder.optimizer_steps) == {3.0 * steps}  # Adam's moments are those of the checkpoint
    assert fresh.trainer.current_epoch == 6
    assert fresh.trainer.global_step == 6 * steps
    assert fresh.history["train_loss"].index.tolist() == [3, 4, 5]
    # the loss goes on below where it was, far from a fresh start
    before = model.history["train_loss"]["train_loss"]
    assert fresh.history["train_loss"]["train_loss"].iloc[0] < before.iloc[1] < before.iloc[0]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 5

    callbacks = [KeepBest(), *checkpoint_callbacks(tmp_path)]
    train(model, 6, callbacks, ckpt_path=tmp_path / "last.ckpt")  # nothing is left to do
    assert model.history["train_loss"].index.tolist() == [0, 1, 2]
    train(model, 8, callbacks, ckpt_path=tmp_path / "last.ckpt")
    assert model.history["train_loss"].index.tolist() == [0, 1, 2, 6, 7]


def test_six_epochs_equal_three_and_three(model, tmp_path):
    """With random numbers that depend on the step only, a resumed run is the whole run, bit for bit."""

    class SeedByStep(lp.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            torch.manual_seed(trainer.global_step)

    class InOrder(scvi.dataloaders.DataSplitter):
        def train_dataloader(self):
            return scvi.dataloaders.AnnDataLoader(self.adata_manager, indices=self.train_idx, batch_size=32)

    class Ordered(Tiny):
        _data_splitter_cls = InOrder

    def run(max_epochs, **kwargs):
        callbacks = [SeedByStep(), *checkpoint_callbacks(tmp_path, monitor=None)]
        scvi.settings.seed = 0
        Ordered.setup_anndata(model.adata)
        run_model = Ordered(model.adata, n_hidden=8, n_latent=2)
        plan_kwargs = {"n_epochs_kl_warmup": 5}
        train(run_model, max_epochs, callbacks, log_every_n_steps=1, plan_kwargs=plan_kwargs, **kwargs)
        return run_model

    whole, _ = run(6), run(3)
    resumed = run(6, ckpt_path=tmp_path / "last.ckpt")
    assert equal(copy(resumed.module), copy(whole.module))
    for name, frame in whole.history.items():
        pd.testing.assert_frame_equal(resumed.history[name], frame.iloc[3:])
    assert whole.history["kl_weight"]["kl_weight"].iloc[:5].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_training_again_is_in_train_mode(model):
    class Modes(lp.Callback):
        modes = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.modes.append(all(part.training for part in pl_module.module.modules()))

    train(model, 1)
    train(model, 1, [Modes()])
    assert Modes.modes and all(Modes.modes)
    assert not model.module.training


def test_checkpoint_that_holds_code_is_refused(model, tmp_path):
    class Payload:
        def __reduce__(self):
            import os

            return (os.mkdir, (str(tmp_path / "executed"),))

    before = copy(model.module)
    torch.save({"state_dict": Payload()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt .* no checkpoint of hpvade"):
        train(model, 1, ckpt_path=tmp_path / "last.ckpt")
    SealedCheckpoints().save_checkpoint({"state_dict": Payload()}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt holds no tensors and plain values"):
        train(model, 1, ckpt_path=tmp_path / "last.ckpt")
    assert not (tmp_path / "executed").exists()
    assert equal(copy(model.module), before)
    with pytest.raises(FileNotFoundError, match="not a file"):
        train(model, 1, ckpt_path=tmp_path / "absent.ckpt")
