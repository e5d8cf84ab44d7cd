"""Limits of detection and spillover of the trained model, against planted similarity and closed forms."""

import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp
from hpvade.models.hpvade._detection import _without, matching_noise, simulated_estimate
from hpvade.models.hpvade._estimate import estimate
from hpvade.simulate import PlatformNoise

QUIET = PlatformNoise(platform_sd=(0, 0), type_sd=0, size_sd=0, sample_sd=0, dispersion=(1e-6, 1e-6))


@pytest.fixture(scope="module")
def limits(trained):
    return trained.model.get_detection_limits(n_spikes=20)


def test_without_noise_the_simulation_is_the_mixture(trained):
    """Expected expression is the mean counts of the reference at the fractions asked for, and they are found again."""
    model = trained.model
    cells = np.random.default_rng(0).dirichlet(np.ones(4), 10)
    found = simulated_estimate(model, cells, np.random.default_rng(0), noise=QUIET)
    mixture = cells @ model.module.mean_counts.numpy().T
    # 100,000 cells have compositions to 0.0016, and 5 million reads shares of 0.05 to 1e-4
    np.testing.assert_allclose(found.shares, mixture / mixture.sum(axis=1, keepdims=True), atol=2e-3)
    np.testing.assert_allclose(found.cells, cells, atol=0.06)


def test_limits_are_spikes_that_stand_out(limits, trained):
    assert list(limits.index) == trained.model.cell_types and limits.index.name == "type"
    assert list(limits) == ["limit", "blank_median", "blank_upper"]
    assert limits["limit"].between(0.001, 0.5).all()
    assert (limits["blank_median"] <= limits["blank_upper"]).all()
    assert (limits["limit"] > 0.2 * limits["blank_upper"]).all()


def test_limit_against_a_direct_count(trained):
    """The definition, spelled out for one type from the same draws."""
    model, shares, n = trained.model, np.array([0.05, 0.4]), 6
    found = model.get_detection_limits(spikes=[0.4, 0.05], n_spikes=n, level=0.9, seed=3)
    rng, estimates = np.random.default_rng(3), {level: [] for level in (0.0, *shares)}
    composition = model.module.composition.double().numpy()
    from hpvade.simulate import sample_proportions

    for _ in range(n):
        background = sample_proportions(12, 4, rng, reference=composition, prior={"reference": 1.0}).copy()
        rows = []
        for at, row in enumerate(background):
            kind, level = at // 3, (0.0, *shares)[at % 3]
            row[kind] = 0
            row = row / row.sum() * (1 - level)
            row[kind] = level
            rows.append(row)
        cells = simulated_estimate(model, np.array(rows), rng).cells.double().numpy()
        cells /= cells.sum(axis=1, keepdims=True)
        for level, at in zip((0.0, *shares), range(3), strict=True):
            estimates[level].append(cells[at, 0])
    blank = np.quantile(estimates[0.0], 0.95)
    detected = [share for share in shares if np.quantile(estimates[share], 0.05) > blank]
    expected = np.nan
    if shares[1] in detected:
        expected = shares[0] if shares[0] in detected else shares[1]
    assert found["blank_upper"].iloc[0] == pytest.approx(blank, abs=1e-6)
    assert found["limit"].iloc[0] == pytest.approx(expected, nan_ok=True)


def test_same_seed_same_limits(trained):
    options = {"spikes": [0.05, 0.2], "n_spikes": 3}
    first, again, other = (trained.model.get_detection_limits(**options, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not np.allclose(first["blank_upper"], other["blank_upper"])


def test_similar_types_are_seen_later(trained, planted, fit):
    """The last two types are nearly one: beside the same cohort with distinct types, both need larger spikes."""
    reference, _ = planted(similar=0.95)
    model = fit(reference, 2)
    distinct, similar = (m.get_detection_limits(n_spikes=15)["limit"].fillna(1.0) for m in (trained.model, model))
    pair = ["type_2", "type_3"]
    assert similar[pair].sum() > 1.5 * distinct[pair].sum()
    distinct, similar = (m.get_spillover(n_cohorts=4).loc[pair, pair].to_numpy() for m in (trained.model, model))
    assert similar[0, 1] + similar[1, 0] > 2 * (distinct[0, 1] + distinct[1, 0])


def test_spillover_is_a_table_of_mean_estimates(trained):
    spill = trained.model.get_spillover(n_cohorts=5)
    assert list(spill.index) == list(spill.columns) == trained.model.cell_types
    np.testing.assert_allclose(spill.sum(axis=1), 1)
    assert (spill >= 0).all(axis=None)
    assert (np.diag(spill) > 0.85).all()


def test_without_a_type_the_others_keep_their_ratios():
    cells = np.array([[[0.2, 0.3, 0.5], [1.0, 0, 0]], [[0.2, 0.3, 0.5], [0, 1.0, 0]]])
    expected = [[[0, 0.375, 0.625], [0, 0.5, 0.5]], [[2 / 7, 0, 5 / 7], [0.5, 0, 0.5]]]
    np.testing.assert_allclose(_without(cells, np.array([0, 1])), expected)


def test_conditions_of_the_bulk(trained, unchanged):
    """Genes, depth and platform distance of the bulk: pseudo-cohorts measure the same distance again."""
    model, bulk = trained.model, trained.bulk
    factor = np.exp(0.7 * np.random.default_rng(0).standard_normal(bulk.n_vars))
    far = bulk.copy()
    far.X = np.rint(far.X * factor)
    found = estimate(model, far)
    noise = matching_noise(found)
    assert noise.depth == (float(found.depth.min()), float(found.depth.max()))
    rng = np.random.default_rng(0)
    cells = found.cells.double().numpy()
    cells /= cells.sum(axis=1, keepdims=True)
    again = [simulated_estimate(model, cells, rng, noise=noise).platform_distance for _ in range(5)]
    assert np.mean(again) == pytest.approx(found.platform_distance, rel=0.25)
    with unchanged(far):
        at_hand = model.get_detection_limits(far, n_spikes=4, spikes=[0.1, 0.3])
    assert at_hand.index.tolist() == model.cell_types


def test_a_loaded_model_needs_no_cells(saved, trained):
    loaded = hp.HPVADE.load(saved, adata=False)
    options = {"spikes": [0.1], "n_spikes": 2}
    pd.testing.assert_frame_equal(loaded.get_detection_limits(**options), trained.model.get_detection_limits(**options))


def test_torch_s_generator_is_left_alone(trained):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    trained.model.get_spillover(n_cohorts=1)
    assert torch.equal(before, torch.get_rng_state())


def test_the_network_alone_has_limits_too(literal):
    spill = literal.model.get_spillover(n_cohorts=2)
    np.testing.assert_allclose(spill.sum(axis=1), 1)
    found = literal.model.get_detection_limits(literal.bulk, n_spikes=2, spikes=[0.5])
    assert np.isfinite(found["blank_upper"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 1.0}, r"level=1.0; expected a number between 0 and 1"),
        ({"spikes": []}, r"spikes=\[\]; expected fractions"),
        ({"spikes": [0.0, 0.1]}, "expected fractions between 0 and 1"),
        ({"n_spikes": 0}, "n_spikes=0; expected a whole number"),
        ({"layer": "tpm"}, "layer says how to read bulk, but none was given"),
    ],
)
def test_hp26_bad_options(trained, options, message):
    with pytest.raises(ValueError, match=message):
        trained.model.get_detection_limits(**options)


def test_hp26_untrained_and_bad_bulk(planted, trained, unchanged):
    reference, bulk = planted()
    hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
    model = hp.HPVADE(reference)
    for method in (model.get_detection_limits, model.get_spillover):
        with pytest.raises(RuntimeError, match="needs a trained model"):
            method()
    bulk.X[0, 0] = -1
    with unchanged(bulk), pytest.raises(ValueError, match="negative"):
        trained.model.get_detection_limits(bulk)
    with pytest.raises(ValueError, match="n_cohorts=0"):
        trained.model.get_spillover(n_cohorts=0)
