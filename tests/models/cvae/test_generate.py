"""Synthetic cells and augmented references: rows CV-06, CV-18."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import hpvade as hp
from hpvade.models.cvae import _generate


def test_cv_06_generated_cells_look_like_the_data(trained):
    adata = trained.adata
    for kind, drug in (("B", "control"), ("Mono", "drug_a"), ("T", "drug_b")):
        cells = trained.model.generate(2000, labels=kind, perturbation=drug, seed=0)
        assert cells.shape == (2000, 100) and cells.X.dtype == np.float32
        assert (cells.X.data > 0).all() and (cells.X.data == np.rint(cells.X.data)).all()
        assert set(cells.obs["cell_type"]) == {kind} and set(cells.obs["perturbation"]) == {drug}
        real = adata[((adata.obs["cell_type"] == kind) & (adata.obs["perturbation"] == drug)).to_numpy()].X.toarray()
        ours = cells.X.toarray()
        seen = real.mean(axis=0) > 1
        error = np.abs(ours.mean(axis=0) / real.mean(axis=0) - 1)[seen]
        zeros = np.abs((ours == 0).mean(axis=0) - (real == 0).mean(axis=0))
        assert (
            np.median(error) < 0.2
            and np.median(zeros) < 0.05
            and ours.sum() / 2000 == pytest.approx(real.sum(axis=1).mean(), rel=0.1)
        )


def test_conditions_repeat_and_seeds_hold(trained):
    ask = {"labels": ["B", "T"], "perturbation": "drug_a"}
    cells = trained.model.generate(3, **ask, seed=1)
    assert cells.obs["cell_type"].tolist() == ["B"] * 3 + ["T"] * 3
    assert set(cells.obs["experiment"]) <= {"exp_0", "exp_1"}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    again = trained.model.generate(3, **ask, seed=1)
    assert torch.equal(state, torch.get_rng_state())
    np.testing.assert_array_equal(again.X.toarray(), cells.X.toarray())
    assert np.abs((trained.model.generate(3, **ask, seed=2).X - cells.X).toarray()).sum() > 0
    one, two = (trained.model.generate(3, **ask) for _ in range(2))
    assert np.abs((one.X - two.X).toarray()).sum() > 0
    exact = trained.model.generate(
        500, labels="B", perturbation="control", experiment="exp_1", library_size=3000, seed=0
    )
    assert exact.X.sum() / 500 == pytest.approx(3000, rel=0.02) and set(exact.obs["experiment"]) == {"exp_1"}


def test_bad_requests(trained):
    for options, said in (
        ({"labels": ["B", "T"], "perturbation": ["control"] * 3}, "equal length"),
        ({"labels": [], "perturbation": "control"}, "equal length"),
        ({"labels": "B", "perturbation": "control", "library_size": 0}, "library_size=0"),
        ({"labels": "B", "perturbation": "control", "n": 0}, "n_samples=0"),
    ):
        options = dict(options)
        with pytest.raises(ValueError, match=said):
            trained.model.generate(options.pop("n", 2), **options)


def test_experiments_are_drawn_as_in_training(cells, fit):
    adata = cells(360)
    nested = (adata.obs["perturbation"] == "drug_a").to_numpy()
    adata.obs["experiment"] = pd.Categorical(np.where(nested, "only_a", adata.obs["experiment"].astype(str)))
    model = fit(adata, 1)
    assert set(model.generate(50, labels="B", perturbation="drug_a", seed=0).obs["experiment"]) == {"only_a"}
    assert set(model.generate(50, labels="B", perturbation="control", seed=0).obs["experiment"]) == {"exp_0", "exp_1"}


def test_dispersion_starts_at_the_planted_one_whatever_experiments_differ_by(cells):
    """Half of the genes are thinned in one experiment, which changes means and leaves the dispersion; some experiments
    have one cell, which says nothing about it."""
    adata, rng = cells(), np.random.default_rng(0)
    X, second = adata.X.toarray(), (adata.obs["experiment"] == "exp_1").to_numpy()
    X[np.ix_(second, np.arange(50))] = rng.binomial(X[np.ix_(second, np.arange(50))].astype(int), 0.2)
    adata.X = sparse.csr_matrix(X.astype(np.float32))
    alone = adata.obs["experiment"].astype(str).to_numpy(copy=True)
    alone[:20] = [f"alone_{i}" for i in range(20)]
    adata.obs["experiment"] = pd.Categorical(alone)
    with pytest.warns(UserWarning, match="fewer than 3 cells"):
        hp.ConditionalVAE.setup_anndata(
            adata, "cell_type", perturbation_key="perturbation", experiment_key="experiment"
        )
    model = hp.ConditionalVAE(adata, n_latent=4, hidden_dims=(8,))
    _generate.initialise(model, np.arange(adata.n_obs))
    theta = model.module.net.log_theta.exp().detach().numpy()[X.mean(axis=0) > 5]
    assert len(theta) > 30 and np.median(theta) == pytest.approx(10, rel=0.1)
    assert np.mean((theta > 6) & (theta < 16)) > 0.9


# ---------------------------------------------------------------- augmented references


def rare(cells, n=12):
    adata = cells()
    adata.obs["donor"] = pd.Categorical([f"d{c // 27 % 3}" for c in range(adata.n_obs)])
    drop = np.flatnonzero(adata.obs["cell_type"] == "T")[n:]
    return adata[np.setdiff1d(np.arange(adata.n_obs), drop)].copy()


def test_augmented_reference_is_taken_by_hpvade(cells, fit):
    adata = rare(cells)
    model = fit(adata, 20)
    fuller = model.augment_reference(min_cells=60, seed=0)
    sizes = fuller.obs["cell_type"].value_counts()
    assert sizes["T"] == 60 and sizes["B"] == 240
    new = fuller[fuller.obs["hpvade_generated"].to_numpy()]
    assert new.n_obs == 48 and set(new.obs["cell_type"]) == {"T"} and new.obs["donor"].notna().all()
    # donors, perturbations and totals are those of real cells of the type
    real = adata[(adata.obs["cell_type"] == "T").to_numpy()]
    pairs = [
        set(map(tuple, part.obs[["donor", "perturbation", "experiment"]].astype(str).to_numpy()))
        for part in (new, real)
    ]
    assert pairs[0] <= pairs[1]
    totals = [np.asarray(part.X.sum(axis=1)).mean() for part in (new, real)]
    assert totals[0] == pytest.approx(totals[1], rel=0.15)
    np.testing.assert_array_equal(fuller.X[: adata.n_obs].toarray(), adata.X.toarray())
    columns = ["cell_type", "perturbation", "experiment", "donor"]
    pd.testing.assert_frame_equal(fuller.obs[columns].iloc[: adata.n_obs], adata.obs[columns], check_categorical=False)
    assert fuller.obs_names.is_unique and not any(name.startswith("_scvi") for name in fuller.obs)
    hp.HPVADE.setup_anndata(fuller, labels_key="cell_type", sample_key="donor")
    assert hp.HPVADE(fuller).cell_types == ["B", "Mono", "T"]


def test_augmented_profile_stays_that_of_the_type(cells, fit):
    """The mean profile of generated cells is nearer to the planted one than that of any other type."""
    adata = rare(cells, 30)
    model = fit(adata, 15)
    fuller = model.augment_reference(min_cells=400, seed=0)
    new = fuller[(fuller.obs["hpvade_generated"] & (fuller.obs["cell_type"] == "T")).to_numpy()].X.toarray().sum(axis=0)
    own = adata[(adata.obs["cell_type"] == "T").to_numpy()].X.toarray().sum(axis=0)
    other = adata[(adata.obs["cell_type"] == "B").to_numpy()].X.toarray().sum(axis=0)
    new, own, other = (np.log1p(1e4 * values / values.sum()) for values in (new, own, other))
    assert np.sqrt(((new - own) ** 2).mean()) < 0.5 * np.sqrt(((new - other) ** 2).mean())


def test_templates_are_training_cells_only(cells, fit, monkeypatch):
    adata = rare(cells, 20)
    model = fit(adata, 1, train={"train_size": 0.7})
    chosen = []
    redraw = _generate._redraw
    monkeypatch.setattr(_generate, "_redraw", lambda m, c, t, p: chosen.append(t) or redraw(m, c, t, p))
    model.augment_reference(min_cells=200, seed=0)
    assert len(chosen[0]) and set(chosen[0]) <= set(model.train_indices)


def test_pairs_without_cells_are_filled(cells, fit):
    adata = cells()
    missing = ((adata.obs["cell_type"] == "T") & (adata.obs["perturbation"] == "drug_b")).to_numpy()
    adata = adata[~missing].copy()
    model = fit(adata, 20)
    fuller = model.augment_reference(min_cells=40, pairs=True, seed=0)
    table = pd.crosstab(fuller.obs["cell_type"], fuller.obs["perturbation"])
    assert table.loc["T", "drug_b"] == 40 and table.drop("T").eq(80).all(axis=None)


def test_nothing_to_fill_and_bad_numbers(trained, unchanged):
    with unchanged(trained.adata):
        same = trained.model.augment_reference(min_cells=10)
    assert same.n_obs == 720 and not same.obs["hpvade_generated"].any()
    with pytest.raises(ValueError, match="min_cells=0"):
        trained.model.augment_reference(min_cells=0)
    unlabelled = trained.adata[:20].copy()
    del unlabelled.obs["cell_type"]
    with pytest.raises(KeyError, match="'cell_type'"):
        trained.model.augment_reference(unlabelled, min_cells=10)


def test_an_augmented_reference_can_be_augmented_again(trained):
    once = trained.model.augment_reference(min_cells=250, seed=0)
    twice = trained.model.augment_reference(once, min_cells=260, seed=0)
    assert twice.n_obs == 780 and twice.obs_names.is_unique and int(twice.obs["hpvade_generated"].sum()) == 60
