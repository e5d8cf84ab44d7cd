"""One training run: options checked first, sane defaults, best weights kept."""

import inspect
from collections.abc import Callable
from functools import partial

import lightning.pytorch as lp
import numpy as np
import torch
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.train import Trainer, TrainingPlan
from torch.utils.data import DataLoader

from .._text import whole_number
from ._callbacks import ConstantPredictorAlarm, KeepBest, checkpoint_callbacks
from ._checkpoint import KEY, RunState, fingerprint, read_checkpoint, read_own_checkpoint

# scvi-tools' defaults that hurt here: eps 0.01 stalls heads with small gradients, no validation, no clipping
PLAN_DEFAULTS = {"lr": 1e-3, "eps": 1e-8}
TRAINER_DEFAULTS = {
    "check_val_every_n_epoch": 1,
    "early_stopping_monitor": "validation_loss",
    "early_stopping_patience": 20,
}
_NOT_OPTIONS = {
    *("self", "kwargs", "module", "adata_manager", "dataset", "indices", "loss_kwargs"),
    # arguments of train() itself
    *("train_size", "validation_size", "batch_size", "max_epochs", "accelerator", "devices", "early_stopping"),
    # two streams: the split is ours, and nested sparse batches are not made dense
    *("external_indexing", "shuffle_set_split", "shuffle", "sampler", "batch_sampler", "load_sparse_tensor"),
    # scvi-tools' own checkpoints are pickled code: train(checkpoint_dir=...) writes safe ones
    *("enable_checkpointing", "checkpointing_monitor"),
}


def check_options(plan_kwargs: dict | None, datasplitter_kwargs: dict | None, trainer_kwargs: dict) -> None:
    """Raise TypeError that names options which neither scvi-tools nor Lightning has, before any work."""
    allowed = {
        "plan_kwargs": (plan_kwargs, [TrainingPlan]),
        "datasplitter_kwargs": (datasplitter_kwargs, [DataSplitter, AnnDataLoader, DataLoader]),
        "train()": (trainer_kwargs, [Trainer, lp.Trainer]),
    }
    for where, (given, classes) in allowed.items():
        names = {name for cls in classes for name in inspect.signature(cls.__init__).parameters}
        names -= _NOT_OPTIONS
        if unknown := sorted(set(given or {}) - names):
            raise TypeError(f"{where} got unknown options {unknown}; expected some of {sorted(names)}.")


def saved_split(model, ckpt_path: str | None) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Split of the checkpoint, else of the model's earlier training; None for a new model.

    Raises
    ------
    FileNotFoundError
        There is no file `ckpt_path`.
    ValueError
        The file is damaged, no checkpoint of such a training run, or one of another model or reference; the error
        names the file and the difference.
    """
    if ckpt_path is not None:
        state = read_own_checkpoint(ckpt_path, fingerprint(model)).get(model._data_splitter_cls.__name__)
        if state is None:
            raise ValueError(f"{ckpt_path} holds no split of cells; expected a checkpoint written by train().")
        split = [state["train_idx"], state["val_idx"], state["test_idx"]]
    elif model.is_trained_ and model.train_indices is not None:
        split = [model.train_indices, model.validation_indices, model.test_indices]
    else:
        return None
    return tuple(np.asarray(part, dtype=np.int64) for part in split)


def run_seed(ckpt_path: str | None) -> int:
    """Seed for what a run draws before its first step: that of the checkpoint, else a new one from torch's generator.

    Pass it to :func:`fit`, so that checkpoints keep it. Draws that a resumed run leaves out, such as the split, need a
    generator of their own: ``split_rng, rng = np.random.default_rng(seed).spawn(2)``.
    """
    saved = None if ckpt_path is None else read_checkpoint(ckpt_path).get(KEY, {}).get("seed")
    if isinstance(saved, int):
        return saved
    return int(torch.randint(2**62, ()))


def fit(
    model,
    splitter: lp.LightningDataModule,
    *,
    initialise: Callable[[], None] | None,
    plan_kwargs: dict,
    max_epochs: int,
    early_stopping: bool,
    checkpoint_dir: str | None,
    alarm: bool = True,
    seed: int | None = None,
    describe: Callable[[], dict] | None = None,
    **trainer_kwargs,
) -> None:
    """Train `model` on `splitter` with hpvade's defaults.

    Parameters
    ----------
    model
        Model whose classes of plan and runner are used.
    splitter
        Loaders of training and validation batches.
    initialise
        Called once before the first step of a new model.
    plan_kwargs, max_epochs, early_stopping, checkpoint_dir
        See `HPVADE.train`.
    alarm
        Whether the model predicts proportions, so that a constant prediction raises the alarm.
    seed
        What checkpoints keep for :func:`run_seed`.
    describe
        Gives the fingerprint that checkpoints keep, when it is not that of the model with its AnnData.
    **trainer_kwargs
        For the trainer; what is given replaces a default.

    Raises
    ------
    ValueError
        Early stopping is asked for without validation cells; `max_epochs` is below one.
    """
    validated = splitter.n_val > 0
    whole_number("max_epochs", max_epochs)
    if early_stopping and not validated:
        raise ValueError(
            "early_stopping=True needs validation cells, and there are none. Use train_size below 1, or "
            "early_stopping=False."
        )
    callbacks = [RunState(describe or partial(fingerprint, model), seed)]
    callbacks += trainer_kwargs.pop("callbacks", None) or []
    if validated:
        callbacks += [KeepBest(), *([ConstantPredictorAlarm()] if alarm else [])]
    else:
        trainer_kwargs = {"limit_val_batches": 0} | trainer_kwargs  # Lightning refuses a loader that is None
    if checkpoint_dir is not None:
        callbacks += checkpoint_callbacks(checkpoint_dir, monitor="validation_loss" if validated else None)
    if initialise is not None:
        initialise()
    plan = model._training_plan_cls(model.module, **PLAN_DEFAULTS | plan_kwargs)
    runner = model._train_runner_cls(
        model,
        training_plan=plan,
        data_splitter=splitter,
        max_epochs=max_epochs,
        early_stopping=early_stopping,
        callbacks=callbacks,
        **TRAINER_DEFAULTS | trainer_kwargs,
    )
    runner()
