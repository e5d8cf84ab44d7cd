"""Training plan for a stream of cells."""

import torch
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan


class CellPlan(TrainingPlan):
    """`scvi.train.TrainingPlan` that stops at a loss that is not finite, and validates at the full KL weight.

    `train_loss` and `validation_loss` are logged once per epoch, with every term of the module's `extra_metrics`;
    `kl_weight` belongs to training only, so that the validation losses of all epochs compare.

    Raises
    ------
    RuntimeError
        In a step whose loss is not finite, naming the term, before the weights change.
    """

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """Loss of a minibatch."""
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.kl_weight
            self.log("kl_weight", self.kl_weight, on_step=False, on_epoch=True, batch_size=1)
        return self._step(batch, "train")

    @torch.no_grad()
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Log the loss of held-out cells."""
        if "kl_weight" in self.loss_kwargs:
            self.loss_kwargs["kl_weight"] = self.max_kl_weight
        self._step(batch, "validation")

    def _step(self, batch: dict, mode: str) -> torch.Tensor:
        _, _, losses = self.forward(batch, loss_kwargs=self.loss_kwargs)
        refuse_non_finite(losses.loss, _terms(losses), self.global_step)
        name = "train_loss" if mode == "train" else "validation_loss"
        options = {"on_step": False, "on_epoch": True, "prog_bar": True, "sync_dist": self.use_sync_dist}
        self.log(name, losses.loss.detach(), batch_size=losses.n_obs_minibatch, **options)
        self.compute_and_log_metrics(losses, self.train_metrics if mode == "train" else self.val_metrics, mode)
        return losses.loss


def _terms(losses: LossOutput) -> dict[str, torch.Tensor]:
    """The terms of a loss by name, scvi-tools' own ones last."""
    terms = dict(losses.extra_metrics or {})
    for name in ("reconstruction_loss", "kl_local"):
        value = getattr(losses, name)
        terms |= value if isinstance(value, dict) else {name: value}
    return {name: value for name, value in terms.items() if value is not None}


def refuse_non_finite(loss: torch.Tensor, terms: dict, step: int) -> None:
    """Raise RuntimeError that names the first term that is not finite, when the loss is not."""
    if loss.isfinite():
        return
    bad = next((name for name, value in terms.items() if not torch.as_tensor(value).isfinite().all()), "total")
    raise RuntimeError(
        f"Loss term {bad!r} is not finite at step {step}; the weights of this step were not changed. "
        "Check the data for extreme values, or lower the learning rate: train(plan_kwargs={'lr': 1e-4})."
    )
