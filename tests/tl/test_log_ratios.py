import numpy as np
import pandas as pd

from hpvade.tl._log_ratios import centred_log_ratios

OPTIONS = {"level": 0.9, "n_draws": 20_000, "seed": 0}


def frames(*values):
    return [pd.DataFrame(value, columns=["a", "b"]) for value in values]


def test_without_intervals_it_is_the_centred_log_ratio():
    (p,) = frames([[0.2, 0.8], [0.5, 0.5]])
    mean, variance, types = centred_log_ratios(p, None, None, **OPTIONS)
    log = np.log(p.to_numpy())
    np.testing.assert_allclose(mean, log - log.mean(axis=1, keepdims=True))
    assert not variance.any() and list(types) == ["a", "b"]


def test_without_intervals_a_zero_is_half_the_smallest():
    (p,) = frames([[0.0, 1.0], [0.02, 0.98]])
    mean, _, _ = centred_log_ratios(p, None, None, **OPTIONS)
    np.testing.assert_allclose(mean[0, 0], (np.log(0.01) - np.log(1.0)) / 2)


def test_a_zero_is_half_a_normal_as_wide_as_its_interval():
    sd = np.array([0.002, 0.05])
    p, low, high = frames([[0.0, 1.0]] * 2, [[0.0, 1.0]] * 2, np.column_stack([1.6448536 * sd, [1, 1]]))
    mean, variance, _ = centred_log_ratios(p, low, high, **OPTIONS)
    # log |N(0, sd^2)| has mean log sd - (gamma + log 2) / 2 and variance pi^2 / 8
    expected = np.log(sd) - (np.euler_gamma + np.log(2)) / 2
    np.testing.assert_allclose(mean[:, 0], expected / 2, atol=0.01)
    np.testing.assert_allclose(variance[:, 0], np.pi**2 / 32, rtol=0.03)


def test_a_narrow_interval_gives_the_relative_error_squared():
    p, low, high = frames([[0.4, 0.6]], [[0.4 - 0.0164, 0.6]], [[0.4 + 0.0164, 0.6]])
    mean, variance, _ = centred_log_ratios(p, low, high, **OPTIONS)
    np.testing.assert_allclose(mean[0, 0], np.log(0.4 / 0.6) / 2, atol=1e-3)
    np.testing.assert_allclose(np.sqrt(variance[0, 0]), 0.01 / 0.4 / 2, rtol=0.02)


def test_the_same_seed_gives_the_same_draws():
    p, low, high = frames([[0.0, 1.0]], [[0.0, 0.9]], [[0.1, 1.0]])
    first, second = (centred_log_ratios(p, low, high, level=0.9, n_draws=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])
    other = centred_log_ratios(p, low, high, level=0.9, n_draws=50, seed=4)
    assert (first[0] != other[0]).all()


def test_a_type_that_no_sample_has_is_left_out():
    p = pd.DataFrame({"a": [0.5, 0.6], "gone": [0.0, 0.0], "b": [0.5, 0.4]})
    mean, _, types = centred_log_ratios(p, None, None, **OPTIONS)
    assert list(types) == ["a", "b"] and mean.shape == (2, 2)


def test_a_certain_zero_beside_uncertain_ones():
    p, low, high = frames([[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0]] * 2, [[0.0, 1.0], [0.0164, 1.0]])
    mean, variance, _ = centred_log_ratios(p, low, high, **OPTIONS)
    assert np.isfinite(mean).all() and variance[0, 0] < 1e-20 < variance[1, 0]
