"""Lightning callbacks: keep the best weights, raise the alarm on a constant predictor, write checkpoints."""

import math
from pathlib import Path

import lightning.pytorch as lp

from .._text import warn


class KeepBest(lp.Callback):
    """Keep a copy of the best weights in memory and put them back when training ends.

    Training may end normally, by early stopping or by Ctrl-C. Without validation the last weights stay. The copy is
    part of the checkpoint, so that a resumed run can still return to it.

    Parameters
    ----------
    monitor
        Logged value to minimise, looked at after each validation.

    Attributes
    ----------
    best_score
        Lowest value so far; infinite before the first finite one.
    best_epoch
        Number of the epoch that gave it, from 0.

    Raises
    ------
    RuntimeError
        `monitor` was not logged.

    Examples
    --------
    >>> KeepBest().best_score
    inf
    """

    def __init__(self, monitor: str = "validation_loss"):
        self.monitor = monitor
        self.best_score = math.inf
        self.best_epoch: int | None = None
        self._weights: dict | None = None

    def on_validation_end(self, trainer, pl_module):
        """Copy the weights to the CPU when the value is the lowest so far."""
        if trainer.sanity_checking:
            return
        score = _logged(trainer, self.monitor, self)
        if score < self.best_score:  # False for NaN
            self.best_score, self.best_epoch = score, trainer.current_epoch
            state = _module(pl_module).state_dict()
            self._weights = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def on_train_end(self, trainer, pl_module):
        """Put the best weights back."""
        if self._weights is not None:
            _module(pl_module).load_state_dict(self._weights)

    def on_exception(self, trainer, pl_module, exception):
        """Put the best weights back after Ctrl-C; other errors are not ours."""
        if isinstance(exception, KeyboardInterrupt):
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        return {"best_score": self.best_score, "best_epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a checkpoint."""
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]
        self._weights = state_dict["weights"]


class ConstantPredictorAlarm(lp.Callback):
    """Stop and say why when the network has learned nothing but the mean composition.

    Fires once, when no validation epoch among the first `patience` reached `min_skill`.

    Parameters
    ----------
    metric
        Logged skill on validation mixtures, 1 - RMSE / RMSE of the constant predictor: 0 for a network that predicts
        the mean composition for every sample, 1 for a perfect one.
    min_skill
        Least skill that counts as learning.
    patience
        Validation epochs to wait.

    Raises
    ------
    RuntimeError
        `metric` was not logged.
    """

    def __init__(self, metric: str = "rmse_skill_validation", min_skill: float = 0.05, patience: int = 10):
        self.metric, self.min_skill, self.patience = metric, min_skill, patience
        self._best, self._epochs = -math.inf, 0

    def on_validation_end(self, trainer, pl_module):
        """Compare the skill so far; warn and stop."""
        if trainer.sanity_checking or self._epochs >= self.patience:
            return
        skill = _logged(trainer, self.metric, self)
        self._epochs += 1
        self._best = self._best if math.isnan(skill) else max(self._best, skill)
        if self._epochs == self.patience and self._best < self.min_skill:
            trainer.should_stop = True
            warn(
                f"training stopped after {self._epochs} validation epochs: {self.metric} reached {self._best:.3f}, "
                f"below {self.min_skill}. The proportion network predicts nearly the same composition for every "
                "sample, so its proportions carry no information. Check for cell types with nearly the same "
                "signature (merge them), too few genes (use 1,000 or more), types with very few cells, and the "
                "learning rate (try a third of it, and three times as much)."
            )

    def state_dict(self) -> dict:
        """What a checkpoint keeps."""
        return {"best": self._best, "epochs": self._epochs}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a checkpoint."""
        self._best, self._epochs = state_dict["best"], state_dict["epochs"]


def checkpoint_callbacks(dirpath: str | Path, monitor: str | None = "validation_loss") -> list[lp.Callback]:
    """Make the callbacks that write ``last.ckpt`` after every epoch and ``best.ckpt`` at the lowest `monitor`.

    ``train(..., ckpt_path="<dirpath>/last.ckpt")`` goes on from there: epoch, optimiser, schedulers and callbacks.
    The files hold tensors and plain values only and are read with ``weights_only=True``, which executes nothing; see
    :mod:`hpvade.train._checkpoint` for how they are written and what else they hold.

    Parameters
    ----------
    dirpath
        Folder to write; checkpoints of these names in it are replaced.
    monitor
        Logged value to minimise; None writes ``last.ckpt`` only (for training without validation).

    Examples
    --------
    >>> [callback.filename for callback in checkpoint_callbacks("runs")]
    ['last', 'best']
    """
    options = {"dirpath": str(dirpath), "enable_version_counter": False, "save_on_train_epoch_end": True}
    last = lp.callbacks.ModelCheckpoint(filename="last", **options)
    if monitor is None:
        return [last]
    return [last, lp.callbacks.ModelCheckpoint(filename="best", monitor=monitor, **options)]


def _module(pl_module):
    """Get the model's module: the plan's, or the LightningModule itself."""
    return getattr(pl_module, "module", pl_module)


def _logged(trainer, name: str, callback: lp.Callback) -> float:
    if name not in trainer.callback_metrics:
        raise RuntimeError(
            f"{type(callback).__name__} watches {name!r}, which was not logged; logged were "
            f"{sorted(trainer.callback_metrics)}. Choose one of them."
        )
    return float(trainer.callback_metrics[name])
