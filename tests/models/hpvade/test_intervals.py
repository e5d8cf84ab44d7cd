"""Intervals: coverage on planted truth, what makes them wide, what refuses."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import torch

import hpvade as hp
from hpvade.models.hpvade._estimate import PRIOR_WEIGHT
from hpvade.models.hpvade._intervals import _draw, _scale, reference_uncertainty
from hpvade.reference._folds import Fold


def width(table):
    return (table.xs("upper", axis=1, level="bound") - table.xs("lower", axis=1, level="bound")).to_numpy()


def inside(table, truth):
    lower, upper = (table.xs(bound, axis=1, level="bound")[truth.columns] for bound in ("lower", "upper"))
    return float(((truth >= lower - 1e-9) & (truth <= upper + 1e-9)).to_numpy().mean())


def test_hp16_intervals_of_simulated_bulk_cover_the_truth(planted, fit):
    """Mixtures of donors left out in turn, no platform noise: 90 % intervals hold 80 to 98 % of the truth."""
    reference, _ = planted()
    donors = reference.obs["donor"].astype(str)
    covered = []
    for donor in donors.unique():  # not the validation donors: their cells are in the signature
        model = fit(reference[donors != donor].copy(), 2)
        held_out = hp.pp.simulate_bulk(reference[donors == donor].copy(), "cell_type", 60, sample_key="donor", seed=3)
        covered.append(inside(model.get_proportion_intervals(held_out), held_out.obsm["proportions"]))
    assert 0.8 <= np.mean(covered) <= 0.98


def test_scale_and_sizes_are_those_of_the_folds(trained):
    """Fractions that lie c_k intervals beside the fold's estimates give the scale c_k; sizes their root mean square."""
    module = trained.model.module
    c = torch.tensor([0.6, 0.8, 3.0, 0.7]).double()
    size = np.array([[0.3, -0.1, -0.1, -0.1], [-0.1, -0.1, 0.3, -0.1]])
    bulk = torch.from_numpy(trained.bulk.X[:10].astype(np.float32))
    shares, present = bulk / bulk.sum(dim=1, keepdim=True), torch.ones(bulk.shape[1], dtype=torch.bool)
    depth = 1 / torch.where(shares > 0, shares, 1.0).amin(dim=1)
    equal = module.cells_to_rna(torch.ones(10, 4), module.mean_counts.sum(dim=0))
    _, fit = module.refine(shares, present, depth, equal, anchor_weight=PRIOR_WEIGHT, covariance=True)
    centre = torch.eye(4).double() - fit.rna_proportions.double()[:, :, None]
    sd = torch.diagonal(centre @ fit.covariance @ centre.transpose(1, 2), dim1=1, dim2=2).sqrt()
    truth = (fit.rna_proportions + 1.645 * c * sd).detach()
    mean_counts = module.mean_counts.double().numpy()
    judged = np.array([True, True, True, False])
    folds = [Fold(bulk.clone(), truth, mean_counts, judged, np.where(judged, row, np.nan) + 1) for row in size]
    scale, size_sd, recovery = reference_uncertainty(module, folds)
    # the pooled 0.9 quantile of 0.6, 0.8, 3 in equal parts is 3; types of their own are not below it
    np.testing.assert_allclose(scale, 3.0, rtol=1e-3)
    scale, *_ = reference_uncertainty(module, folds, level=0.5)
    np.testing.assert_allclose(scale, [0.8, 0.8, 3.0, 0.8], rtol=1e-3)
    known = size[:, :3] - size[:, :3].mean(axis=1, keepdims=True)
    expected = np.sqrt((known**2).mean(axis=0))
    np.testing.assert_allclose(size_sd, [*expected, expected.mean()], rtol=1e-6)
    found = (fit.rna_proportions.double().sum(dim=0) / truth.double().sum(dim=0)).numpy()
    np.testing.assert_allclose(recovery, [*found[:3], 1.0], rtol=1e-5)  # 1 where nothing is known


def test_a_type_of_few_cells_errs_more(planted, fit):
    """Of the same donors, a type with one in forty of the cells has a larger scale and wider intervals."""
    reference, bulk = planted(n_cells=800)
    kind = reference.obs["cell_type"] == "type_1"
    few = np.random.default_rng(0).permutation(np.flatnonzero(kind))[8:]
    rare = reference[np.setdiff1d(np.arange(reference.n_obs), few)].copy()
    both, one = (fit(adata, 2).module for adata in (reference, rare))
    k = 1
    assert one.interval_scale[k] > 1.3 * both.interval_scale[k]
    assert one.interval_scale[k] == one.interval_scale.max()


def test_table_holds_the_estimate(trained):
    table = trained.model.get_proportion_intervals(trained.bulk, n_draws=400)
    assert table.columns.names == ["type", "bound"]
    assert list(table.columns.levels[1]) == ["lower", "median", "upper"]
    assert table.index.equals(trained.bulk.obs_names)
    assert ((table >= 0) & (table <= 1)).all(axis=None)
    assert (width(table) >= 0).all()
    estimate = trained.model.deconvolve(trained.bulk.copy())
    median = table.xs("median", axis=1, level="bound")[estimate.columns]
    assert float((median - estimate).abs().max(axis=None)) < 0.03


def test_same_seed_same_intervals_and_bulk_is_unchanged(trained, unchanged):
    with unchanged(trained.bulk):
        first = trained.model.get_proportion_intervals(trained.bulk, seed=5)
    pd.testing.assert_frame_equal(first, trained.model.get_proportion_intervals(trained.bulk, seed=5))
    assert not first.equals(trained.model.get_proportion_intervals(trained.bulk, seed=6))


def test_a_higher_level_is_wider(trained):
    half, most = (trained.model.get_proportion_intervals(trained.bulk, level=level) for level in (0.5, 0.95))
    assert (width(most) >= width(half)).all()
    assert width(most).mean() > 1.5 * width(half).mean()


def test_few_reads_make_intervals_wide(trained):
    rng = np.random.default_rng(0)
    deep = trained.bulk.copy()
    widths = []
    for reads in (1e3, 1e4, 1e6):
        shallow = deep.copy()
        share = np.asarray(deep.X) / np.asarray(deep.X).sum(axis=1, keepdims=True)
        shallow.X = rng.poisson(reads * share).astype(np.float32)
        widths.append(width(trained.model.get_proportion_intervals(shallow)).mean())
    assert widths[0] > 1.3 * widths[1] > 1.3 * widths[2]


def test_similar_types_have_wide_intervals(planted, fit):
    reference, bulk = planted(similar=0.9)
    model = fit(reference, 2)
    profiles = np.log(model.get_signature_matrix(normalize="cpm") + 10)
    correlation = np.corrcoef(profiles.to_numpy().T) - np.eye(4)
    pair = sorted(np.unravel_index(correlation.argmax(), correlation.shape))
    others = [k for k in range(4) if k not in pair]
    widths = width(model.get_proportion_intervals(bulk, fractions="rna")).mean(axis=0)
    assert widths[pair].mean() > 1.5 * widths[others].mean()


def test_calibration_takes_the_published_sizes_uncertainty_away(trained, monkeypatch):
    """On another platform the intervals are narrower once the level is measured there; those of RNA are the same."""
    rng, module = np.random.default_rng(0), trained.model.module
    other = trained.bulk.copy()
    other.X = (np.asarray(other.X) * np.exp(rng.standard_normal(other.n_vars))).astype(np.float32)

    def both():
        return {f: trained.model.get_proportion_intervals(other, fractions=f) for f in ("cell", "rna")}

    scale = module.interval_scale.clone()
    try:
        before = both()
        module.size_offset[0] = 1e-9  # a calibration that found next to nothing
        after = both()
        np.testing.assert_allclose(after["rna"], before["rna"])
        assert width(after["cell"]).mean() < width(before["cell"]).mean()
        # without the regression's own spread, what is left is that of the sizes: of the folds against 0.25
        monkeypatch.setattr("hpvade.models.hpvade._intervals.SCALE_OTHER", 0.0)
        module.interval_scale.zero_()
        sized = width(both()["cell"]).mean()
        module.size_offset.zero_()
        assert sized / width(both()["cell"]).mean() == pytest.approx(float(module.size_sd.mean()) / 0.25, rel=0.3)
    finally:
        module.size_offset.zero_()
        module.interval_scale.copy_(scale)


def test_groups_are_narrower_than_the_sum_of_their_types_and_close_to_one(trained):
    a, b, *rest = trained.model.cell_types
    together = trained.model.get_proportion_intervals(trained.bulk, mapping={a: "ab", b: "ab"} | {t: t for t in rest})
    single = trained.model.get_proportion_intervals(trained.bulk)
    assert list(dict.fromkeys(together.columns.get_level_values(0))) == ["ab", *rest]
    widths = pd.DataFrame(width(single), columns=trained.model.cell_types)
    assert (width(together)[:, 0] < widths[[a, b]].sum(axis=1)).all()
    alone = trained.model.get_proportion_intervals(trained.bulk, mapping={a: "x", b: "x"})
    np.testing.assert_allclose(alone, 1)


def test_rna_fractions_do_not_depend_on_cell_sizes(trained):
    cell, rna = (trained.model.get_proportion_intervals(trained.bulk, fractions=f) for f in ("cell", "rna"))
    assert width(rna).mean() < width(cell).mean()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"level": 1.0}, ValueError, "between 0 and 1"),
        ({"level": "0.9"}, ValueError, "between 0 and 1"),
        ({"n_draws": 5}, ValueError, "at least 20"),
        ({"n_draws": 100.5}, ValueError, "whole number of at least 20"),
        ({"fractions": "mass"}, ValueError, "expected 'cell' or 'rna'"),
        ({"mapping": {"nobody": "x"}}, KeyError, "nobody"),
        ({"mapping": {"T": ["type_0", "type_1"]}}, TypeError, "expected the name of a group for each type"),
        ({"mapping": ["type_0"]}, TypeError, "expected the name of a group for each type"),
    ],
)
def test_bad_arguments(trained, unchanged, change, error, match):
    with unchanged(trained.bulk), pytest.raises(error, match=match):
        trained.model.get_proportion_intervals(trained.bulk, **change)


def test_the_literal_network_has_no_intervals(literal):
    with pytest.raises(NotImplementedError, match="preset='default'"):
        literal.model.get_proportion_intervals(literal.bulk)


def test_untrained_model(planted):
    reference, bulk = planted()
    hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
    with pytest.raises(RuntimeError, match="train"):
        hp.HPVADE(reference).get_proportion_intervals(bulk)


def test_scale_of_several_studies_counts_the_differences_of_donors_once():
    same = torch.tensor([3.0, 0.5])
    np.testing.assert_allclose(_scale(same, 1, 1.0), [3.0, 2.0])  # the larger one
    np.testing.assert_allclose(_scale(same, 1, 0.0), same)
    np.testing.assert_allclose(_scale(same, 3, 0.0), same)
    np.testing.assert_allclose(_scale(same, 3, 1.0), [1.0, 1.0])  # their spread is drawn instead
    np.testing.assert_allclose(_scale(same, 3, 0.5), [2.0, 0.75])


def test_draws_need_no_more_memory_than_they_fill():
    """Each draw is the estimate plus scale x root of the covariance x noise; no copy of a root for every draw."""
    rng = np.random.default_rng(0)
    n, n_types, n_draws = 6, 40, 50
    half = rng.normal(size=(n, n_types, n_types)) / 100
    covariance, noise = half @ half.transpose(0, 2, 1), rng.normal(size=(n_draws, n, n_types))
    rna, scale = rng.dirichlet(np.full(n_types, 5.0), n), rng.uniform(1, 2, n_types)
    fit = SimpleNamespace(fit=SimpleNamespace(rna_proportions=torch.from_numpy(rna)))
    tensors = (torch.from_numpy(x) for x in (covariance, np.ones((n_draws, n_types))))
    with torch.profiler.profile(profile_memory=True) as profile:
        drawn = _draw(fit, torch.arange(n), *tensors, "rna", torch.from_numpy(scale), torch.from_numpy(noise))
    assert max(event.cpu_memory_usage for event in profile.events()) <= 1.1 * noise.nbytes
    roots = [scipy.linalg.sqrtm(matrix).real for matrix in covariance]
    moved = np.stack([noise[:, k] @ roots[k].T * scale for k in range(n)], axis=1)
    expected = (rna + moved).clip(min=0)
    np.testing.assert_allclose(drawn, expected / expected.sum(axis=-1, keepdims=True), atol=1e-8)


def test_absent_types_do_not_push_the_one_that_is_there_out_of_its_interval(planted, fit):
    """Nine tenths of one type among eight: its interval reaches as far above as below, or to one."""
    reference, _ = planted(n_types=8, n_genes=600, n_cells=1600)
    model = fit(reference, 0)
    rng, profiles = np.random.default_rng(0), model.get_signature_matrix()
    p = np.hstack([np.full((20, 1), 9.0), rng.dirichlet(np.ones(7), 20)]) / 10
    mean = p @ profiles.to_numpy().T * rng.lognormal(0, 0.8, len(profiles))
    counts = rng.poisson(1e6 * mean / mean.sum(axis=1, keepdims=True)).astype(float)
    bulk = pd.DataFrame(counts, [f"s{i}" for i in range(20)], profiles.index)
    kind = profiles.columns[0]
    table = model.get_proportion_intervals(bulk)[kind]
    estimate = model.deconvolve(bulk)[kind]
    assert ((table["lower"] < estimate) & (estimate < table["upper"])).all()
    below, above, left = (estimate - table["lower"]).mean(), (table["upper"] - estimate).mean(), (1 - estimate).mean()
    assert above > 0.8 * min(below, left)  # half of it as the draws lie
