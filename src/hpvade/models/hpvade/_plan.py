"""Training plan for two streams: cells, and bulk simulated from them."""

import torch
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from ...train._plan import refuse_non_finite


class TwoStreamPlan(TrainingPlan):
    """`scvi.train.TrainingPlan` for batches ``{"cells": ..., "bulk": ...}``.

    The total of both streams is minimised and logged as `train_loss` and `validation_loss`, every part as
    `<part>_train` and `<part>_validation`: means over the steps of an epoch, handed to the loggers once at its end. The
    module offers `bulk_losses(batch)`, which returns the loss of the bulk stream and its parts, and
    `shared_terms(cells, bulk)`, the parameter that both streams train with the terms that reach it; their shares of its
    gradient norm in the first step of an epoch are logged as `gradient_share_<term>_train`.

    Raises
    ------
    RuntimeError
        In a step whose loss is not finite, naming the term, before the weights change.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._means = {"train": _EpochMeans(), "validation": _EpochMeans()}

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """Loss of both streams."""
        return self._step(batch, "train", log_shares=batch_idx == 0)

    @torch.no_grad()
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Loss of both streams on held-out cells and mixtures of them."""
        self._step(batch, "validation", log_shares=False)

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch."""
        if "kl_weight" in self.loss_kwargs:
            self.log("kl_weight", self.kl_weight, batch_size=1)
        self._log_means("train")

    def on_validation_epoch_end(self) -> None:
        """Log the means over the held-out batches."""
        self._log_means("validation")

    def _step(self, batch: dict, mode: str, log_shares: bool) -> torch.Tensor:
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
        _, _, cells = self.forward(batch["cells"], loss_kwargs=self.loss_kwargs)
        bulk_loss, parts = self.module.bulk_losses(batch["bulk"])
        loss = cells.loss + bulk_loss
        refuse_non_finite(loss, {"cells": cells.loss, **parts}, self.global_step)
        if log_shares:
            shares = self._gradient_shares(cells, parts)
            self.log_dict(
                {f"gradient_share_{name}_train": share for name, share in shares.items()},
                batch_size=1,
                on_step=False,
                on_epoch=True,
                sync_dist=self.use_sync_dist,
            )
        self._means[mode].add({"loss": loss, **_cell_terms(cells), **parts})
        return loss

    def _log_means(self, mode: str) -> None:
        means = self._means[mode].pop()
        options = {"batch_size": 1, "sync_dist": self.use_sync_dist}
        if "loss" in means:  # the two names that callbacks watch
            name = "train_loss" if mode == "train" else "validation_loss"
            self.log(name, means.pop("loss"), prog_bar=True, **options)
        self.log_dict({f"{name}_{mode}": value for name, value in means.items()}, **options)

    def _gradient_shares(self, cells: LossOutput, parts: dict) -> dict[str, torch.Tensor]:
        parameter, terms = self.module.shared_terms(cells, parts)
        norms = {
            name: torch.autograd.grad(value, parameter, retain_graph=True)[0].norm()
            for name, value in terms.items()
            if value.requires_grad
        }
        total = sum(norms.values())
        return {name: norm / total.clamp(min=1e-30) for name, norm in norms.items()}


def _cell_terms(cells: LossOutput) -> dict[str, torch.Tensor]:
    """Parts of the loss of the cell stream, per cell, with scvi-tools' names."""
    reconstruction, kl = (
        cells.reconstruction_loss_sum / cells.n_obs_minibatch,
        cells.kl_local_sum / cells.n_obs_minibatch,
    )
    elbo = {"elbo": reconstruction + kl, "reconstruction_loss": reconstruction, "kl_local": kl}
    return elbo | (cells.extra_metrics or {})


class _EpochMeans:
    """Means of named scalars over the steps of an epoch; one tensor operation a step, no transfer to the host."""

    def __init__(self):
        self.names, self.total, self.n = (), 0.0, 0

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Add the values of one step; every step has the same names."""
        self.names, self.n = tuple(values), self.n + 1
        self.total = self.total + torch.stack([value.detach().float() for value in values.values()])

    def pop(self) -> dict[str, torch.Tensor]:
        """The means so far, and start over."""
        means = dict(zip(self.names, self.total / self.n, strict=True)) if self.n else {}
        self.__init__()
        return means
