"""CellPlan: KL weight in validation, and losses that are not finite."""

from types import SimpleNamespace

import pytest
import torch
from scvi.module.base import BaseModuleClass, LossOutput

from hpvade.train._plan import CellPlan


class Toy(BaseModuleClass):
    """Loss 2 w^2."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(2.0))
        self.seen = []

    def _get_inference_input(self, tensors, **kwargs):
        return {}

    def _get_generative_input(self, tensors, inference_outputs, **kwargs):
        return {}

    def inference(self):
        return {}

    def generative(self):
        return {}

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight=1.0):
        self.seen.append(kl_weight)
        square = 2 * self.w**2
        ones = torch.ones(4)
        return LossOutput(loss=square, reconstruction_loss=ones, kl_local=ones, extra_metrics={"square": square})


def recorded(plan):
    """`plan` outside a trainer, its log in ``plan.logged``."""
    plan.logged = {}
    plan.log = lambda name, value, **options: plan.logged.update({name: float(value)})
    plan.log_dict = lambda values, **options: plan.logged.update({k: float(v) for k, v in values.items()})
    plan._trainer = SimpleNamespace(current_epoch=1, global_step=7, strategy=None)
    plan.compute_and_log_metrics = lambda *args: None
    return plan


def test_cell_plan_validates_at_the_full_kl_weight():
    plan = recorded(CellPlan(Toy(), n_epochs_kl_warmup=4))
    loss = plan.training_step({}, 0)
    plan.validation_step({}, 0)
    plan.training_step({}, 1)
    assert plan.module.seen == [0.25, 1.0, 0.25]  # epoch 1 of 4
    assert float(loss.detach()) == plan.logged["train_loss"] == plan.logged["validation_loss"] == 8
    assert plan.logged["kl_weight"] == 0.25


def test_cell_plan_names_the_term_that_is_not_finite():
    plan = recorded(CellPlan(Toy()))
    plan.module.w.data.fill_(float("inf"))
    for step in (plan.training_step, plan.validation_step):
        with pytest.raises(RuntimeError, match="Loss term 'square' is not finite at step 7"):
            step({}, 0)
