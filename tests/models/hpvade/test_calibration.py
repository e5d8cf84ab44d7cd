"""Few-shot calibration: the offsets, their leave-one-out error, what deconvolve makes of them, bad input."""

import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp
from hpvade.models.hpvade._calibration import FLOOR, PENALTIES, fit_offsets, log_ratios

KEY = "hpvade_proportions"
FACTOR = np.array([2.0, 1.0, 0.5, 1.0])  # what is measured over what is predicted


def closed(x):
    """Rows scaled to sum to one, of an array or a table."""
    total = np.asarray(x).sum(axis=-1, keepdims=True)
    return x / total


def cohort(n=12, noise=0.1, seed=0, factor=FACTOR):
    """Predicted and measured fractions that differ by a factor per type and noise."""
    rng = np.random.default_rng(seed)
    predicted = rng.dirichlet(5 * np.ones(len(factor)), n)
    return predicted, closed(predicted * factor * np.exp(noise * rng.standard_normal(predicted.shape)))


# ---------------------------------------------------------------- the offsets


def test_offsets_are_ridge_regression():
    """The same as least squares on one indicator per column with the penalty as additional rows."""
    predicted, truth = cohort()
    fitted = fit_offsets(predicted, truth)
    ratio = log_ratios(predicted, truth)
    n, k = ratio.shape
    design = np.vstack([np.tile(np.eye(k), (n, 1)), np.sqrt(fitted.penalty) * np.eye(k)])
    expected = np.linalg.lstsq(design, np.concatenate([ratio.ravel(), np.zeros(k)]), rcond=None)[0]
    np.testing.assert_allclose(fitted.offset, expected, atol=1e-10)
    np.testing.assert_allclose(ratio.sum(axis=1), 0, atol=1e-12)


def test_planted_factors_are_found_and_repair_the_answer():
    predicted, truth = cohort(60, noise=0.02)
    fitted = fit_offsets(predicted, truth)
    expected = np.log(FACTOR) - np.log(FACTOR).mean()
    np.testing.assert_allclose(fitted.offset, expected, atol=0.06)  # the floor draws small fractions in
    assert np.abs(closed(predicted * np.exp(fitted.offset)) - truth).max() < 0.03


def test_leave_one_out_never_sees_the_sample():
    """Against plain loops; the penalty is chosen anew without the sample, too."""
    predicted, truth = cohort(7, noise=0.6, seed=3)

    def offset(rows, penalty):
        d = [np.log((truth[i] + FLOOR) / (predicted[i] + FLOOR)) for i in rows]
        return sum(x - x.mean() for x in d) / (len(rows) + penalty)

    def choose(rows):
        def error(penalty):
            left_out = [(i, [j for j in rows if j != i]) for i in rows]
            return sum(((closed(predicted[i] * np.exp(offset(o, penalty))) - truth[i]) ** 2).sum() for i, o in left_out)

        return min(PENALTIES[::-1], key=error)

    fitted = fit_offsets(predicted, truth)
    everyone = list(range(7))
    assert fitted.penalty == choose(everyone)
    for i in everyone:
        others = [j for j in everyone if j != i]
        expected = closed(predicted[i] * np.exp(offset(others, choose(others))))
        np.testing.assert_allclose(fitted.after[i], expected, rtol=1e-9)
    changed = truth.copy()
    changed[0] = closed(np.array([9.0, 1, 1, 1]))
    np.testing.assert_array_equal(fit_offsets(predicted, changed).after[0], fitted.after[0])


def test_noise_without_a_factor_is_shrunk():
    """Where nothing is wrong on average, the largest penalties win."""
    penalties = [fit_offsets(*cohort(8, 0.8, seed, np.ones(4))).penalty for seed in range(20)]
    consistent = [fit_offsets(*cohort(8, 0.1, seed)).penalty for seed in range(20)]
    assert np.median(penalties) >= 8 and max(consistent) <= 1


def test_fractions_of_zero_give_finite_offsets():
    predicted, truth = cohort(6)
    predicted[0], truth[1] = [1, 0, 0, 0], [0, 0, 0, 1]
    assert np.isfinite(fit_offsets(predicted, truth).offset).all()


# ---------------------------------------------------------------- the model


@pytest.fixture
def model(saved):
    """A copy of the trained model that a test may change."""
    return hp.HPVADE.load(saved, adata=False)


@pytest.fixture
def bulk(trained):
    """Bulk with a "measured" composition: the model's own answer with other levels."""
    bulk = trained.bulk.copy()
    answer = trained.model.deconvolve(bulk.copy())
    noise = np.exp(0.03 * np.random.default_rng(0).standard_normal(answer.shape))
    bulk.obsm["measured"] = pd.DataFrame(closed(answer * FACTOR * noise), answer.index, answer.columns)
    return bulk


def rmse(a, b):
    return float(np.sqrt(np.mean((np.asarray(a) - np.asarray(b)) ** 2)))


def test_few_samples_repair_the_others(model, bulk, unchanged):
    measured = bulk.obsm["measured"]
    before = model.deconvolve(bulk.copy())
    with unchanged(bulk):
        report = model.calibrate(bulk, measured.iloc[[8, 1, 5, 3, 6]])
    after = model.deconvolve(bulk)
    others = [i for i in range(12) if i not in (8, 1, 5, 3, 6)]
    assert rmse(after.iloc[others], measured.iloc[others]) < 0.3 * rmse(before.iloc[others], measured.iloc[others])
    assert list(report.index) == [*model.cell_types, "all"]
    assert report.loc["all", "rmse_after"] < 0.3 * report.loc["all", "rmse_before"]
    used = before.iloc[[1, 3, 5, 6, 8]]
    assert report.loc["all", "rmse_before"] == pytest.approx(rmse(used, measured.loc[used.index]), rel=1e-5)
    assert report.attrs["n_samples"] == 5 and report.attrs["penalty"] in PENALTIES
    np.testing.assert_allclose(report["size_factor"][:4], np.exp(-report["offset"][:4]))
    assert (report.loc[["type_0", "type_2"], "same_sign"] == 1).all()


def test_the_answer_is_scaled_by_the_offsets_and_says_so(model, bulk):
    before = bulk.copy()
    plain = model.deconvolve(before)
    offset = model.calibrate(bulk, "measured")["offset"][:4].to_numpy()
    np.testing.assert_allclose(model.module.size_offset, offset, rtol=1e-6)
    np.testing.assert_allclose(model.deconvolve(bulk), closed(plain.to_numpy() * np.exp(offset)), atol=1e-6)
    assert bulk.uns[KEY]["calibrated"] and not before.uns[KEY]["calibrated"]
    ratio = bulk.uns[KEY]["cell_sizes"]["size"] / before.uns[KEY]["cell_sizes"]["size"] * np.exp(offset)
    np.testing.assert_allclose(ratio / ratio.mean(), 1, rtol=1e-5)
    for key in (f"{KEY}_rna", f"{KEY}_nnls"):
        pd.testing.assert_frame_equal(bulk.obsm[key], before.obsm[key])
    network = model.deconvolve(bulk.copy(), refine=False)
    model.remove_calibration()
    expected = closed(model.deconvolve(bulk.copy(), refine=False).to_numpy() * np.exp(offset))
    np.testing.assert_allclose(network, expected, atol=1e-6)


def test_it_can_be_saved_removed_and_repeated(model, bulk, tmp_path):
    plain = model.deconvolve(bulk.copy())
    first = model.calibrate(bulk, "measured")
    answer = model.deconvolve(bulk.copy())
    model.save(tmp_path / "calibrated")
    pd.testing.assert_frame_equal(hp.HPVADE.load(tmp_path / "calibrated").deconvolve(bulk.copy()), answer)
    again = model.calibrate(bulk, "measured")  # from the uncalibrated answer, not on top of the first
    pd.testing.assert_frame_equal(again, first, rtol=1e-4)
    model.remove_calibration()
    pd.testing.assert_frame_equal(model.deconvolve(bulk.copy()), plain)


def test_types_of_one_column_share_its_offset(model, bulk):
    measured = bulk.obsm["measured"]
    truth = pd.DataFrame({"front": measured["type_0"] + measured["type_1"], "third": measured["type_2"], "x": 0.5})
    mapping = {"type_0": "front", "type_1": "front", "type_2": "third"}
    report = model.calibrate(bulk, truth, mapping=mapping)
    assert list(report.index) == ["front", "third", "all"]  # "x" is not named, so it is left out
    front, third = report["offset"]["front"], report["offset"]["third"]
    np.testing.assert_allclose(model.module.size_offset, [front, front, third, 0], rtol=1e-6)
    stored = model.module.size_offset.clone()
    bulk.obsm["lineages"], bulk.uns["lineages_mapping"] = truth, mapping
    model.calibrate(bulk, "lineages")  # the mapping stored beside the table
    assert torch.equal(model.module.size_offset, stored)


def test_percentages_and_the_order_of_samples_do_not_matter(model, bulk):
    first = model.calibrate(bulk, "measured")
    second = model.calibrate(bulk, 100 * bulk.obsm["measured"].iloc[::-1, ::-1])
    pd.testing.assert_frame_equal(second.loc[first.index], first, rtol=1e-4)


def test_literal_preset(literal):
    bulk = literal.bulk.copy()
    plain = literal.model.deconvolve(bulk.copy())
    try:
        literal.model.calibrate(bulk, closed(plain * FACTOR))
        found = literal.model.deconvolve(bulk)
    finally:
        literal.model.remove_calibration()
    np.testing.assert_allclose(found, closed(plain * FACTOR), atol=0.02)


# ---------------------------------------------------------------- saved models


def save_without(model, folder, name):
    """Save as a version would that did not have this tensor."""
    state = model.module.state_dict()
    del state[name]
    model.module.state_dict = lambda: state
    try:
        model.save(folder)
    finally:
        del model.module.state_dict


def test_models_saved_before_calibration_existed_are_loaded(model, bulk, tmp_path):
    save_without(model, tmp_path / "old", "size_offset")
    old = hp.HPVADE.load(tmp_path / "old")
    assert not old.module.size_offset.any()
    pd.testing.assert_frame_equal(old.deconvolve(bulk.copy()), model.deconvolve(bulk.copy()))
    save_without(model, tmp_path / "broken", "mean_counts")
    with pytest.raises(ValueError, match="mean_counts: saved absent"):
        hp.HPVADE.load(tmp_path / "broken")


# ---------------------------------------------------------------- bad input


def changed(table, row, column, value):
    table = table.copy()
    table.iloc[row, column] = value
    return table


BAD = {
    "too few": (lambda t: t.iloc[:4], {}, ValueError, "4 samples have a measured.*at least 5"),
    "one": (lambda t: t.iloc[:1], {}, ValueError, "at least 5"),
    "negative": (lambda t: changed(t, 3, 1, -0.2), {}, ValueError, r"'type_1' in sample .* is -0.2; expected"),
    "missing": (lambda t: changed(t, 2, 0, np.nan), {}, ValueError, "not a finite number in column 'type_0'"),
    "infinite": (lambda t: changed(t, 2, 0, np.inf), {}, ValueError, "not a finite number"),
    "words": (lambda t: t.astype(str), {}, ValueError, "not numbers"),
    "row of zeros": (lambda t: changed(t, 4, slice(None), 0), {}, ValueError, "sums to zero"),
    "duplicated sample": (lambda t: pd.concat([t, t.iloc[:1]]), {}, ValueError, "truth has duplicated sample"),
    "foreign samples": (lambda t: t.add_prefix("x", axis=0), {}, ValueError, "12 samples.*not in the bulk: x"),
    "other names": (
        lambda t: t.add_prefix("my_", axis=1),
        {},
        ValueError,
        "4 columns .* my_type_0, my_type_1.*Types without a column: type_0.*mapping=",
    ),
    "one other name": (
        lambda t: t.rename(columns={"type_3": "Mast"}),
        {},
        ValueError,
        "1 columns .* names of types: Mast. Types without a column: type_3",
    ),
    "mapping": (lambda t: t, {"mapping": {"type_0": "B", "Mast": "type_1"}}, ValueError, r"\(Mast\).*columns \(B\)"),
    "empty mapping": (lambda t: t, {"mapping": {}}, ValueError, "No reference type is mapped"),
    "one column": (lambda t: t, {"mapping": dict.fromkeys(["type_0", "type_1"], "type_0")}, ValueError, "Only the col"),
    "array": (lambda t: t.to_numpy(), {}, TypeError, "is a ndarray; expected a DataFrame"),
    "absent key": (lambda t: "flow", {}, KeyError, "no 'flow'; it has"),
    "unknown option": (lambda t: t, {"fractions": "rna"}, TypeError, "fractions"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_truth_is_refused(model, bulk, unchanged, name):
    make, options, error, message = BAD[name]
    truth = make(bulk.obsm["measured"])
    with unchanged(bulk), pytest.raises(error, match=message):
        model.calibrate(bulk, truth, **options)
    assert not model.module.size_offset.any()


def test_samples_that_contradict_each_other_are_refused(model, bulk, unchanged):
    """Half of them ask for twice as much of a type, the others for half."""
    answer = model.deconvolve(bulk.copy())
    factor = np.ones(answer.shape)
    factor[::2, 0], factor[1::2, 0] = 3, 1 / 3
    model.calibrate(bulk, "measured")
    earlier = model.module.size_offset.clone()
    with unchanged(bulk), pytest.raises(ValueError, match="contradict each other.*'type_0' ask for factors from"):
        model.calibrate(bulk, closed(answer * factor))
    assert torch.equal(model.module.size_offset, earlier)  # an earlier calibration stays


def test_levels_that_are_right_already_are_left_alone(model, bulk):
    with pytest.raises(ValueError, match="levels are right already"):
        model.calibrate(bulk, model.deconvolve(bulk.copy()))
    assert not model.module.size_offset.any()


def test_bad_bulk(model, bulk, unchanged):
    bulk.X[0, 0] = -1
    with unchanged(bulk), pytest.raises(ValueError, match="negative"):
        model.calibrate(bulk, "measured")


def test_untrained(planted):
    adata, bulk = planted()
    hp.HPVADE.setup_anndata(adata, "cell_type")
    with pytest.raises(RuntimeError, match="calibrate needs a trained model"):
        hp.HPVADE(adata).calibrate(bulk, "proportions")
