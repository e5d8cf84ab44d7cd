"""KeepBest, ConstantPredictorAlarm and checkpoints, with a bare Lightning module whose metrics are written down."""

import warnings

import lightning.pytorch as lp
import pytest
import torch

from hpvade.train._callbacks import ConstantPredictorAlarm, KeepBest, checkpoint_callbacks


class Scripted(lp.LightningModule):
    """The weight after epoch e is e + 1; the validation metric of epoch e is values[e]."""

    def __init__(self, values, name="validation_loss"):
        super().__init__()
        self.values, self.name = values, name
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.log(self.name, torch.tensor(float(self.values[self.current_epoch])))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(module, callbacks, max_epochs=None, validate=True, **kwargs):
    trainer = lp.Trainer(
        max_epochs=len(module.values) if max_epochs is None else max_epochs,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, lp.callbacks.Checkpoint) for c in callbacks),
        accelerator="cpu",
        num_sanity_val_steps=0 if kwargs else 2,
    )
    loader = torch.utils.data.DataLoader(torch.zeros(1, 1))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(many workers|logging interval|is not empty|no `val_dataloader`)")
        trainer.fit(module, loader, loader if validate else None, **kwargs)
    return trainer


@pytest.mark.parametrize(
    ("values", "best"),
    [([3, 1, 2], 1), ([3, 2, 1], 2), ([1, 1, 1], 0), ([float("nan"), 5, float("nan")], 1), ([float("inf"), 4, 9], 1)],
)
def test_keep_best_restores_the_epoch_of_the_lowest_value(values, best):
    module, keep = Scripted(values), KeepBest()
    fit(module, [keep])
    assert module.weight.item() == best + 1
    assert keep.best_epoch == best
    assert keep.best_score == values[best]


def test_keep_best_without_validation_or_finite_value_keeps_the_last_weights():
    module = Scripted([1, 2, 3])
    fit(module, [KeepBest()], validate=False)
    assert module.weight.item() == 3
    module = Scripted([float("nan")] * 2)
    fit(module, [KeepBest()])
    assert module.weight.item() == 2


def test_keep_best_after_early_stopping_and_ctrl_c():
    module = Scripted([3, 1, 2, 2, 0])
    fit(module, [KeepBest(), lp.callbacks.EarlyStopping("validation_loss", patience=2)])
    assert module.weight.item() == 2

    class Interrupt(lp.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 3:
                raise KeyboardInterrupt

    module = Scripted([3, 1, 2, 2, 0])
    with pytest.raises(SystemExit):
        fit(module, [KeepBest(), Interrupt()])
    assert module.weight.item() == 2


def test_keep_best_copy_is_not_shared_with_the_module():
    module, keep = Scripted([1, 2]), KeepBest()
    fit(module, [keep])
    with torch.no_grad():
        module.weight.fill_(99.0)
    assert keep.state_dict()["weights"]["weight"].item() == 1.0


def test_keep_best_names_what_was_logged():
    with pytest.raises(RuntimeError, match=r"'elbo', which was not logged; logged were \['validation_loss'\]"):
        fit(Scripted([1]), [KeepBest("elbo")])


def test_keep_best_survives_checkpoint_and_resume(tmp_path):
    fit(Scripted([3, 1, 2]), [KeepBest(), *checkpoint_callbacks(tmp_path)])
    module, keep = Scripted([None, None, None, 5, 4]), KeepBest()
    fit(module, [keep, *checkpoint_callbacks(tmp_path)], ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert (keep.best_epoch, keep.best_score) == (1, 1.0)
    assert module.weight.item() == 2  # of epoch 1, before the checkpoint


def test_checkpoints_last_is_every_epoch_and_best_the_lowest(tmp_path):
    fit(Scripted([3, 1, 2, 4]), [KeepBest(), *checkpoint_callbacks(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]
    last, best = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    assert (last["epoch"], last["state_dict"]["weight"].item()) == (3, 4.0)  # the last, not what KeepBest restored
    assert (best["epoch"], best["state_dict"]["weight"].item()) == (1, 2.0)


def test_last_checkpoint_after_an_error_is_of_the_last_whole_epoch(tmp_path):
    class Fail(lp.Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 2:
                raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fit(Scripted([3, 4, 5]), [Fail(), *checkpoint_callbacks(tmp_path, monitor=None)])
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["epoch"] == 1


SKILL = "rmse_skill_validation"


@pytest.mark.parametrize(
    ("values", "stops_after"),
    [
        ([0.0] * 6, 3),
        ([-1.0, float("nan"), 0.049, 0.9, 0.9, 0.9], 3),
        ([float("nan")] * 6, 3),
        ([0.0, 0.05, 0.0, 0.0, 0.0, 0.0], None),  # learned something once
        ([0.0, 0.0, 0.3, -1.0, -1.0, -1.0], None),
    ],
)
def test_alarm_stops_exactly_when_nothing_was_learned(values, stops_after):
    module, alarm = Scripted(values, SKILL), ConstantPredictorAlarm(patience=3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(module, [alarm])
    messages = [str(w.message) for w in caught if "nearly the same composition" in str(w.message)]
    assert trainer.current_epoch == (stops_after or len(values))
    assert len(messages) == (stops_after is not None)
    if messages:
        for word in ("3 validation epochs", "signature", "genes", "few cells", "learning rate"):
            assert word in messages[0]


def test_alarm_survives_checkpoint_and_resume(tmp_path):
    fit(Scripted([0.0, 0.0], SKILL), [ConstantPredictorAlarm(patience=3), *checkpoint_callbacks(tmp_path, None)])
    callbacks = [ConstantPredictorAlarm(patience=3), *checkpoint_callbacks(tmp_path, None)]
    module = Scripted([None, None, 0.0, 0.0, 0.0], SKILL)
    with pytest.warns(UserWarning, match="after 3 validation epochs"):
        trainer = fit(module, callbacks, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.current_epoch == 3


def test_alarm_names_what_was_logged():
    with pytest.raises(RuntimeError, match="ConstantPredictorAlarm watches 'rmse_skill_validation'"):
        fit(Scripted([1]), [ConstantPredictorAlarm()])
