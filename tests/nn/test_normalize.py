"""Standardisation against NumPy."""

import numpy as np
import pytest
import torch

from hpvade.nn._normalize import Standardizer, log1p_cp10k

x = np.random.default_rng(0).lognormal(0, 2, (30, 12)).astype(np.float32)
present = np.arange(12) % 4 != 0


def reference(x, scale_free, present=None):
    """Transform before the statistics, in float64; NaN for absent genes."""
    x = x.astype(float) * (1 if present is None else present)
    t = np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))
    if scale_free:
        seen = t if present is None else t[:, present]
        t = (t - seen.mean(axis=1, keepdims=True)) / seen.std(axis=1, keepdims=True)
    return t


def fitted(scale_free):
    module = Standardizer(12, scale_free=scale_free)
    module.fit(torch.from_numpy(x))
    return module


def test_log1p_cp10k():
    np.testing.assert_allclose(log1p_cp10k(torch.from_numpy(x)), reference(x, False), rtol=1e-5)
    np.testing.assert_array_equal(log1p_cp10k(torch.zeros(1, 12)), np.zeros((1, 12)))


@pytest.mark.parametrize("scale_free", [True, False])
@pytest.mark.parametrize("mask", [None, present])
def test_equals_numpy(scale_free, mask):
    module, training = fitted(scale_free), reference(x, scale_free)
    np.testing.assert_allclose(module.mean, training.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(module.std, training.std(axis=0), rtol=1e-4)
    new = np.random.default_rng(1).lognormal(0, 2, (5, 12)).astype(np.float32)
    expected = np.clip((reference(new, scale_free, mask) - training.mean(axis=0)) / training.std(axis=0), -6, 6)
    expected = expected if mask is None else expected * mask
    found = module(torch.from_numpy(new), None if mask is None else torch.from_numpy(mask))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_training_data_has_mean_zero_and_deviation_one():
    z = fitted(False)(torch.from_numpy(x))
    np.testing.assert_allclose(z.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(dim=0, correction=0), 1, rtol=1e-4)


@pytest.mark.parametrize("scale_free", [True, False])
def test_hp07_any_positive_factor_per_sample_changes_nothing(scale_free):
    factor = np.random.default_rng(2).lognormal(0, 5, (30, 1)).astype(np.float32)
    module = fitted(scale_free)
    np.testing.assert_allclose(module(torch.from_numpy(x * factor)), module(torch.from_numpy(x)), atol=1e-4)


def test_scale_free_removes_the_dynamic_range_of_a_platform():
    wide = torch.from_numpy(np.random.default_rng(3).uniform(100, 2000, (4, 12)))
    np.testing.assert_allclose(fitted(True)(wide**0.7), fitted(True)(wide), atol=0.01)
    assert (fitted(False)(wide**0.7) - fitted(False)(wide)).abs().max() > 0.1


@pytest.mark.parametrize("scale_free", [True, False])
def test_missing_genes_are_zero_and_their_values_do_not_matter(scale_free):
    module, mask = fitted(scale_free), torch.from_numpy(present)
    other = x.copy()
    other[:, ~present] = 1e6
    z = module(torch.from_numpy(x), mask)
    np.testing.assert_array_equal(z[:, ~present], 0)
    np.testing.assert_array_equal(module(torch.from_numpy(other), mask), z)


def test_clip_and_least_deviation():
    module = fitted(False)
    module.mean.zero_()
    module.std.fill_(0.01)
    assert module(torch.from_numpy(x)).max() == 6
    constant = torch.ones(4, 12)
    module.fit(constant)
    np.testing.assert_allclose(module.std, 0.01)
    np.testing.assert_allclose(module(constant), 0, atol=1e-3)


def test_empty_samples_stay_finite():
    assert torch.isfinite(fitted(True)(torch.zeros(2, 12))).all()


@pytest.mark.parametrize("scale_free", [True, False])
def test_no_gene_present_is_zero_everywhere(scale_free):
    layer = Standardizer(3, scale_free=scale_free)
    assert torch.equal(layer(torch.ones(2, 3), torch.zeros(3)), torch.zeros(2, 3))


def test_statistics_are_part_of_the_state_dict():
    module = fitted(True)
    assert set(module.state_dict()) == {"mean", "std"}
    assert not list(module.parameters())
    copy = Standardizer(12, scale_free=True)
    copy.load_state_dict(module.state_dict())
    assert torch.equal(copy(torch.from_numpy(x)), module(torch.from_numpy(x)))
