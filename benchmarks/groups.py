"""Groups of samples: false findings without a difference, power with one, beside a plain t test; times of pictures.

    python benchmarks/groups.py DATA_FOLDER cohorts [--platforms 20] [--cohorts 200] [--seed 0]
    python benchmarks/groups.py DATA_FOLDER times

`cohorts` makes bulk of another study's cells (Kang, controls) with the noise of another platform, deconvolves it with
the shipped blood model and takes intervals: one batch of samples per platform, of which half have the composition of
blood and the others one type 5 points higher. Cohorts of 10 against 10 samples are drawn from one batch and compared
by every method of `hp.tl.compare_groups` and by a t test (Welch's) on the fractions, all with Benjamini and
Hochberg's FDR over the types. `times` measures pictures and the report.
"""

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _cohorts import read_reference
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests

import hpvade as hp
from hpvade.simulate import PlatformNoise, cells_as_chunks, draw_mixtures

KEY = "hpvade_proportions"
BLOOD = {"B": 0.1, "CD4 T": 0.37, "CD8 T": 0.15, "DC": 0.03, "Mono": 0.22, "NK": 0.1, "Platelet": 0.03}
NAMES = {
    "B cells": "B",
    "CD4 T cells": "CD4 T",
    "CD8 T cells": "CD8 T",
    "Dendritic cells": "DC",
    "CD14+ Monocytes": "Mono",
    "FCGR3A+ Monocytes": "Mono",
    "NK cells": "NK",
    "Megakaryocytes": "Platelet",
}
PLANTED = ("B", "CD8 T", "Mono", "NK")
CONCENTRATION = 30  # of the Dirichlet: sd .05 for B cells, .09 for CD4 T cells
ALPHA = 0.1


def compositions(n: int, shifted: str | None, rng: np.random.Generator) -> np.ndarray:
    """Compositions (n x types) around blood; of the shifted ones, one type is 5 points higher on average."""
    mean = pd.Series(BLOOD)
    if shifted is not None:
        mean *= (1 - mean[shifted] - 0.05) / (1 - mean[shifted])
        mean[shifted] = BLOOD[shifted] + 0.05
    return rng.dirichlet(CONCENTRATION * mean, n)


def batches(folder: Path, n_platforms: int, seed: int, n_samples: int = 60) -> list[ad.AnnData]:
    """Deconvolved samples, one AnnData per platform; `obs["pool"]` is "none" or the type that is higher."""
    cells = read_reference(folder, "kang_ctrl_stim:ctrl")
    types = cells.obs["cell_type"].astype(str).map(NAMES)
    chunks = cells_as_chunks(
        cells.X, types.map(list(BLOOD).index).to_numpy(), cells.obs["donor"].cat.codes.to_numpy(), len(BLOOD)
    )
    model = hp.HPVADE.load(hp.datasets.blood_model(), accelerator="cpu")
    rng, made = np.random.default_rng(seed), []
    pools = [None, *PLANTED]
    sizes = [2 * n_samples, *[n_samples] * len(PLANTED)]
    for _ in range(n_platforms):
        fractions = np.concatenate([compositions(n, pool, rng) for pool, n in zip(pools, sizes, strict=True)])
        mixed = draw_mixtures(chunks, fractions, rng, max_chunks=None, noise=PlatformNoise())
        bulk = ad.AnnData(mixed.counts, var=pd.DataFrame(index=cells.var_names))
        bulk.obs_names = [f"s{i}" for i in range(bulk.n_obs)]
        bulk.obs["pool"] = np.repeat([pool or "none" for pool in pools], sizes)
        bulk.obsm["truth"] = pd.DataFrame(mixed.proportions, bulk.obs_names, list(BLOOD))
        model.deconvolve(bulk, missing="zero")
        intervals = model.get_proportion_intervals(bulk, missing="zero")
        for bound in ("lower", "upper"):
            bulk.obsm[f"{KEY}_{bound}"] = intervals.xs(bound, axis=1, level="bound")
        made.append(bulk)
    return made


def drawn(batch: ad.AnnData, pool: str, rng: np.random.Generator, n: int = 10) -> ad.AnnData:
    """A cohort of n against n samples; group b comes from `pool`."""
    names = batch.obs["pool"].to_numpy()
    first = rng.choice(np.flatnonzero(names == "none"), 2 * n if pool == "none" else n, replace=False)
    second = first[n:] if pool == "none" else rng.choice(np.flatnonzero(names == pool), n, replace=False)
    cohort = ad.AnnData(obs=pd.DataFrame({"group": ["a"] * n + ["b"] * n}, index=[f"s{i}" for i in range(2 * n)]))
    for key in (KEY, f"{KEY}_lower", f"{KEY}_upper", "truth"):
        cohort.obsm[key] = batch.obsm[key].iloc[[*first[:n], *second]].set_axis(cohort.obs_names)
    cohort.uns[KEY] = batch.uns[KEY]
    return cohort


def t_test(table: pd.DataFrame, groups: np.ndarray) -> pd.Series:
    """FDR of every type by Welch's t test on the fractions."""
    p = ttest_ind(table[groups == "b"], table[groups == "a"], equal_var=False).pvalue
    return pd.Series(multipletests(np.nan_to_num(p, nan=1.0), method="fdr_bh")[1], table.columns)
