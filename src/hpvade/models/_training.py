"""The frame of `train` that models of one stream of cells share: options, split, budget of steps, loaders, fit."""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scvi.model.base import UnsupervisedTrainingMixin

from .._text import whole_number
from ..train._fit import check_options, fit, saved_split
from ..train._plan import CellPlan
from ..train._runner import ResumableTrainRunner
from ..train._splitter import CellSplitter

Split = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Budget:
    """Length of a default run: `steps` of optimisation, between `least` and `most` epochs.

    The KL term is warmed up over one part in `warmup` of the epochs.
    """

    steps: int
    least: int
    most: int
    warmup: int = 10

    def epochs(self, n_cells: int, batch_size: int) -> int:
        """Number of epochs for that many training cells."""
        n_batches = -(-n_cells // batch_size)
        return int(np.clip(-(-self.steps // n_batches), self.least, self.most))


class CellTraining(UnsupervisedTrainingMixin):
    """Training of a model on its registered cells; the subclass sets `_budget` and writes its own `train`."""

    _data_splitter_cls = CellSplitter
    _training_plan_cls = CellPlan
    _train_runner_cls = ResumableTrainRunner
    _budget: Budget

    def _train_on_cells(
        self,
        new_split: Callable[[], Split],
        *,
        max_epochs: int | None,
        batch_size: int,
        ckpt_path: str | None,
        plan_defaults: dict,
        plan_kwargs: dict | None,
        datasplitter_kwargs: dict | None,
        trainer_kwargs: dict,
        trainer_defaults: dict | None = None,
        splitter_options: dict | None = None,
        initialise: Callable[[Split], None] | None = None,
        **options,
    ) -> Split:
        """Check the options, split the cells, train.

        Parameters
        ----------
        new_split
            Splits the cells of a new run; a resumed or repeated one keeps its split.
        max_epochs, batch_size, ckpt_path, plan_kwargs, datasplitter_kwargs, trainer_kwargs
            As the user gave them.
        plan_defaults, trainer_defaults, splitter_options
            What the model chose; what the user gave goes first.
        initialise
            Called once with the split, before the first step of a new model.
        **options
            `early_stopping`, `checkpoint_dir`, `accelerator` and `devices`, for `hpvade.train._fit.fit`.

        Returns
        -------
        Indices of training, validation and test cells.
        """
        check_options(plan_kwargs, datasplitter_kwargs, trainer_kwargs)
        whole_number("batch_size", batch_size)
        if max_epochs is not None:
            whole_number("max_epochs", max_epochs)
        split = saved_split(self, ckpt_path)
        split = new_split() if split is None else split
        if max_epochs is None:
            max_epochs = self._budget.epochs(len(split[0]), batch_size)
        with self._any_batch_size():
            splitter = self._data_splitter_cls(
                self.adata_manager,
                split=split,
                batch_size=batch_size,
                **(splitter_options or {}),
                **(datasplitter_kwargs or {}),
            )
        warmup = {"n_epochs_kl_warmup": max(max_epochs // self._budget.warmup, 1)}
        if not len(split[1]):
            warmup |= {"reduce_lr_on_plateau": False}  # nothing to watch
        fit(
            self,
            splitter,
            initialise=None if self.is_trained_ or initialise is None else lambda: initialise(split),
            plan_kwargs=plan_defaults | warmup | (plan_kwargs or {}),
            max_epochs=max_epochs,
            alarm=False,
            ckpt_path=ckpt_path,
            **options,
            **(trainer_defaults or {}) | trainer_kwargs,
        )
        return split

    @contextlib.contextmanager
    def _any_batch_size(self) -> Iterator[None]:
        """Silence scvi-tools' warning of a small last minibatch where no layer depends on its size."""
        with warnings.catch_warnings():
            if not any(isinstance(layer, torch.nn.BatchNorm1d) for layer in self.module.modules()):
                warnings.filterwarnings("ignore", "Last batch will have a small size")
            yield
