"""TwoStreamPlan: the total, its parts, gradient shares, and losses that are not finite."""

import pytest
import torch

from hpvade.models.hpvade._plan import TwoStreamPlan


@pytest.fixture
def two_streams(toy_module):
    """Class of a module with losses 2 w^2 from cells and 3 w from bulk, of which 1 w is a part."""

    class TwoStreams(toy_module):
        def bulk_losses(self, batch):
            return 3 * self.w * batch["factor"], {"part": self.w * batch["factor"]}

        def shared_terms(self, cells, bulk):
            return self.w, {"square": cells.extra_metrics["square"], "part": bulk["part"]}

    return TwoStreams


@pytest.fixture
def plan(two_streams, recorded):
    return recorded(TwoStreamPlan(two_streams(), n_epochs_kl_warmup=4))


def batch(factor=1.0):
    return {"cells": {}, "bulk": {"bulk": torch.ones(5, 2), "factor": torch.tensor(factor)}}


def test_total_is_both_streams_and_parts_are_logged(plan):
    loss = plan.training_step(batch(), 0)
    assert "train_loss" not in plan.logged  # once an epoch
    plan.on_train_epoch_end()
    assert float(loss.detach()) == 2 * 4 + 3 * 2
    assert plan.logged["train_loss"] == 14 and plan.logged["part_train"] == 2
    loss.backward()
    assert float(plan.module.w.grad) == 4 * 2 + 3


def test_gradient_shares_once_per_epoch(plan):
    """d square / dw = 8, d part / dw = 1."""
    plan.training_step(batch(), 0)
    assert plan.logged["gradient_share_square_train"] == pytest.approx(8 / 9)
    assert plan.logged["gradient_share_part_train"] == pytest.approx(1 / 9)
    plan.logged.clear()
    plan.training_step(batch(), 1)
    plan.validation_step(batch(), 0)
    assert not any(name.startswith("gradient_share") for name in plan.logged)


def test_means_are_over_the_steps_of_an_epoch(plan):
    for factor in (1.0, 3.0):
        plan.training_step(batch(factor), 0)
    plan.on_train_epoch_end()
    assert plan.logged["part_train"] == pytest.approx((2 + 6) / 2)
    assert plan.logged["elbo_train"] == plan.logged["reconstruction_loss_train"] + plan.logged["kl_local_train"] == 2
    plan.training_step(batch(5.0), 0)
    plan.on_train_epoch_end()
    assert plan.logged["part_train"] == 10  # the earlier epoch is gone


def test_validation_logs_under_its_own_names(plan):
    assert plan.validation_step(batch(), 0) is None
    plan.on_validation_epoch_end()
    assert plan.logged["validation_loss"] == 14 and plan.logged["part_validation"] == 2
    assert "train_loss" not in plan.logged


def test_kl_weight_is_refreshed_in_every_step(plan):
    plan.training_step(batch(), 0)
    plan._trainer.current_epoch = 2
    plan.training_step(batch(), 1)
    plan.on_train_epoch_end()
    assert plan.module.seen == [0.25, 0.5]
    assert plan.logged["kl_weight"] == 0.5


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", ["training_step", "validation_step"])
def test_hp14_non_finite_term_is_named(plan, factor, step):
    with pytest.raises(RuntimeError, match="Loss term 'part' is not finite at step 7.*lower the learning rate"):
        getattr(plan, step)(batch(factor), 0)


def test_hp14_non_finite_cells_are_named(plan):
    plan.module.w.data.fill_(float("nan"))
    with pytest.raises(RuntimeError, match="Loss term 'cells' is not finite"):
        plan.training_step(batch(), 0)
