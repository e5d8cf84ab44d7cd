"""Models and data are freed with their last name; copies of managers keep what they need."""

import copy
import gc
import os
import pickle
import threading
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi

import hpvade as hp
from hpvade.models._manager import WeakManager

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "early_stopping": False}


@pytest.fixture(scope="module")
def cells():
    return hp.datasets.planted_contexts(90, 20, seed=0)


def use(model, data):
    """Train, and ask about other cells."""
    model.train(1, **QUIET)
    model.get_latent_representation(data)
    return model


def stores(model_class):
    return len(model_class._setup_adata_manager_store), len(model_class._per_instance_manager_store)


def test_models_and_data_are_freed(family, cells):
    adata, other = cells.copy(), cells.copy()
    model = family(adata)
    if isinstance(model, hp.RegularizedMultimodalVI):
        other = model.adata.copy()
    cls, watched = type(model), [weakref.ref(x) for x in (model, model.adata, adata, other)]
    gc.collect()  # what other tests left
    before = stores(cls)
    use(model, other)
    assert cls._per_instance_manager_store[model.id]
    del model, adata, other
    gc.collect()
    assert [ref() is None for ref in watched] == [True] * 4
    assert stores(cls) == (before[0] - 1, before[1] - 1)


def test_data_that_the_model_holds_outlive_the_name(cells, families):
    model = families["ivae"](cells.copy())
    gc.collect()
    assert use(model, model.adata).adata.n_obs == 90


def test_data_alone_are_freed_and_their_entry_goes(cells):
    adata = cells.copy()
    hp.IVAE.setup_anndata(adata)
    key = adata.uns["_scvi_uuid"]
    assert key in hp.IVAE._setup_adata_manager_store
    copied = adata.copy()
    hp.IVAE.setup_anndata(copied)  # scvi-tools gives a copy the same key
    del adata
    gc.collect()
    assert hp.IVAE._setup_adata_manager_store[key].adata is copied
    hp.IVAE(copied)
    del copied
    gc.collect()
    assert key not in hp.IVAE._setup_adata_manager_store


def test_repeated_setups_of_one_object_leave_one_entry(cells):
    adata, before = cells.copy(), len(weakref.finalize._registry)
    for _ in range(20):
        hp.IVAE.setup_anndata(adata)
    assert len(weakref.finalize._registry) == before + 1


@pytest.mark.parametrize("how", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_model_keep_their_data(how, cells, families):
    model = use(families["ivae"](cells.copy()), None)
    expected, copied = model.get_latent_representation(), how(model)
    del model
    gc.collect()
    assert isinstance(copied.adata_manager, WeakManager) and copied.adata_manager.adata is copied.adata
    np.testing.assert_array_equal(copied.get_latent_representation(), expected)


def test_who_holds_the_manager_of_a_model_keeps_its_data(cells, families):
    manager = families["ivae"](cells.copy()).adata_manager
    gc.collect()
    assert manager.get_from_registry("X").shape == (90, 20)
    watched = weakref.ref(manager.adata)
    del manager
    gc.collect()
    assert watched() is None


def test_a_copied_manager_keeps_its_data(cells):
    adata = cells.copy()
    hp.IVAE.setup_anndata(adata)
    manager = pickle.loads(pickle.dumps(hp.IVAE._setup_adata_manager_store[adata.uns["_scvi_uuid"]]))
    gc.collect()
    assert manager.adata.n_obs == 90 and manager.adata is not adata


def test_a_deleted_copy_does_not_confuse_the_next(cells, families):
    model = use(families["ivae"](cells.copy()), None)
    expected = model.get_latent_representation()
    for _ in range(3):  # each copy has the key of the model's own data
        np.testing.assert_array_equal(model.get_latent_representation(model.adata.copy()), expected)
        gc.collect()


def test_categories_without_cells_are_none_of_the_model(family, cells):
    adata = cells.copy()
    for column in ("cell_type", "condition", "tissue"):
        values = adata.obs[column].astype("category")
        adata.obs[column] = values.cat.add_categories("ghost").cat.reorder_categories(["ghost", *values.cat.categories])
    given = adata.obs.copy()
    model = family(adata)
    assert "ghost" not in str(model.registry["field_registries"])
    pd.testing.assert_frame_equal(adata.obs[given.columns], given)  # the user's columns stay
    before = str(model.registry["field_registries"])
    type(model)._setup_adata_manager_store.clear()
    family(adata)  # another setup of the same cells: scvi-tools registers again for the first model
    model._validate_anndata()
    assert str(model.registry["field_registries"]) == before


def resident() -> float:
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_two_hundred_cycles_in_one_process_are_flat():
    seen = []
    reference, bulk = hp.datasets.planted_cohort(n_types=3, n_genes=200, n_donors=2, n_cells=600, n_samples=4, seed=1)
    for cycle in range(200):
        adata = reference.copy()
        scvi.settings.seed = 0
        hp.HPVADE.setup_anndata(adata, labels_key="cell_type")
        model = hp.HPVADE(adata, n_hidden=8, n_latent=2)
        model.train(1, **QUIET)
        model.deconvolve(bulk.copy())
        del model, adata
        gc.collect()
        if cycle in (50, 199):
            files = len(os.listdir("/proc/self/fd"))
            finalizers, entries = len(weakref.finalize._registry), sum(stores(hp.HPVADE))
            seen.append((resident(), threading.active_count(), files, finalizers, entries))
    (memory, *first), (later, *last) = seen
    assert last == first
    assert later < memory + 20  # one reference with its model is half a megabyte a cycle
