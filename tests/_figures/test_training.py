import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from hpvade import pl
from hpvade.pl import training_history


def curve(values):
    return pd.DataFrame({"value": values}, index=pd.Index(range(len(values)), name="epoch"))


@pytest.fixture
def history():
    return {
        "train_loss_step": curve([9.0, 8.0, 7.0, 6.0]),
        "train_loss_epoch": curve([4.0, 3.0, 2.0]),
        "validation_loss": curve([5.0, np.nan, 3.0]),
        "elbo_train": curve([1000.0, 10.0, 5.0]),
        "elbo_validation": curve([1100.0, 11.0, 6.0]),
        "kl_weight": curve([0.0, 0.5, 1.0]),
    }


def drawn(ax):
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines}


def test_train_and_validation_share_a_panel(history):
    axes = {ax.get_title(): ax for ax in training_history(history).axes}
    assert list(axes) == ["loss", "elbo", "kl weight"]
    # an epoch without validation is left out, not drawn as a gap
    assert drawn(axes["loss"]) == {"train": ([0, 1, 2], [4, 3, 2]), "validation": ([0, 2], [5, 3])}
    assert drawn(axes["elbo"])["validation"] == ([0, 1, 2], [1100, 11, 6])
    assert list(drawn(axes["kl weight"])) == ["train"]
    assert axes["elbo"].get_yscale() == "log"
    assert axes["loss"].get_yscale() == axes["kl weight"].get_yscale() == "linear"
    assert axes["loss"].get_legend() is not None


def test_the_model_is_not_its_history():
    with pytest.raises(TypeError, match="history is a object; expected its curves, as in model.history"):
        training_history(object())


def test_names_of_the_literal_module():
    fig = training_history({"sc/loss_kl": curve([2.0, 1.0]), "val_sc/loss_kl": curve([3.0, 2.0])})
    assert drawn(fig.axes[0]) == {"train": ([0, 1], [2, 1]), "validation": ([0, 1], [3, 2])}


def test_keys_choose_and_order(history):
    assert [ax.get_title() for ax in training_history(history, keys=["elbo", "loss"]).axes] == ["elbo", "loss"]
    assert [ax.get_title() for ax in training_history(history, keys=["elbo_train"]).axes] == ["elbo"]
    (steps,) = training_history(history, keys=["loss_step"]).axes
    assert drawn(steps)["train"][1] == [9, 8, 7, 6]
    assert steps.get_xlabel() == "step"
    with pytest.raises(KeyError, match="'mse' was not recorded"):
        training_history(history, keys=["mse"])


def test_by_default_the_four_that_matter():
    names = [
        "dead_units_validation",
        "rmse_skill_validation",
        "elbo_train",
        "prop_train",
        "train_loss",
        "kl_local_train",
    ]
    history = {name: curve([2.0, 1.0]) for name in names}
    assert [ax.get_title() for ax in training_history(history).axes] == ["loss", "elbo", "prop", "rmse skill"]
    every = [ax.get_title() for ax in training_history(history, keys="all").axes]
    assert every == ["dead units", "rmse skill", "elbo", "prop", "loss", "kl local"]
    # what a model did not record is filled up in the order of recording
    few = {name: curve([1.0]) for name in ("own_train", "other_train", "train_loss")}
    assert [ax.get_title() for ax in training_history(few).axes] == ["loss", "own", "other"]


def test_one_epoch_is_a_visible_point():
    (ax,) = training_history({"elbo_train": curve([1.0])}).axes
    assert ax.lines[0].get_marker() == "o"


def test_given_axes_and_empty_history(history):
    fig, axes = plt.subplots(1, 2)
    assert training_history(history, keys=["elbo", "loss"], axes=axes) is fig
    with pytest.raises(ValueError, match="2 axes for 3 quantities"):
        training_history(history, axes=axes)
    with pytest.raises(ValueError, match="The history is empty. Train the model"):
        training_history({})


def test_alias():
    assert pl.training is pl.training_history
