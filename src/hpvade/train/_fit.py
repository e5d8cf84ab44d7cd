"""One training run: options checked first, sane defaults, best weights kept."""

import inspect
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as lp
import numpy as np
import torch
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.train import Trainer, TrainingPlan
from torch.utils.data import DataLoader

from ._callbacks import ConstantPredictorAlarm, KeepBest, checkpoint_callbacks

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
        The file is not a checkpoint of such a training run, or of another reference.
    """
    if ckpt_path is not None:
        if not Path(ckpt_path).is_file():
            raise FileNotFoundError(f"ckpt_path={str(ckpt_path)!r} is not a file; expected a checkpoint to resume.")
        state = torch.load(ckpt_path, map_location="cpu", weights_only=True).get(model._data_splitter_cls.__name__)
        if state is None:
            raise ValueError(f"{ckpt_path} holds no split of cells; expected a checkpoint written by train().")
        split = [state["train_idx"], state["val_idx"], state["test_idx"]]
        if sum(map(len, split)) != model.adata.n_obs:
            raise ValueError(
                f"{ckpt_path} was made with {sum(map(len, split))} cells, this reference has {model.adata.n_obs}; "
                "expected the same reference."
            )
    elif model.is_trained_ and model.train_indices is not None:
        split = [model.train_indices, model.validation_indices, model.test_indices]
    else:
        return None
    return tuple(np.asarray(part, dtype=np.int64) for part in split)


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
    **trainer_kwargs
        For the trainer; what is given replaces a default.

    Raises
    ------
    ValueError
        Early stopping is asked for without validation cells; `max_epochs` is below one.
    """
    validated = splitter.n_val > 0
    if max_epochs < 1:
        raise ValueError(f"max_epochs is {max_epochs}; expected at least 1.")
    if early_stopping and not validated:
        raise ValueError(
            "early_stopping=True needs validation cells, and there are none. Use train_size below 1, or "
            "early_stopping=False."
        )
    callbacks = list(trainer_kwargs.pop("callbacks", None) or [])
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
