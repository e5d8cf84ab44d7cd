"""Plan of the regularised models on a module of two parameters."""

from types import SimpleNamespace

import pytest
import torch
from scvi.module.base import BaseModuleClass, LossOutput
from torch import nn

from hpvade.models.ambient._regularized_plan import RegularizedPlan


class Module(BaseModuleClass):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
        self.register_buffer("n_obs_training", torch.tensor(0))
        self.trainable_masks = {}

    def _get_inference_input(self, tensors, **kwargs):
        return {}

    def _get_generative_input(self, tensors, inference_outputs, **kwargs):
        return {}

    def inference(self):
        return {}

    def generative(self):
        return {}

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight=1.0, n_obs=1):
        return LossOutput(loss=(self.a + self.b).sum(), n_obs_minibatch=1)

    def get_parameter_groups(self, base_lr, modality_lr_multiplier):
        if set(modality_lr_multiplier) != {"b"}:
            raise ValueError("Unknown modality")
        return [{"params": [self.a], "lr": base_lr}, {"params": [self.b], "lr": base_lr * modality_lr_multiplier["b"]}]


def at_epoch(plan, epoch):
    """Let the plan believe that it is in an epoch of ten."""
    plan._trainer = SimpleNamespace(max_epochs=10, current_epoch=epoch)


def test_number_of_training_cells_reaches_module_and_loss():
    module = Module()
    plan = RegularizedPlan(module)
    plan.n_obs_training = 42
    assert module.n_obs_training == 42 and plan.n_obs_training == 42 and plan.loss_kwargs["n_obs"] == 42


def test_learning_rates_by_modality():
    plan = RegularizedPlan(Module(), lr=1e-3, modality_lr_multiplier={"b": 3.0})
    groups = plan.configure_optimizers()["optimizer"].param_groups
    assert [group["lr"] for group in groups] == [1e-3, pytest.approx(3e-3)]
    with pytest.raises(ValueError, match="Unknown modality"):
        RegularizedPlan(Module(), modality_lr_multiplier={"c": 3.0})


def test_ambient_profiles_learn_faster():
    module = Module()
    module.additive_background = nn.Parameter(torch.zeros(2))
    groups = (
        RegularizedPlan(module, lr=1e-3, background_lr_multiplier=5.0).configure_optimizers()["optimizer"].param_groups
    )
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates[id(module.additive_background)] == pytest.approx(5e-3) and rates[id(module.a)] == 1e-3
    assert len(rates) == 3
    with pytest.raises(ValueError, match="background_lr_multiplier=0"):
        RegularizedPlan(module, background_lr_multiplier=0)


def test_masks_hold_parameters_back():
    module = Module()
    module.trainable_masks = {"a": torch.tensor([0.0, 1.0, 0.0])}
    plan = RegularizedPlan(module, lr=0.1, weight_decay=0.0)
    at_epoch(plan, 0)
    optimizer = plan.configure_optimizers()["optimizer"]
    (module.a + module.b).sum().backward()
    plan.on_before_optimizer_step(optimizer)
    optimizer.step()
    assert (module.a != 0).tolist() == [False, True, False] and (module.b != 0).all()


def test_profiles_move_as_a_whole_first_and_gene_by_gene_later():
    module = Module()
    module.additive_background = nn.Parameter(torch.zeros(4, 2))
    plan = RegularizedPlan(module, lr=1e-3, background_lr_multiplier=10.0, background_level_share=0.5)
    gradient = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 0.0], [-1.0, 3.0]])
    for epoch, expected in ((0, gradient.sum(0).expand(4, 2)), (5, gradient)):
        at_epoch(plan, epoch)
        module.additive_background.grad = gradient.clone()
        plan.on_before_optimizer_step(None)
        torch.testing.assert_close(module.additive_background.grad, expected)
    optimizer = plan.configure_optimizers()["optimizer"]
    plan.optimizers = lambda: optimizer
    rate = lambda: next(g["lr"] for g in optimizer.param_groups if g["is_background"])  # noqa: E731
    for epoch, expected in ((0, 1e-2), (4, 1e-2), (5, 1e-3), (9, 1e-3)):
        at_epoch(plan, epoch)
        plan.on_train_epoch_start()
        assert rate() == pytest.approx(expected)
    with pytest.raises(ValueError, match="background_level_share=2"):
        RegularizedPlan(module, background_level_share=2)
