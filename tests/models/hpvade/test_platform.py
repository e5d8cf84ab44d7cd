"""A platform's gene factor, stored with the model."""

import numpy as np
import pandas as pd
import pytest

import hpvade as hp

KEY = "hpvade_proportions"


@pytest.fixture(scope="module")
def model(planted, fit):
    """Model without networks; do not change what it stores but by `fit_platform`."""
    return fit(planted()[0], 0)


@pytest.fixture(scope="module")
def cohorts(planted):
    """Two cohorts of one planted platform, 30 samples and 12, and the log factor of each gene."""
    _, bulk = planted(n_samples=42)
    factor = np.random.default_rng(3).normal(0, 0.8, bulk.n_vars)
    bulk.X = (np.asarray(bulk.X) * np.exp(factor)).astype(np.float32)
    return bulk[:30].copy(), bulk[30:].copy(), factor


def rmse(table, bulk):
    return float(np.sqrt(np.square(table - bulk.obsm["proportions"][table.columns]).to_numpy().mean()))


def test_the_planted_factor_is_found_and_kept(model, cohorts, tmp_path):
    table = model.fit_platform(cohorts[0])
    known = table["gene_factor"].notna()
    assert list(table.index) == list(cohorts[0].var_names) and known.mean() > 0.5
    assert np.corrcoef(table["gene_factor"][known], cohorts[2][known])[0, 1] > 0.9
    model.save(tmp_path / "model", save_anndata=False)
    loaded = hp.HPVADE.load(tmp_path / "model", adata=False, accelerator="cpu")
    first, second = (m.deconvolve(cohorts[1].copy(), gene_factor="stored") for m in (model, loaded))
    np.testing.assert_array_equal(first, second)


def test_single_samples_gain_from_it(model, cohorts):
    """Sample by sample: without a factor, with the stored one, and the whole cohort at once."""
    model.fit_platform(cohorts[0])
    other = cohorts[1]
    answers = {"alone": [], "stored": []}
    for i in range(other.n_obs):
        one = other[i].copy()
        answers["alone"].append(model.deconvolve(one).iloc[0])
        answers["stored"].append(model.deconvolve(one, gene_factor="stored").iloc[0])
    error = {name: rmse(pd.DataFrame(rows), other) for name, rows in answers.items()}
    assert error["stored"] < 0.75 * error["alone"]
    assert error["stored"] < 1.5 * rmse(model.deconvolve(other.copy()), other)


def test_a_sample_is_solved_alike_alone_and_among_others(model, cohorts):
    """With a stored factor nothing of the cohort enters a sample's answer but the platform distance."""
    model.fit_platform(cohorts[0])
    together = model.deconvolve(cohorts[1].copy(), gene_factor="stored", fractions="rna")
    alone = model.deconvolve(cohorts[1][2].copy(), gene_factor="stored", fractions="rna")
    np.testing.assert_allclose(alone.iloc[0], together.iloc[2], atol=1e-5)


def test_errors_say_what_is_missing(planted, fit, cohorts, literal):
    fresh = fit(planted()[0], 0)
    with pytest.raises(ValueError, match=r"none is stored. Call model.fit_platform\(cohort\) first"):
        fresh.deconvolve(cohorts[1].copy(), gene_factor="stored")
    with pytest.raises(ValueError, match="gene_factor='mine' is unknown; expected 'cohort' or 'stored'"):
        fresh.deconvolve(cohorts[1].copy(), gene_factor="mine")
    with pytest.raises(ValueError, match="found 3 samples, expected 6 or more"):
        fresh.fit_platform(cohorts[0][:3].copy())
    with pytest.raises(NotImplementedError, match="no gene factor"):
        literal.model.fit_platform(cohorts[0])
