"""Categories that no cell has are no types, donors or batches."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import hpvade as hp


def cells(labels, donors) -> ad.AnnData:
    mean = np.where(np.arange(20) % 3 == pd.factorize(np.asarray(labels, dtype=str))[0][:, None], 20.0, 2.0)
    X = np.random.default_rng(0).poisson(mean).astype(np.float32)
    obs = pd.DataFrame({"cell_type": labels, "donor": donors}, index=[f"c{i}" for i in range(len(labels))])
    return ad.AnnData(X, obs=obs)


TYPES, DONORS = np.array(["B", "NK", "T"])[np.arange(60) % 3], np.array(["d1", "d2"])[np.arange(60) % 2]


def merged() -> ad.AnnData:
    adata = cells(pd.Categorical(TYPES), pd.Categorical(DONORS))
    adata.obs.loc[adata.obs.cell_type == "T", "cell_type"] = "NK"
    return adata


def declared() -> ad.AnnData:
    kinds = pd.Categorical(np.where(TYPES == "T", "NK", TYPES), categories=["A", "B", "NK", "Z"])
    return cells(kinds, pd.Categorical(DONORS, categories=["d0", "d1", "d2", "d3"]))


def subset() -> ad.AnnData:
    with ad.settings.override(remove_unused_categories=False):
        adata = cells(pd.Categorical(TYPES), pd.Categorical(DONORS))
        return adata[adata.obs.cell_type != "T"].copy()


@pytest.mark.parametrize("make", [merged, declared, subset])
def test_unused_categories_are_left_out_and_the_column_stays(make):
    adata = make()
    before = adata.obs[["cell_type", "donor"]].copy()
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    pd.testing.assert_frame_equal(adata.obs[["cell_type", "donor"]], before)
    model = hp.HPVADE(adata)
    assert model.cell_types == ["B", "NK"]
    assert model.registry["field_registries"]["sample"]["state_registry"]["categorical_mapping"].tolist() == [
        "d1",
        "d2",
    ]
    assert sorted(set(adata.obs["_scvi_labels"])) == [0, 1]


@pytest.mark.parametrize("dtype", ["string", "object", "category"])
def test_labels_of_any_dtype(dtype):
    adata = cells(pd.Series(TYPES, index=[f"c{i}" for i in range(60)]).astype(dtype), DONORS)
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type")
    assert hp.HPVADE(adata).cell_types == ["B", "NK", "T"]


@pytest.mark.slow
@pytest.mark.parametrize("make", [merged, declared, subset])
def test_models_with_unused_categories_train_and_answer(make):
    adata = make()
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    model = hp.HPVADE(adata)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    assert list(adata.varm["hpvade_signatures"].columns) == ["B", "NK"]
