"""Profiles of hypothesis: `ci` by default, `deep` with ``--hypothesis-profile=deep``; one tiny model per family."""

import logging
import warnings

import hypothesis
import pytest
import scvi
from hypothesis import HealthCheck, Phase
from property_inputs import COUNTS, cells

import hpvade as hp

COMMON = {
    "deadline": None,
    "database": None,
    "phases": [Phase.explicit, Phase.generate],  # three faults at most: nothing to shrink
    "print_blob": True,
    "suppress_health_check": list(HealthCheck),
}
# examples of every callable; there are about 120
hypothesis.settings.register_profile("ci", max_examples=3, derandomize=True, **COMMON)
hypothesis.settings.register_profile("deep", max_examples=90, **COMMON)


def pytest_configure(config):
    if not config.getoption("--hypothesis-profile", None):
        hypothesis.settings.load_profile("ci")


def pair(adata):
    """The cells as two modalities, those of the multimodal model; None where mudata itself refuses them."""
    from mudata import MuData

    other = adata.copy()
    other.var_names = [f"peak_{name}" for name in other.var_names]
    try:
        return MuData({"rna": adata.copy(), "atac": other})
    except Exception:  # noqa: BLE001
        return None


def pytest_terminal_summary(terminalreporter):
    if sum(COUNTS.values()):
        terminalreporter.write_line(f"cases: {sum(COUNTS.values())}, {COUNTS}")


@pytest.fixture(scope="session")
def models(families, tmp_path_factory):
    """One trained model of every family by name; their cells, folders they are saved in, functions that make them."""
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    logging.disable(logging.WARNING)
    found = {"make": families, "saved": {}, "cells": cells(), "folder": tmp_path_factory.mktemp("models")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for family, make in families.items():
            scvi.settings.seed = 0
            found[family] = make(cells())
            found[family].train(1, **quiet)
            found["saved"][family] = found["folder"] / family
            found[family].save(found["saved"][family])
        found["pair"] = pair
        symbols = hp.datasets.blood_anchor().var_names
        found["symbols"] = dict(zip(found["cells"].var_names, symbols, strict=False))
        both = pair(cells())
        hp.RegularizedMultimodalVI.setup_mudata(both, batch_key="tissue")
        weighted = hp.RegularizedMultimodalVI(both, n_hidden=8, n_latent=3, latent_mode="weighted_mean")
        weighted.train(1, **quiet)
        found["weighted"] = weighted
        studies = cells()
        hp.HPVADE.setup_anndata(studies, "cell_type", study_key="tissue")
        found["studies"] = hp.HPVADE(studies, n_hidden=8, n_latent=3)
        found["studies"].train(1, **quiet)
    yield found
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def bulk(models):
    """Eight samples made of the cells, with measured proportions."""
    adata = hp.pp.simulate_bulk(models["cells"], "cell_type", 8, n_cells=100, seed=0)
    adata.obs["lane"] = ["a", "b"] * 4
    return adata
