"""The training loop's frame: Ctrl-C keeps the model, an error leaves it as it was, history goes on."""

import contextlib
import logging
import math
import warnings
from functools import partial
from pathlib import Path

import lightning.pytorch as lp
import pandas as pd
from lightning.pytorch.plugins.io import CheckpointIO
from scvi.train import LoudEarlyStopping, SaveCheckpoint, TrainRunner, merge_kwargs

from .._text import warn
from ._callbacks import KeepBest
from ._checkpoint import RunState, SealedCheckpoints, logged_history


class ResumableTrainRunner(TrainRunner):
    """scvi's TrainRunner that can be interrupted, resumed and repeated.

    - Ctrl-C ends training early: the best weights so far (with :class:`KeepBest`, else the last) are kept, the model
      counts as trained, and a warning says after how many epochs. Before the first step KeyboardInterrupt is raised.
    - Any other error is raised as it is, and the model has the weights, history and state it had before.
    - Checkpoints are written whole and sealed; ``ckpt_path`` resumes one. Nothing in it is executed, see
      :mod:`hpvade.train._checkpoint`.
    - `model.history` goes on over several calls, by epoch; a resumed run replaces the epochs it repeats.
    - ``callbacks`` is not changed, and may hold Lightning's ModelCheckpoint.

    Parameters
    ----------
    *args, **kwargs
        As for :class:`scvi.train.TrainRunner`.

    Raises
    ------
    FileNotFoundError
        There is no file `ckpt_path`.
    """

    def __init__(self, *args, trainer_config=None, **kwargs):
        kwargs = merge_kwargs(trainer_config, kwargs, name="trainer")
        ckpt_path = kwargs.get("ckpt_path")
        if ckpt_path is not None and not Path(ckpt_path).is_file():
            raise FileNotFoundError(f"ckpt_path={str(ckpt_path)!r} is not a file; expected a checkpoint to resume.")
        plugins = kwargs.get("plugins") or []
        plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, SealedCheckpoints()]
        callbacks = list(kwargs.pop("callbacks", None) or [])
        # scvi's Trainer refuses Lightning's checkpoints, or adds its own to them: attach them afterwards
        checkpoints = [c for c in callbacks if _is_checkpoint(c)]
        with _quiet():
            super().__init__(*args, callbacks=[c for c in callbacks if not _is_checkpoint(c)], **kwargs)
        self.trainer.callbacks.extend(checkpoints)
        for callback in self.trainer.callbacks:
            if isinstance(callback, LoudEarlyStopping):  # prints, and stdout may belong to a program
                callback.teardown = partial(_say_why, callback)  # not a subclass: checkpoints know it by its class

    def _run_training_core(self):
        model = self.model
        earlier = {name: value.detach().to("cpu", copy=True) for name, value in model.module.state_dict().items()}
        trained, training, device = model.is_trained_, model.module.training, model.device
        self.training_plan.train()  # a trained or loaded model is in eval mode, and Lightning leaves it there
        try:
            with _quiet():
                stopped = self._fit()
        except BaseException:
            model.module.load_state_dict(earlier)
            model.module.train(training)
            model.to_device(device)
            model.is_trained_ = trained
            raise
        resumed = self.ckpt_path is not None
        model.history_ = merge_history(model.history_ or self._resumed(), logged_history(self.trainer), resumed=resumed)
        model.train_indices = getattr(self.data_splitter, "train_idx", None)
        model.test_indices = getattr(self.data_splitter, "test_idx", None)
        model.validation_indices = getattr(self.data_splitter, "val_idx", None)
        model.module.eval()
        model.is_trained_ = True
        model.to_device(self.device)
        model.trainer = self.trainer
        if stopped:
            best = any(isinstance(c, KeepBest) and c.best_epoch is not None for c in self.trainer.callbacks)
            warn(
                f"training stopped by the user after {self.trainer.current_epoch} epochs; "
                f"the {'best' if best else 'last'} weights so far are kept"
            )

    def _fit(self) -> bool:
        """Train; True when the user stopped it."""
        try:
            self.trainer.fit(self.training_plan, self.data_splitter, ckpt_path=self.ckpt_path, weights_only=True)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            if not isinstance(error.__context__, KeyboardInterrupt):
                raise
            if self.trainer.global_step == 0:
                raise error.__context__ from None
            return True
        return False

    def _resumed(self) -> dict[str, pd.DataFrame] | None:
        """History of the epochs before the checkpoint, for a model that did not run them itself."""
        return next((c.history for c in self.trainer.callbacks if isinstance(c, RunState)), None)


def merge_history(
    earlier: dict[str, pd.DataFrame] | None, new: dict[str, pd.DataFrame], *, resumed: bool = False
) -> dict[str, pd.DataFrame]:
    """Put the history of a training run behind that of earlier ones.

    Parameters
    ----------
    earlier, new
        One-column DataFrames by name; the index is the epoch, from 0. `new` counts from 0, or where a checkpoint
        stopped when `resumed`; then rows of `earlier` from that epoch on are dropped.

    Returns
    -------
    New DataFrames, of numbers where possible, indexed by the epoch over all runs.

    Examples
    --------
    >>> a, b = pd.DataFrame({"loss": [3.0, 2.0]}), pd.DataFrame({"loss": [1.0]})
    >>> merge_history({"loss": a}, {"loss": b})["loss"]["loss"].to_dict()
    {0: 3.0, 1: 2.0, 2: 1.0}
    """
    earlier = earlier or {}
    offset = 0 if resumed else max((frame.index.max() + 1 for frame in earlier.values() if len(frame)), default=0)
    first = offset + min((frame.index.min() for frame in new.values() if len(frame)), default=math.inf)
    merged = {}
    for name in [*earlier, *(name for name in new if name not in earlier)]:
        parts = []
        if name in earlier:
            parts.append(earlier[name][earlier[name].index < first])
        if name in new:
            parts.append(new[name].set_axis(new[name].index + offset))
        parts = [part.infer_objects() for part in parts if len(part)]
        merged[name] = pd.concat(parts) if parts else (earlier | new)[name].iloc[:0]
        merged[name].index.name = "epoch"
    return merged


def _is_checkpoint(callback) -> bool:
    return isinstance(callback, lp.callbacks.ModelCheckpoint) and not isinstance(callback, SaveCheckpoint)


def _say_why(early_stopping: LoudEarlyStopping, *_, **__) -> None:
    """Log, and do not print, why training stopped."""
    if early_stopping.early_stopping_reason is not None:
        logging.getLogger("scvi").info(early_stopping.early_stopping_reason)


@contextlib.contextmanager
def _quiet():
    """Silence Lightning's tips and remarks that need no action, here only."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for remark in (
            "The number of training batches",  # the history is by epoch
            "Checkpoint directory .* exists and is not empty",  # as it should be when resuming
            "Your `IterableDataset` has `__len__` defined",  # our streams are sharded by worker
            r"Be aware that when using `ckpt_path`.*\[\"ModelCheckpoint",  # it is resumed without checkpoint_dir
            r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between Lightning and torch
        ):
            warnings.filterwarnings("ignore", message=remark)
        try:
            for logger in loggers:
                logger.setLevel(max(logger.level, logging.WARNING))
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
