"""CellPlan: KL weight in validation, and losses that are not finite."""

import pytest

from hpvade.train._plan import CellPlan


def test_cell_plan_validates_at_the_full_kl_weight(toy_module, recorded):
    plan = recorded(CellPlan(toy_module(), n_epochs_kl_warmup=4))
    loss = plan.training_step({}, 0)
    plan.validation_step({}, 0)
    plan.training_step({}, 1)
    assert plan.module.seen == [0.25, 1.0, 0.25]  # epoch 1 of 4
    assert float(loss.detach()) == plan.logged["train_loss"] == plan.logged["validation_loss"] == 8
    assert plan.logged["kl_weight"] == 0.25


def test_cell_plan_names_the_term_that_is_not_finite(toy_module, recorded):
    plan = recorded(CellPlan(toy_module()))
    plan.module.w.data.fill_(float("inf"))
    for step in (plan.training_step, plan.validation_step):
        with pytest.raises(RuntimeError, match="Loss term 'square' is not finite at step 7"):
            step({}, 0)
