"""Training options, refusals and draws that both regularised models share."""

import matplotlib
import numpy as np
import pytest
import torch

import hpvade as hp
from hpvade.models.ambient._face import fixed_draws

Model = hp.AmbientRegularizedSCVI
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_validation_has_its_own_batch_size(build, rna):
    sizes = {True: set(), False: set()}
    model = build(rna)
    forward = model.module.forward

    def watched(tensors, *args, **kwargs):
        sizes[model.module.training].add(len(tensors["X"]))
        return forward(tensors, *args, **kwargs)

    model.module.forward = watched
    model.train(1, train_size=0.5, batch_size=15, validation_batch_size=45, **QUIET)
    assert max(sizes[True]) == 15 and 45 in sizes[False]


def test_the_split_keeps_every_library_in_training(build, rna):
    model = build(rna, epochs=1, train={"train_size": 0.7})
    libraries = rna.obs["batch"].to_numpy()
    assert set(libraries[model.train_indices]) == set(libraries) == set(libraries[model.validation_indices])


def test_best_weights_are_kept_at_full_kl_weight(build, rna):
    model = build(rna, epochs=4, train={"plan_kwargs": {"n_epochs_kl_warmup": 4}})
    weight = model.history["kl_weight"]["kl_weight"].to_numpy()
    assert weight[0] < weight[-1]
    losses = model.history["validation_loss"]["validation_loss"]
    assert np.isfinite(losses).all()


def test_early_stopping_delta_is_per_feature(build, rna, monkeypatch):
    seen = {}
    from hpvade.models import _training

    monkeypatch.setattr(_training, "fit", lambda *args, **kwargs: seen.update(kwargs))
    build(rna).train(1, early_stopping=True, early_stopping_min_delta_per_feature=0.01, **QUIET)
    assert seen["early_stopping_min_delta"] == pytest.approx(0.01 * 40) and seen["early_stopping"]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"train_size": 1.0, "early_stopping": True}, ValueError, "early_stopping=True needs validation cells"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"train_size": 1.5}, ValueError, "train_size=1.5"),
        ({"plan_kwargs": {"lrr": 1}}, TypeError, r"plan_kwargs got unknown options \['lrr'\]"),
        ({"epochs": 3}, TypeError, r"unknown options \['epochs'\]"),
    ],
)
def test_bad_training_options(build, rna, kwargs, error, message):
    with pytest.raises(error, match=message):
        build(rna).train(1, **QUIET | kwargs)


def test_rv_27_non_finite_loss_names_the_term_and_keeps_weights_and_checkpoints(build, rna, weights, tmp_path):
    model = build(rna)
    model.train(1, checkpoint_dir=tmp_path, **QUIET)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    model.module.px_r_mu.data[0, 0] = float("nan")
    before = weights(model)
    with pytest.raises(RuntimeError, match="Loss term '.*' is not finite at step 0"):
        model.train(1, **QUIET)
    assert all(
        torch.equal(a.nan_to_num(), b.nan_to_num())
        for a, b in zip(before.values(), weights(model).values(), strict=True)
    )
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


def test_training_resumes_from_a_checkpoint(build, rna, tmp_path):
    model = build(rna)
    model.train(2, checkpoint_dir=tmp_path, **QUIET)
    split = model.train_indices
    model.train(4, ckpt_path=tmp_path / "last.ckpt", **QUIET)
    assert len(model.history["train_loss"]) == 4
    np.testing.assert_array_equal(model.train_indices, split)


def test_rv_06_minification_is_refused_with_its_reason(single, multi):
    for which in (single, multi):
        with pytest.raises(ValueError, match="need an observed library size"):
            which.model.minify_adata()


def test_training_diagnostics(single, build, rna):
    figure = single.model.plot_training_diagnostics(skip_epochs=1)
    assert isinstance(figure, matplotlib.figure.Figure)
    assert min(figure.axes[0].lines[0].get_xdata()) == 1
    with pytest.raises(ValueError, match="The history is empty. Train the model"):
        build(rna).plot_training_diagnostics()


def test_fixed_draws_leave_the_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with fixed_draws():
        first = torch.rand(2)
    with fixed_draws():
        assert torch.equal(first, torch.rand(2))
    assert torch.equal(torch.rand(2), expected)


def test_without_data_the_error_is_clear(single, tmp_path):
    single.model.save(tmp_path / "m")
    model = Model.load(tmp_path / "m", adata=False)
    for name in ("train", "get_ambient_fraction", "get_clean_reference", "get_normalized_expression"):
        with pytest.raises(ValueError, match="without data|no AnnData"):
            getattr(model, name)()
