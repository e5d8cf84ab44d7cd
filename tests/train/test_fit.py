"""Options are checked before any work; splits come from checkpoints or earlier training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hpvade.models.hpvade._splitter import TwoStreamSplitter
from hpvade.train._checkpoint import SealedCheckpoints
from hpvade.train._fit import check_options, fit, run_seed, saved_split


def test_options_of_scvi_and_lightning_pass():
    check_options(
        {"lr": 1e-4, "weight_decay": 0.1, "n_epochs_kl_warmup": 3, "reduce_lr_on_plateau": True},
        {"num_workers": 0, "drop_last": True, "pin_memory": False},
        {"precision": 32, "callbacks": [], "logger": None, "early_stopping_patience": 3, "gradient_clip_val": 1.0},
    )
    check_options(None, None, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"lrr": 1}, None, {}), r"plan_kwargs got unknown options \['lrr'\]; expected some of .*'lr'"),
        ((None, {"num_worker": 1}, {}), r"datasplitter_kwargs got unknown options \['num_worker'\].*'num_workers'"),
        ((None, None, {"max_epoch": 1, "a": 2}), r"train\(\) got unknown options \['a', 'max_epoch'\].*'precision'"),
        (({"module": 1}, None, {}), r"\['module'\]"),
    ],
)
def test_unknown_options_are_named_with_the_choices(arguments, message):
    with pytest.raises(TypeError, match=message):
        check_options(*arguments)


def model(trained=False, n_obs=10):
    indices = {"train_indices": np.arange(8), "validation_indices": np.array([8]), "test_indices": np.array([9])}
    return SimpleNamespace(
        _data_splitter_cls=TwoStreamSplitter, is_trained_=trained, adata=SimpleNamespace(n_obs=n_obs), **indices
    )


def test_new_model_has_no_split():
    assert saved_split(model(), None) is None


def test_trained_model_keeps_its_split():
    split = saved_split(model(trained=True), None)
    assert [part.tolist() for part in split] == [list(range(8)), [8], [9]]


def test_seed_of_a_checkpoint_else_a_new_one_from_torch(tmp_path):
    SealedCheckpoints().save_checkpoint({"hpvade": {"seed": 5}}, tmp_path / "a.ckpt")
    assert run_seed(tmp_path / "a.ckpt") == 5
    torch.manual_seed(1)
    expected = int(torch.randint(2**62, ()))
    torch.manual_seed(1)
    assert run_seed(None) == expected


def splitter(n_val):
    return SimpleNamespace(n_val=n_val)


OPTIONS = {"plan_kwargs": {}, "max_epochs": 1, "early_stopping": True, "checkpoint_dir": None}


@pytest.mark.parametrize(
    ("n_val", "changes", "message"),
    [
        (0, {}, "early_stopping=True needs validation cells.*early_stopping=False"),
        (5, {"max_epochs": 0}, "max_epochs=0; expected a whole number of at least 1"),
        (5, {"max_epochs": -1}, "max_epochs=-1"),
    ],
)
def test_refused_before_the_model_is_touched(n_val, changes, message):
    touched = []
    with pytest.raises(ValueError, match=message):
        fit(model(), splitter(n_val), initialise=lambda: touched.append(1), **OPTIONS | changes)
    assert not touched
