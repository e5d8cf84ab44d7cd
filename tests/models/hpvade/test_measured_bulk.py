"""What a model says of samples and genes that were not measured: skipped samples, batches, few reads, few genes."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp

KEY = "hpvade_proportions"
TABLES = [KEY, f"{KEY}_rna", f"{KEY}_nnls"]


def heard(call):
    """What `call` returns, and the texts of its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(w.message) for w in caught]


def dense(bulk) -> ad.AnnData:
    bulk = bulk.copy()
    bulk.X = np.asarray(bulk.X.toarray() if hasattr(bulk.X, "toarray") else bulk.X, dtype=np.float64)
    return bulk


def spoil(bulk) -> dict[str, str]:
    """Make four samples of `bulk` useless; the reasons."""
    bulk.X[0] = 0
    bulk.X[2, 7] = np.nan
    bulk.X[5, 9] = np.inf
    bulk.X[8, 1] = -3
    names = bulk.var_names
    return {
        bulk.obs_names[0]: "no expression at all",
        bulk.obs_names[2]: f"NaN at var {names[7]!r}",
        bulk.obs_names[5]: f"an infinite value at var {names[9]!r}",
        bulk.obs_names[8]: f"a negative value (-3) at var {names[1]!r}",
    }


BAD = [0, 2, 5, 8]


def test_bad_samples_are_all_named_and_nothing_is_written(trained, unchanged):
    bulk = dense(trained.bulk)
    reasons = spoil(bulk)
    for call in (trained.model.deconvolve, trained.model.get_proportion_intervals, trained.model.deconvolve_hierarchy):
        with unchanged(bulk), pytest.raises(ValueError, match="4 of 12 samples that cannot be used") as error:
            call(bulk)
        assert all(f"{name!r} ({reason})" in str(error.value) for name, reason in reasons.items())


def test_skipped_samples_are_nan_and_the_others_as_without_them(trained):
    bulk = dense(trained.bulk)
    rest = np.setdiff1d(np.arange(12), BAD)
    alone = bulk[rest].copy()
    trained.model.deconvolve(alone)
    reasons = spoil(bulk)
    result, said = heard(lambda: trained.model.deconvolve(bulk, on_bad_sample="skip"))
    assert len(said) == 1 and all(f"{name!r} ({reason})" in said[0] for name, reason in reasons.items())
    pd.testing.assert_frame_equal(result, bulk.obsm[KEY])
    for key in TABLES:
        assert list(bulk.obsm[key].index) == list(bulk.obs_names) and bulk.obsm[key].iloc[BAD].isna().all(axis=None)
        pd.testing.assert_frame_equal(bulk.obsm[key].iloc[rest], alone.obsm[key])
    assert bulk.uns[KEY]["skipped"]["reason"].to_dict() == reasons


def test_everything_downstream_copes_with_skipped_samples(trained, tmp_path):
    bulk, model = dense(trained.bulk), trained.model
    spoil(bulk)
    rest = np.setdiff1d(np.arange(12), BAD)
    alone = bulk[rest].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.deconvolve(bulk, on_bad_sample="skip", unknown=True)
        model.deconvolve(alone, unknown=True)
        np.testing.assert_allclose(bulk.obsm[KEY].iloc[rest], alone.obsm[KEY], atol=1e-12)
        assert bulk.obsm[KEY].iloc[BAD].isna().all(axis=None)
        intervals = model.get_proportion_intervals(bulk, on_bad_sample="skip", n_draws=20)
        np.testing.assert_allclose(intervals.iloc[rest], model.get_proportion_intervals(alone, n_draws=20))
        assert intervals.iloc[BAD].isna().all(axis=None)
        levels = model.deconvolve_hierarchy(bulk, on_bad_sample="skip")
        for name, table in model.deconvolve_hierarchy(alone).items():
            np.testing.assert_allclose(levels[name].iloc[rest], table)
            assert levels[name].iloc[BAD].isna().all(axis=None)
    _, said = heard(lambda: hp.tl.evaluate(bulk))
    assert len(said) == 1 and "4 samples have no prediction" in said[0]
    pd.testing.assert_frame_equal(heard(lambda: hp.tl.evaluate(bulk))[0], hp.tl.evaluate(alone))
    ax = hp.pl.proportions(bulk)
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert [text.endswith("(skipped)") for text in labels] == [i in BAD for i in range(12)]
    assert len(heard(lambda: hp.pl.agreement(bulk))[0].axes) == len(model.cell_types)
    figure, said = heard(lambda: hp.pl.intervals(intervals, bulk.obsm["proportions"]))
    assert "4 samples" in said[0] and all(ax.get_title().endswith("of 8") for ax in figure.axes)
    heard(lambda: hp.tl.diagnose(bulk, model, on_bad_sample="skip", truth_key="proportions", n_simulated=8))
    verdicts = bulk.obs["hpvade_qc_verdict"]
    assert verdicts.iloc[BAD].str.startswith("Skipped: ").all() and not verdicts.iloc[rest].str.startswith("Skip").any()
    assert bulk.obs["hpvade_qc_flagged"].dtype == bool and bulk.obs["hpvade_qc_flagged"].iloc[BAD].all()
    assert bulk.obs["hpvade_qc_residual"].isna().tolist() == [i in BAD for i in range(12)]
    hp.pl.diagnostics(bulk)
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    again = ad.read_h5ad(tmp_path / "bulk.h5ad")
    pd.testing.assert_frame_equal(again.obsm[KEY], bulk.obsm[KEY])


def test_expression_and_calibration_leave_skipped_samples_out(trained):
    """Logged samples are skipped whatever `on_bad_sample` says."""
    bulk, model = dense(trained.bulk), trained.model
    bulk.X[[1, 4]] = np.log2(bulk.X[[1, 4]] + 1)
    table, said = heard(lambda: model.get_cell_type_expression(bulk))
    assert len(said) == 1 and "looks log-transformed" in said[0]
    assert set(table.obs["sample"]) == set(bulk.obs_names) - set(bulk.obs_names[[1, 4]])


@pytest.mark.parametrize("log", [np.log1p, lambda x: np.log2(x + 1)])
@pytest.mark.parametrize("rows", [[3], [0, 5, 11]])
def test_logged_samples_are_named_and_spoil_no_other(trained, log, rows):
    bulk = dense(trained.bulk)
    rest = np.setdiff1d(np.arange(12), rows)
    alone = bulk[rest].copy()
    bulk.X[rows] = log(bulk.X[rows])
    result, said = heard(lambda: trained.model.deconvolve(bulk))
    assert len(said) == 1 and all(repr(name) in said[0] for name in bulk.obs_names[rows])
    assert result.iloc[rows].isna().all(axis=None)
    np.testing.assert_allclose(result.iloc[rest], trained.model.deconvolve(alone))


def test_genes_filled_with_zeros_are_left_out(trained):
    bulk = dense(trained.bulk)
    genes = np.arange(0, 300, 3)
    expected = heard(lambda: trained.model.deconvolve(bulk[:, np.setdiff1d(np.arange(300), genes)].copy()))[0]
    bulk.X[:, genes] = 0
    result, said = heard(lambda: trained.model.deconvolve(bulk))
    assert len(said) == 1 and "have no read in any sample" in said[0]
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert bulk.uns[KEY]["n_genes"] == 200


@pytest.mark.parametrize("unknown", [False, True])
def test_batches_of_an_outer_join(trained, unknown):
    """Each batch on its own genes; with `unknown` all on the genes that both have."""
    bulk, model = dense(trained.bulk), trained.model
    first, genes = np.arange(12) < 6, np.arange(0, 300, 3)
    kept = np.setdiff1d(np.arange(300), genes)
    joined = bulk.copy()
    joined.X[np.ix_(~first, genes)] = 0
    result, _ = heard(lambda: model.deconvolve(joined, unknown=unknown))
    if unknown:
        expected = heard(lambda: model.deconvolve(bulk[:, kept].copy(), unknown=True))[0]
        np.testing.assert_allclose(result, expected, atol=1e-4)
        return
    for rows, part in ((first, bulk[first].copy()), (~first, bulk[~first][:, kept].copy())):
        np.testing.assert_allclose(result[rows], heard(lambda part=part: model.deconvolve(part))[0], atol=1e-5)
    bounds, _ = heard(lambda: model.get_proportion_intervals(joined, n_draws=20))
    assert bounds.notna().all(axis=None) and list(bounds.index) == list(bulk.obs_names)
    assert joined.uns[KEY]["batches"]["n_genes"].sum() == 500


@pytest.mark.parametrize("depth", [1, 30, 60])
def test_shallow_samples_are_named(trained, depth):
    bulk = dense(trained.bulk)
    rng = np.random.default_rng(0)
    for row in (2, 9):
        bulk.X[row] = rng.multinomial(depth, bulk.X[row] / bulk.X[row].sum())
    result, said = heard(lambda: trained.model.deconvolve(bulk))
    assert len(said) == 1 and said[0].startswith("2 samples have too few reads")
    assert all(f"{name!r} ({depth})" in said[0] for name in bulk.obs_names[[2, 9]])
    assert np.isfinite(result).all(axis=None) and np.allclose(result.sum(axis=1), 1)


@pytest.mark.parametrize("factor", [1e-12, 1e-5, 1e12])
def test_a_constant_per_sample_changes_no_answer(trained, factor):
    expected = trained.model.deconvolve(dense(trained.bulk))
    bulk = dense(trained.bulk)
    bulk.X[::2] *= factor
    result, said = heard(lambda: trained.model.deconvolve(bulk, input_type="counts"))
    assert said == []
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("where", ["var_names", "obs_names", "both"])
@pytest.mark.parametrize("unknown", [False, True])
def test_names_of_string_dtype(trained, where, unknown, tmp_path):
    expected = trained.model.deconvolve(trained.bulk.copy(), unknown=unknown)
    bulk = trained.bulk.copy()
    if where != "obs_names":
        bulk.var_names = bulk.var_names.astype("string")
    if where != "var_names":
        bulk.obs_names = bulk.obs_names.astype("string")
    result = trained.model.deconvolve(bulk, unknown=unknown)
    np.testing.assert_allclose(result, expected)
    assert list(result.index) == list(expected.index)
    hp.tl.evaluate(bulk)
    with ad.settings.override(allow_write_nullable_strings=True):
        bulk.write_h5ad(tmp_path / "bulk.h5ad")
    np.testing.assert_allclose(
        trained.model.deconvolve(ad.read_h5ad(tmp_path / "bulk.h5ad"), unknown=unknown), expected
    )
