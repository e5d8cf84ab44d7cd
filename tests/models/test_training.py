"""The frame of training: its budget, and what it refuses before any work."""

import numpy as np
import pytest
import scvi

import hpvade as hp
from hpvade.models._training import Budget


@pytest.mark.parametrize(
    ("n_cells", "batch_size", "epochs"), [(1000, 100, 25), (1001, 100, 23), (10**6, 100, 10), (10, 100, 60)]
)
def test_a_budget_of_steps_becomes_epochs_within_bounds(n_cells, batch_size, epochs):
    # 250 steps in minibatches: 10 per epoch -> 25; 11 per epoch -> 22.7; then the bounds
    assert Budget(steps=250, least=10, most=60).epochs(n_cells, batch_size) == epochs


FAMILIES = {
    "ivae": lambda adata: (hp.IVAE.setup_anndata(adata), hp.IVAE(adata, n_hidden=8, n_latent=2))[1],
    "ambient": lambda adata: (
        hp.AmbientRegularizedSCVI.setup_anndata(adata, batch_key="tissue"),
        hp.AmbientRegularizedSCVI(adata, n_hidden=8, n_latent=2),
    )[1],
    "cvae": lambda adata: (
        hp.ConditionalVAE.setup_anndata(
            adata, "cell_type", perturbation_key="condition", control_category="condition_0"
        ),
        hp.ConditionalVAE(adata, n_latent=2, hidden_dims=(8,)),
    )[1],
}


@pytest.fixture(params=FAMILIES, scope="module")
def model(request):
    scvi.settings.seed = 0
    return FAMILIES[request.param](hp.datasets.planted_contexts(60, 20))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"no_such_option": 1}, TypeError, "no_such_option"),
        ({"plan_kwargs": {"no_such_option": 1}}, TypeError, "no_such_option"),
        ({"datasplitter_kwargs": {"no_such_option": 1}}, TypeError, "no_such_option"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"train_size": 1.5}, ValueError, "train_size"),
        ({"max_epochs": 0}, ValueError, "max_epochs"),
    ],
)
def test_bad_options_leave_the_model_as_it_was(model, options, error, match):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(error, match=match):
        model.train(**{"accelerator": "cpu"} | options)
    assert not model.is_trained_
    assert all(value.equal(before[name]) for name, value in model.module.state_dict().items())


def test_all_cells_may_train(model):
    model.train(max_epochs=1, train_size=1.0, early_stopping=False, accelerator="cpu", enable_progress_bar=False)
    np.testing.assert_array_equal(model.train_indices, np.arange(60))
    assert "train_loss" in model.history and "validation_loss" not in model.history
