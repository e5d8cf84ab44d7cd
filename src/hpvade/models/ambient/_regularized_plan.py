"""Training plan of the regularised models: the module knows the number of training cells, parts learn apart."""

from collections.abc import Mapping

import torch
from scvi.train import TrainingPlan

from ...train._plan import CellPlan


class RegularizedPlan(CellPlan):
    """:class:`CellPlan` for a module with priors over all training cells.

    The number of training cells is stored in the module's buffer `n_obs_training`.

    Parameters
    ----------
    module
        The module; with `modality_lr_multiplier` it offers ``get_parameter_groups(base_lr, modality_lr_multiplier)``.
    modality_lr_multiplier
        Factors of the learning rate by modality; one for those not named.
    background_lr_multiplier
        Factor of the learning rate of `additive_background` while only its level is learned.
    background_level_share
        Share of the epochs, the first ones, in which only the level of each ambient profile is learned and its shape
        stays as it started, the mean expression. The level is identified best while the decoder is still coarse; a free
        shape would be given up to the decoder.
    **options
        For :class:`scvi.train.TrainingPlan`.
    """

    def __init__(
        self,
        module,
        *,
        modality_lr_multiplier: Mapping[str, float] | None = None,
        background_lr_multiplier: float = 10.0,
        background_level_share: float = 0.5,
        **options,
    ):
        super().__init__(module, **options)
        self.modality_lr_multiplier, self.background_lr_multiplier = modality_lr_multiplier, background_lr_multiplier
        if not background_lr_multiplier > 0:
            raise ValueError(f"background_lr_multiplier={background_lr_multiplier!r}; expected a number above 0.")
        if not 0 <= background_level_share <= 1:
            raise ValueError(f"background_level_share={background_level_share!r}; expected a share of the epochs.")
        self.background_level_share = background_level_share
        if modality_lr_multiplier is not None:
            module.get_parameter_groups(self.lr, modality_lr_multiplier)  # refuses unknown modalities before training

    @property
    def n_obs_training(self) -> int | None:
        """Number of training cells."""
        return TrainingPlan.n_obs_training.fget(self)

    @n_obs_training.setter
    def n_obs_training(self, n_obs: int):
        TrainingPlan.n_obs_training.fset(self, n_obs)
        self.module.n_obs_training.fill_(n_obs)

    def get_optimizer_creator(self):
        """The optimiser, with groups of parameters that learn at different rates."""
        creator = super().get_optimizer_creator()
        return lambda parameters: creator(self._groups(list(parameters)))

    def _groups(self, parameters: list) -> list[dict]:
        groups = [{"params": parameters, "lr": self.lr}]
        if self.modality_lr_multiplier is not None:
            kept = {id(parameter) for parameter in parameters}
            groups = self.module.get_parameter_groups(self.lr, self.modality_lr_multiplier)
            groups = [group | {"params": [p for p in group["params"] if id(p) in kept]} for group in groups]
        named = self.module.named_parameters()
        background = {id(p) for name, p in named if name.split(".")[0] == "additive_background"}
        split = []
        for group in groups:
            for factor, inside in ((1.0, False), (self.background_lr_multiplier, True)):
                chosen = [p for p in group["params"] if (id(p) in background) == inside]
                split.append({"params": chosen, "lr": factor * group["lr"], "is_background": inside})
        return [group for group in split if group["params"]]

    @property
    def _only_level(self) -> bool:
        return self.current_epoch < self.background_level_share * self.trainer.max_epochs

    def on_train_epoch_start(self) -> None:
        """Let the shape of the profiles go, at the networks' rate, once their level is learned."""
        for group in self.optimizers().param_groups:
            if group.get("is_background") and not self._only_level and not group.get("is_free"):
                group["lr"], group["is_free"] = group["lr"] / self.background_lr_multiplier, True

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Move profiles as a whole while only their level is learned; leave what a query must not change as it is."""
        if self._only_level:
            for name, parameter in self.module.named_parameters():
                if name.split(".")[0] == "additive_background" and parameter.grad is not None:
                    parameter.grad.copy_(parameter.grad.sum(dim=0, keepdim=True).expand_as(parameter))
        for parameter, mask in getattr(self.module, "trainable_masks", {}).items():
            gradient = self.module.get_parameter(parameter).grad
            if gradient is not None:
                gradient.mul_(mask.to(gradient.device))
