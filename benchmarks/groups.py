"""Groups of samples: false findings without a difference, power with one, beside a plain t test; times of pictures.

    python benchmarks/groups.py DATA_FOLDER cohorts [--cohorts 200] [--platforms 20] [--seed 0] [--records FILE]
    python benchmarks/groups.py DATA_FOLDER level [--cohorts 200] [--platforms 20] [--seed 0] [--records FILE]
    python benchmarks/groups.py DATA_FOLDER effects [--platforms 5] [--seed 0]
    python benchmarks/groups.py DATA_FOLDER times

`cohorts` makes bulk of another study's cells (Kang, controls) with the noise of another platform, deconvolves it with
the shipped blood model and takes intervals: one batch of samples per platform, some with the composition of blood and
others with one type 5 points higher, scattered as Dirichlet of two concentrations. Cohorts of 10 against 10 samples are
drawn from one batch and compared by every method of `hp.tl.compare_groups` and by a t test (Welch's) on the fractions,
all with Benjamini and Hochberg's FDR over the types. `level` makes cohorts without a difference only. `effects`
says what the estimates leave of a planted difference. `times` measures pictures and the report.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _cohorts import read_reference
from scipy.stats import ttest_ind
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

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
CONCENTRATIONS = (30, 100)  # of the Dirichlet: people that differ much (sd .064 of CD8 T), and less (.036)
ALPHA = 0.1


def compositions(n: int, shifted: str | None, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """Compositions (n x types) around blood; of the shifted ones, one type is 5 points higher on average."""
    mean = pd.Series(BLOOD)
    if shifted is not None:
        mean *= (1 - mean[shifted] - 0.05) / (1 - mean[shifted])
        mean[shifted] = BLOOD[shifted] + 0.05
    return rng.dirichlet(concentration * mean, n)


def batches(folder: Path, n_platforms: int, concentration: float, seed: int) -> Iterator[ad.AnnData]:
    """Deconvolved samples, one AnnData per platform; `obs["pool"]` is "none" or the type that is higher."""
    cells = read_reference(folder, "kang_ctrl_stim:ctrl")
    types = cells.obs["cell_type"].astype(str).map(NAMES)
    chunks = cells_as_chunks(
        cells.X, types.map(list(BLOOD).index).to_numpy(), cells.obs["donor"].cat.codes.to_numpy(), len(BLOOD)
    )
    model = hp.HPVADE.load(hp.datasets.blood_model(), accelerator="cpu")
    rng = np.random.default_rng(seed)
    pools, sizes = [None, *PLANTED], [60, *[30] * len(PLANTED)]
    for _ in range(n_platforms):
        fractions = np.concatenate(
            [compositions(n, pool, concentration, rng) for pool, n in zip(pools, sizes, strict=True)]
        )
        mixed = draw_mixtures(chunks, fractions, rng, max_chunks=None, noise=PlatformNoise())
        bulk = ad.AnnData(mixed.counts, var=pd.DataFrame(index=cells.var_names))
        bulk.obs_names = [f"s{i}" for i in range(bulk.n_obs)]
        bulk.obs["pool"] = np.repeat([pool or "none" for pool in pools], sizes)
        bulk.obsm["truth"] = pd.DataFrame(mixed.proportions, bulk.obs_names, list(BLOOD))
        model.deconvolve(bulk, missing="zero")
        intervals = model.get_proportion_intervals(bulk, missing="zero")
        for bound in ("lower", "upper"):
            bulk.obsm[f"{KEY}_{bound}"] = intervals.xs(bound, axis=1, level="bound")
        yield bulk


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


def found(cohort: ad.AnnData, method: str) -> pd.Series:
    """FDR of every type by one of the methods."""
    if method == "t test":
        return t_test(cohort.obsm[KEY], cohort.obs["group"].to_numpy())
    if method == "t test, true fractions":
        return t_test(cohort.obsm["truth"], cohort.obs["group"].to_numpy())
    return hp.tl.compare_groups(cohort, "group", method=method).set_index("type")["fdr"]


METHODS = ("weighted", "ols", "draws", "t test", "t test, true fractions")
OF_LEVEL = ("weighted", "ols", "t test")


def cohorts(
    folder: Path, n_cohorts: int, n_platforms: int, seed: int, planted: bool = True, methods: tuple = METHODS
) -> pd.DataFrame:
    """One record per cohort and method: whether it found anything (or the planted type), and the share of types."""
    records = []
    for concentration in CONCENTRATIONS:
        rng = np.random.default_rng(seed + 1)
        for platform, batch in enumerate(batches(folder, n_platforms, concentration, seed)):
            for pool in ("none", *PLANTED) if planted else ("none",):
                n = -(-n_cohorts // n_platforms)
                for _ in range(n if pool == "none" else -(-n // 2)):
                    cohort = drawn(batch, pool, rng)
                    for method in methods:
                        if method == "draws" and pool != "none":
                            continue  # finds nothing, at some length
                        fdr = found(cohort, method)
                        hit = fdr <= ALPHA
                        own = hit.any() if pool == "none" else hit[pool]
                        records.append((concentration, method, pool, own, hit.mean(), f"{seed}-{platform}"))
    return pd.DataFrame(records, columns=["concentration", "method", "pool", "hit", "share", "platform"])


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of cohorts with a finding (Wilson's interval) and of findings without a difference, and power."""
    wide = table.pivot_table(index=["concentration", "method"], columns="pool", values="hit")
    types = [name for name in PLANTED if name in wide]
    wide = wide[["none", *types]].rename(columns={"none": "no difference: cohorts with a finding"})
    none = table[table["pool"] == "none"].groupby(wide.index.names)["hit"]
    low, high = proportion_confint(none.sum(), none.size(), method="wilson")
    wide.insert(1, "95 % interval", [f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)])
    wide.insert(2, "tests with a finding", table[table["pool"] == "none"].groupby(wide.index.names)["share"].mean())
    if types:
        wide["power, mean"] = wide[types].mean(axis=1)
    order = pd.MultiIndex.from_product([CONCENTRATIONS, METHODS], names=wide.index.names)
    return wide.loc[[row for row in order if row in wide.index]].rename(
        columns={name: f"+5 points {name}" for name in PLANTED}
    )


def effects(folder: Path, n_platforms: int, seed: int) -> pd.DataFrame:
    """What the estimates leave of 5 points: the difference found, and differences in units of their scatter."""
    records = []
    for concentration in CONCENTRATIONS:
        for batch in batches(folder, n_platforms, concentration, seed):
            names = batch.obs["pool"].to_numpy()
            for pool in PLANTED:
                for what, key in (("truth", "truth"), ("estimate", KEY)):
                    x = batch.obsm[key][pool].to_numpy()
                    a, b = x[names == "none"], x[names == pool]
                    scatter = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
                    records.append((concentration, pool, what, b.mean() - a.mean(), scatter))
    table = pd.DataFrame(records, columns=["concentration", "type", "of", "difference", "scatter"])
    mean = table.groupby(["concentration", "type", "of"]).mean().assign(ratio=lambda t: t["difference"] / t["scatter"])
    wide = mean.unstack("of")
    return wide.set_axis([f"{name}, {of}" for name, of in wide.columns], axis=1).reset_index()


def timed(call, *arguments, **options) -> tuple[float, float]:
    """Seconds and CPU seconds of the second call: fonts and caches are there."""
    call(*arguments, **options)
    plt.close("all")
    start, cpu = time.perf_counter(), time.process_time()
    call(*arguments, **options)
    return time.perf_counter() - start, time.process_time() - cpu


def planted(n: int, n_types: int) -> ad.AnnData:
    """Proportions of n samples in three groups, with bounds."""
    rng = np.random.default_rng(0)
    bulk = ad.AnnData(obs=pd.DataFrame({"group": np.resize(list("abc"), n)}, index=[f"s{i}" for i in range(n)]))
    table = rng.dirichlet(rng.gamma(1, 3, n_types) + 0.05, n)
    bulk.obsm[KEY] = pd.DataFrame(table, bulk.obs_names, [f"type {i}" for i in range(n_types)])
    bulk.obsm[f"{KEY}_lower"] = (bulk.obsm[KEY] - 0.02).clip(lower=0)
    bulk.obsm[f"{KEY}_upper"] = bulk.obsm[KEY] + 0.02
    return bulk


def times() -> pd.DataFrame:
    """Pictures drawn and written, comparisons, and a page of 500 samples."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.png"
        for n, n_types in ((200, 45), (1000, 45)):
            bulk = planted(n, n_types)
            size = f"{n} x {n_types}"
            records.append(("pl.proportions, heat map", size, *timed(hp.pl.proportions, bulk, save=file)))
            boxes = {"groupby": "group", "save": file}
            records.append(("pl.proportions, three groups", size, *timed(hp.pl.proportions, bulk, **boxes)))
            records.append(("tl.compare_groups, three groups", size, *timed(hp.tl.compare_groups, bulk, "group")))
        model = hp.HPVADE.load(hp.datasets.blood_model(), accelerator="cpu")
        shipped = hp.datasets.pbmc_bulk()
        X = shipped.X.toarray() if hasattr(shipped.X, "toarray") else np.asarray(shipped.X)
        rng = np.random.default_rng(0)
        counts = rng.poisson(rng.dirichlet(np.ones(len(X)), 500) @ X).astype(np.float32)
        bulk = ad.AnnData(counts, var=shipped.var.copy())
        bulk.obs_names = [f"s{i}" for i in range(500)]
        bulk.obs["group"] = np.resize(["a", "b"], 500)
        model.deconvolve(bulk)
        intervals = model.get_proportion_intervals(bulk)
        for bound in ("lower", "upper"):
            bulk.obsm[f"{KEY}_{bound}"] = intervals.xs(bound, axis=1, level="bound")
        hp.tl.diagnose(bulk, model)
        page = Path(folder) / "page.html"
        seconds = timed(hp.report, bulk, model, page, groupby="group")
        records.append((f"report, {page.stat().st_size / 1e6:.1f} MB", "500 x 8", *seconds))
    return pd.DataFrame(records, columns=["what", "samples x types", "seconds", "CPU seconds"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=["cohorts", "level", "effects", "times"])
    parser.add_argument("--cohorts", type=int, default=200)
    parser.add_argument("--platforms", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--records", type=Path, help="CSV of cohorts, to which these are added before the table is made"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of batches, one per platform
    if options.part in ("cohorts", "level"):
        planted, methods = options.part == "cohorts", METHODS if options.part == "cohorts" else OF_LEVEL
        table = cohorts(options.folder, options.cohorts, options.platforms, options.seed, planted, methods)
        if options.records is not None:
            table.to_csv(options.records, mode="a", header=not options.records.exists(), index=False)
            table = pd.read_csv(options.records)
        print(summary(table).round(3).reset_index().to_markdown(index=False))
    elif options.part == "effects":
        print(effects(options.folder, options.platforms, options.seed).round(3).to_markdown(index=False))
    else:
        print(times().round(2).to_markdown(index=False))


if __name__ == "__main__":
    main()
