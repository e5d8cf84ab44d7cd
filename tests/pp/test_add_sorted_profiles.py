"""`pp.add_sorted_profiles`: a type that is withheld and given back as a sorted profile."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import hpvade as hp

KEYS = {"labels_key": "cell_type", "sample_key": "donor"}
SIZES = {f"type_{k}": 1.0 for k in range(5)}


def planted(factor_sd=0.7, study=False, seed=0):
    """Sums of all types, sums without the last, its and the others' sorted profiles (TPM, factors of each gene)."""
    cells, _ = hp.datasets.planted_cohort(n_types=5, n_genes=1200, n_cells=2000, n_donors=4, seed=3)
    if study:
        cells.obs["study"] = np.where(cells.obs["donor"].isin(cells.obs["donor"].cat.categories[:2]), "a", "b")
    sums = hp.pp.summarize(cells, "cell_type", sample_key="donor", study_key="study" if study else None)
    means = cells.to_df().groupby(cells.obs["cell_type"], observed=True).mean().T
    rng = np.random.default_rng(seed)
    profiles = means.mul(np.exp(factor_sd * rng.standard_normal(len(means))), axis=0)
    profiles = 1e6 * profiles / profiles.sum()
    known = sums[sums.obs["cell_type"] != "type_4"].copy()
    known.obs["cell_type"] = known.obs["cell_type"].cat.remove_unused_categories()
    return sums, known, profiles.sample(frac=1, random_state=0), means


def column(sums, name="type_4"):
    own = sums[sums.obs["cell_type"] == name]
    values = np.asarray(own.X.sum(axis=0)).ravel() / own.obs["n_cells"].sum()
    return pd.Series(values, sums.var_names)


def test_the_withheld_profile_comes_back(unchanged):
    _, known, profiles, means = planted()
    truth = means["type_4"]
    size = {name: float(means[name].sum()) for name in means}
    with unchanged(known):
        whole = hp.pp.add_sorted_profiles(known, profiles, ["type_4"], rna_content=size, **KEYS)
    found = column(whole)
    assert found.sum() == pytest.approx(truth.sum(), rel=0.05)
    expressed = truth[truth / truth.sum() > 3e-4].index
    raw, left = (
        np.std(np.log(x[expressed] / x.sum()) - np.log(truth[expressed] / truth.sum()))
        for x in (profiles["type_4"], found + 1e-9)
    )
    assert left < 0.5 * raw
    added = whole.obs["sorted_profile"]
    assert added.sum() == 4 and list(whole.obs.loc[added, "cell_type"].unique()) == ["type_4"]
    others = whole[~added.to_numpy()]
    np.testing.assert_allclose(others.X.toarray(), known[:, whole.var_names].X.toarray())
    table = whole.uns["hpvade_sorted_profiles"]
    assert list(table.index) == ["type_4"] and table.loc["type_4", "n_shared"] == 4


@pytest.mark.parametrize("study", [False, True])
def test_bulk_with_the_withheld_type_is_read_as_with_its_cells(study):
    """Stated bound: half of the error without it, and r of .95 for the type itself."""
    sums, known, profiles, means = planted(study=study)
    rng = np.random.default_rng(5)
    truth = rng.dirichlet(np.ones(5), 20)
    share = (means / means.sum()).to_numpy()
    counts = rng.multinomial(2_000_000, truth @ share.T)
    bulk = AnnData(counts.astype(np.float32), var=pd.DataFrame(index=means.index))
    keys = KEYS | ({"study_key": "study"} if study else {})
    whole = hp.pp.add_sorted_profiles(known, profiles, "type_4", rna_content=SIZES, **keys)
    answers = {}
    for name, reference in {"cells": sums, "without": known, "sorted": whole}.items():
        setup = {key: value for key, value in keys.items() if key != "labels_key"}
        hp.HPVADE.setup_anndata(reference, "cell_type", n_cells_key="n_cells", **setup)
        model = hp.HPVADE(reference)
        model.train(accelerator="cpu", enable_progress_bar=False)
        table = model.deconvolve(bulk, fractions="rna").reindex(columns=list(means), fill_value=0.0)
        answers[name] = table.to_numpy()
    error = {name: np.sqrt(np.mean((x - truth) ** 2)) for name, x in answers.items()}
    assert error["sorted"] < 0.5 * error["without"]
    assert np.corrcoef(answers["sorted"][:, 4], truth[:, 4])[0, 1] > 0.95
    assert abs((answers["sorted"] - truth)[:, 4].mean()) < 0.04


def test_names_may_be_mapped_and_profiles_given_as_anndata():
    _, known, profiles, _ = planted()
    direct = hp.pp.add_sorted_profiles(known, profiles, ["type_4"], rna_content=SIZES, **KEYS)
    renamed = profiles.rename(columns={name: f"sorted {name}" for name in profiles})
    renamed["twin"], renamed["nothing of ours"] = renamed["sorted type_4"], 1.0
    mapping = {f"sorted type_{k}": f"type_{k}" for k in range(5)} | {"twin": "type_4"}
    options = {"mapping": mapping, "rna_content": SIZES} | KEYS
    mapped = hp.pp.add_sorted_profiles(known, AnnData(renamed.T), ["type_4"], **options)
    np.testing.assert_allclose(mapped.X.toarray(), direct.X.toarray(), atol=1)


def test_genes_are_those_of_both_and_the_result_can_be_written(tmp_path):
    _, known, profiles, _ = planted()
    fewer = profiles.drop(index=profiles.index[:300])
    whole = hp.pp.add_sorted_profiles(known, fewer, ["type_4"], rna_content=SIZES, **KEYS)
    assert list(whole.var_names) == [gene for gene in known.var_names if gene in fewer.index]
    whole.write_h5ad(tmp_path / "whole.h5ad")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"types": ["type_0"]}, ValueError, "type_0 already"),
        ({"types": ["type_9"]}, KeyError, "no profile is named type_9"),
        ({"mapping": {"no such": "type_4"}}, KeyError, "are no profiles"),
        ({"rna_content": None}, ValueError, "no RNA content of type_4"),
        ({"rna_content": "epic"}, TypeError, "rna_content=.epic.; expected a dict"),
        ({"profiles": lambda x: np.log1p(x)}, ValueError, "look logged"),
        ({"profiles": lambda x: -x}, ValueError, "finite values >= 0"),
        ({"profiles": lambda x: x[["type_4"]]}, ValueError, "no type in common"),
        ({"profiles": lambda x: x.iloc[:100]}, ValueError, "share 100 gene names"),
        ({"profiles": lambda x: x.to_numpy()}, TypeError, "expected a DataFrame"),
        ({"labels_key": "kind"}, KeyError, "labels_key"),
    ],
)
def test_bad_input_is_named(change, error, match):
    _, known, profiles, _ = planted()
    options = {"types": ["type_4"], "rna_content": SIZES} | KEYS | change
    given = options.pop("profiles", lambda x: x)(profiles)
    with pytest.raises(error, match=match):
        hp.pp.add_sorted_profiles(known, given, **options)


def test_single_cells_are_no_sums():
    cells, _ = hp.datasets.planted_cohort(n_types=5, n_genes=1200, n_cells=400, seed=3)
    cells.obs["n_cells"] = 1
    with pytest.raises(ValueError, match="single cells"):
        hp.pp.add_sorted_profiles(cells, planted()[2], ["type_4"], rna_content=SIZES, **KEYS)
