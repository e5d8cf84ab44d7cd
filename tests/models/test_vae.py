"""scvi's methods for autoencoders: those that work, and what those that do not say."""

import numpy as np
import pytest
from tiny_model import Tiny, TinyModule, trained_tiny


@pytest.fixture(scope="module")
def model():
    return trained_tiny()


def test_methods_that_cannot_work_name_another(model):
    for call, alternative in (
        (lambda: Tiny.convert_legacy_save("a", "b"), "model.save"),
        (model.get_aggregated_posterior, "get_latent_representation"),
        (lambda: model.differential_abundance(sample_key="type"), "get_latent_representation"),
        (model.get_marginal_ll, "get_elbo"),
    ):
        with pytest.raises(NotImplementedError, match=alternative):
            call()
    assert np.isfinite(float(model.get_elbo()))


def test_marginal_ll_where_the_module_has_it(model, monkeypatch):
    monkeypatch.setattr(TinyModule, "marginal_ll", lambda self, tensors, **kwargs: 2.0, raising=False)
    assert model.get_marginal_ll() == 2.0
