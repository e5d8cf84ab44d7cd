"""Training plan for two streams: cells, and bulk simulated from them."""

import torch
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan

from ...train._plan import refuse_non_finite


class TwoStreamPlan(TrainingPlan):
    """`scvi.train.TrainingPlan` for batches ``{"cells": ..., "bulk": ...}``.

    The total of both streams is minimised and logged as `train_loss` and `validation_loss`, every part as
    `<part>_train` and `<part>_validation`. The module offers `bulk_losses(batch)`, which returns the loss of the bulk
    stream and its parts, and `shared_terms(cells, bulk)`, the parameter that both streams train with the terms that
    reach it; their shares of its gradient norm are logged once per epoch as `gradient_share_<term>_train`.

    Raises
    ------
    RuntimeError
        In a step whose loss is not finite, naming the term, before the weights change.
    """

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """Loss of both streams."""
        return self._step(batch, "train", log_shares=batch_idx == 0)

    @torch.no_grad()
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Log the loss of both streams on held-out cells and mixtures of them."""
        self._step(batch, "validation", log_shares=False)

    def _step(self, batch: dict, mode: str, log_shares: bool) -> torch.Tensor:
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
            self.log("kl_weight", self.kl_weight, on_step=False, on_epoch=True, batch_size=1)
        _, _, cells = self.forward(batch["cells"], loss_kwargs=self.loss_kwargs)
        bulk_loss, parts = self.module.bulk_losses(batch["bulk"])
        loss = cells.loss + bulk_loss
        refuse_non_finite(loss, {"cells": cells.loss, **parts}, self.global_step)
        if log_shares:
            parts = parts | self._gradient_shares(cells, parts)
        size = cells.n_obs_minibatch
        options = {"on_step": False, "on_epoch": True, "sync_dist": self.use_sync_dist}
        name = "train_loss" if mode == "train" else "validation_loss"
        self.log(name, loss.detach(), prog_bar=True, batch_size=size, **options)
        for part, value in parts.items():
            self.log(f"{part}_{mode}", value.detach(), batch_size=len(batch["bulk"]["bulk"]), **options)
        self.compute_and_log_metrics(cells, self.train_metrics if mode == "train" else self.val_metrics, mode)
        return loss

    def _gradient_shares(self, cells: LossOutput, parts: dict) -> dict[str, torch.Tensor]:
        parameter, terms = self.module.shared_terms(cells, parts)
        norms = {
            name: torch.autograd.grad(value, parameter, retain_graph=True)[0].norm()
            for name, value in terms.items()
            if value.requires_grad
        }
        total = sum(norms.values())
        return {f"gradient_share_{name}": norm / total.clamp(min=1e-30) for name, norm in norms.items()}
