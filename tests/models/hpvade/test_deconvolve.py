"""From bulk to a table of proportions: sizes, fractions, the unknown, what is written."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import hpvade as hp
from hpvade.models.hpvade._estimate import (
    OTHER_PLATFORM,
    SAME_PLATFORM,
)

KEY = "hpvade_proportions"


def other_platform(reference, seed=0, sd=1.2):
    """Bulk of one type each and mixtures of them, on a platform far from the reference's."""
    rng = np.random.default_rng(seed)
    means = reference.varm["signature"].to_numpy().T
    fractions = rng.dirichlet(np.ones(len(means)), 20)
    X = fractions @ means * np.exp(sd * rng.standard_normal(means.shape[1])) * 1e4
    return ad.AnnData(np.rint(X).astype(np.float32), var=reference.var[[]])


def closed(x):
    return x / x.sum(axis=1, keepdims=True)


def sizes_used(model, bulk, **options):
    """Sizes that lead from the table of RNA to the table of cells, scaled to mean one."""
    cells = model.deconvolve(bulk, **options).to_numpy()
    rna = bulk.obsm[f"{KEY}_rna"].to_numpy()
    stated = bulk.uns[KEY]["cell_sizes"]["size"].to_numpy()
    np.testing.assert_allclose(cells, closed(rna / stated), atol=1e-6)
    return stated


GIVEN = {"type_0": 1.0, "type_1": 1.0, "type_2": 2.0, "type_3": 8.0}


@pytest.fixture(scope="module")
def sized(planted, fit):
    """``sized(cell_size)``: a model trained with these sizes, and its bulk."""

    def sized(cell_size):
        reference, bulk = planted()
        return fit(reference, 1, cell_size=cell_size), reference, bulk

    return sized


@pytest.mark.parametrize("refine", [True, False])
@pytest.mark.parametrize(("cell_size", "expected"), [(GIVEN, np.array([1, 1, 2, 8]) / 3), (None, np.ones(4))])
def test_sizes_that_are_asked_for_are_used(sized, cell_size, expected, refine):
    """On any platform: who names sizes wants them."""
    model, reference, bulk = sized(cell_size)
    for samples in (bulk, other_platform(reference)):
        np.testing.assert_allclose(sizes_used(model, samples, refine=refine), expected, rtol=1e-5)


def test_umi_and_pooled_sizes(sized):
    model, reference, bulk = sized("umi")
    umi = model.module.mean_counts.sum(dim=0).numpy()
    np.testing.assert_allclose(sizes_used(model, other_platform(reference)), umi / umi.mean(), rtol=1e-5)
    with pytest.raises(ValueError, match="table has none of the types"):
        hp.HPVADE(reference, cell_size="epic")
    model, reference, bulk = sized("pooled")  # the tables know none of these types
    np.testing.assert_allclose(sizes_used(model, bulk), umi / umi.mean(), rtol=1e-2)


def test_pooled_sizes_depend_on_the_platform(planted, fit):
    """Near the reference its UMI counts, far from it the pool with the published tables."""
    reference, bulk = planted()
    names = {"type_0": "B", "type_1": "CD4 T", "type_2": "NK", "type_3": "Mono"}
    reference.obs["cell_type"] = reference.obs["cell_type"].cat.rename_categories(names)
    model = fit(reference, 2)
    umi = model.module.mean_counts.sum(dim=0).numpy()
    np.testing.assert_allclose(sizes_used(model, bulk), umi / umi.mean(), rtol=1e-5)
    assert bulk.uns[KEY]["platform_distance"] < SAME_PLATFORM

    far = other_platform(reference)
    found = sizes_used(model, far)
    assert far.uns[KEY]["platform_distance"] > OTHER_PLATFORM
    pool = hp.models.hpvade._model.cell_sizes(model.cell_types, umi, "pooled")
    np.testing.assert_allclose(found, pool / pool.mean(), rtol=1e-5)
    assert np.abs(found - umi / umi.mean()).max() > 0.05


@pytest.mark.parametrize(
    "cell_size", ["ensembl", {"type_0": 1.0}, {**GIVEN, "other": 1.0}, {**GIVEN, "type_0": -1.0}, 3]
)
def test_bad_sizes_are_refused_before_training(planted, cell_size):
    reference, _ = planted()
    hp.HPVADE.setup_anndata(reference, "cell_type")
    with pytest.raises(ValueError, match="size"):
        hp.HPVADE(reference, cell_size=cell_size)


def test_fractions_rna_returns_the_table_of_rna(trained):
    one, two = trained.bulk.copy(), trained.bulk.copy()
    cells = trained.model.deconvolve(one)
    rna = trained.model.deconvolve(two, fractions="rna")
    pd.testing.assert_frame_equal(rna, one.obsm[f"{KEY}_rna"])
    pd.testing.assert_frame_equal(two.obsm[KEY], rna)
    sizes = one.uns[KEY]["cell_sizes"]["size"].to_numpy()
    np.testing.assert_allclose(rna, closed(cells.to_numpy() * sizes), atol=1e-6)
    assert two.uns[KEY]["fractions"] == "rna"


def test_refine_false_is_the_network_alone(trained):
    bulk = trained.bulk.copy()
    found = trained.model.deconvolve(bulk, refine=False)
    network = trained.model.module.predict(torch.from_numpy(bulk.X), torch.ones(300, dtype=torch.bool))
    np.testing.assert_allclose(found, network, atol=1e-6)
    assert bulk.uns[KEY]["refined"] is False
    # samples do not depend on each other, however they are passed
    np.testing.assert_allclose(trained.model.deconvolve(bulk, refine=False, batch_size=5), found, atol=1e-6)
    np.testing.assert_allclose(trained.model.deconvolve(bulk[3:4].copy(), refine=False), found.iloc[3:4], atol=1e-6)


def test_batch_size_does_not_change_the_refined_answer(trained):
    bulk = trained.bulk.copy()
    expected = trained.model.deconvolve(bulk)
    np.testing.assert_allclose(trained.model.deconvolve(bulk, batch_size=1), expected, atol=1e-5)


def test_nnls_table_equals_scipy(trained):
    from scipy.optimize import nnls

    bulk = trained.bulk.copy()
    trained.model.deconvolve(bulk)
    signature = trained.model.module.mean_counts.double().numpy()
    shares = closed(bulk.X.astype(float))
    expected = closed(np.stack([nnls(signature, row)[0] for row in shares]))
    np.testing.assert_allclose(bulk.obsm[f"{KEY}_nnls"], expected, atol=1e-4)


def test_spec_is_the_literal_network_alone(literal):
    bulk = literal.bulk.copy()
    found = literal.model.deconvolve(bulk)
    literal_class = literal.model.module.literal
    assert isinstance(literal_class, hp.HP_VADE)
    x = np.log1p(1e4 * closed(bulk.X.astype(np.float64))).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(found, literal_class(torch.from_numpy(x)), atol=1e-5)
    assert bulk.uns[KEY]["refined"] is False and bulk.uns[KEY]["preset"] == "spec"


@pytest.mark.filterwarnings("ignore:Setting element:anndata.ImplicitModificationWarning")
@pytest.mark.parametrize("kind", ["csr", "csc", "float64", "int", "layer", "view", "backed"])
def test_bulk_in_any_form(trained, kind, tmp_path):
    from scipy import sparse

    bulk = trained.bulk.copy()
    expected = trained.model.deconvolve(bulk.copy())
    options = {}
    if kind in ("csr", "csc"):
        bulk.X = getattr(sparse, f"{kind}_matrix")(bulk.X)
    elif kind in ("float64", "int"):
        bulk.X = bulk.X.astype(kind)
    elif kind == "layer":
        bulk.layers["counts"], options = bulk.X.copy(), {"layer": "counts"}
        bulk.X = -bulk.X
    elif kind == "view":
        bulk = ad.concat([bulk, bulk], index_unique="_")[: bulk.n_obs]
        expected.index = bulk.obs_names
        assert bulk.is_view
    else:
        bulk.write_h5ad(tmp_path / "bulk.h5ad")
        bulk = ad.read_h5ad(tmp_path / "bulk.h5ad", backed="r")
    found = trained.model.deconvolve(bulk, **options)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    pd.testing.assert_frame_equal(bulk.obsm[KEY], found)


def missing_type(planted, fit):
    """Model without one type, and bulk in which that type makes up 0 to 40 %."""
    reference, _ = planted(n_genes=1000, n_cells=1200)
    absent = reference.obs["cell_type"].cat.categories[-1]
    hp.HPVADE.setup_anndata(reference, labels_key="cell_type", sample_key="donor")
    rng = np.random.default_rng(0)
    means = reference.varm["signature"].to_numpy()
    share = np.concatenate([np.zeros(4), rng.uniform(0, 0.4, 20)])
    known = rng.dirichlet(np.full(means.shape[1] - 1, 2.0), 24) * (1 - share)[:, None]
    X = rng.poisson(1e3 * np.column_stack([known, share]) @ means.T).astype(np.float32)
    bulk = ad.AnnData(X, var=pd.DataFrame(index=reference.var_names))
    bulk.obsm["share"] = share
    kept = reference[reference.obs["cell_type"] != absent].copy()
    kept.obs["cell_type"] = kept.obs["cell_type"].cat.remove_unused_categories()
    return fit(kept, 2), bulk, share


def test_unknown_share_of_a_type_that_the_reference_lacks(planted, fit):
    model, bulk, share = missing_type(planted, fit)
    table = model.deconvolve(bulk, unknown=True)
    assert list(table.columns) == [*model.cell_types, "unknown"]
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(bulk.obsm[f"{KEY}_rna"].sum(axis=1), 1, atol=1e-6)
    assert np.corrcoef(table["unknown"], share)[0, 1] > 0.9
    profile = bulk.varm[f"{KEY}_unknown"]["unknown"]
    assert profile.sum() == pytest.approx(1e6, rel=1e-3)
    assert list(bulk.uns[KEY]["unknown_similarity"].index) == model.cell_types
    assert "unknown" not in model.deconvolve(bulk)  # on request only


def test_samples_without_unknown_keep_their_known_types(planted, fit):
    model, bulk, _ = missing_type(planted, fit)
    for options in ({}, {"fractions": "rna"}, {"prior": "network"}):
        with_it = model.deconvolve(bulk.copy(), unknown=True, **options)
        without = model.deconvolve(bulk.copy(), **options)
        none = (with_it["unknown"] == 0).to_numpy()
        assert none.any() and not none.all()
        np.testing.assert_allclose(with_it.loc[none, model.cell_types], without[none], atol=1e-6)


def test_genes_too_few_for_an_unknown_are_said(planted, fit, unchanged):
    """A panel of markers has nothing beside them; `tl.diagnose` then goes without the column."""
    reference, bulk = planted(n_genes=40, n_samples=8)
    model = fit(reference, 1)
    with unchanged(bulk), pytest.raises(ValueError, match=r"found \d+, expected at least 20. Use more genes"):
        model.deconvolve(bulk, unknown=True)
    hp.tl.diagnose(bulk, model, n_simulated=10)
    assert bulk.obs["hpvade_qc_unknown"].isna().all()
    assert bulk.obs["hpvade_qc_residual"].notna().all()


def test_unknown_where_it_cannot_be_found(trained, literal, unchanged):
    with unchanged(trained.bulk):
        with pytest.raises(ValueError, match="refine=True"):
            trained.model.deconvolve(trained.bulk, unknown=True, refine=False)
        with pytest.raises(ValueError, match="preset='default'"):
            literal.model.deconvolve(trained.bulk, unknown=True)
        with pytest.raises(ValueError, match="found 3, expected at least 6"):
            trained.model.deconvolve(trained.bulk[:3].copy(), unknown=True)


def test_without_the_baseline_the_answer_is_the_same_and_no_old_baseline_stays(trained):
    model, bulk = trained.model, trained.bulk.copy()
    expected = model.deconvolve(bulk)
    assert f"{KEY}_nnls" in bulk.obsm
    pd.testing.assert_frame_equal(model.deconvolve(bulk, baseline=False), expected)
    assert f"{KEY}_nnls" not in bulk.obsm
