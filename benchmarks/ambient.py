"""Ambient RNA, integration, deconvolution with a cleaned reference, speed: the figures of the clean-reference models.

    python benchmarks/ambient.py DATA_FOLDER [--only planted scar simulated simulated_scar reference speed ...]
        [--seeds 0 1 2] [--results FOLDER] [--epochs 60]

Prints markdown tables, medians over seeds. `planted`: ambient counts of known profile and share (5, 15 and 30 % in
three batches) are added to real cells; compared with doing nothing. `simulated`: the same with drawn cells, so that it
is known which genes a type truly lacks. `scar` and `simulated_scar`: scvi.external.SCAR on the same cells (an hour).
`evidence`: shares found and counts removed, with the labels as groups and three kinds of profile, without training.
`unbalanced`: the same of batches that lack types. `integration`: scib-metrics on seven PBMC data sets, compared with
SCVI of the same size and epochs (needs `pip install scib-metrics`).
`reference`: proportions of simulated bulk from a contaminated, a cleaned and the uncontaminated reference. `speed`:
seconds per epoch and peak memory, each model in a process of its own. With `--results`, the rows of every part and seed
are kept as CSV, and those that are there already are not computed again.
"""

import argparse
import functools
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse
import scvi
from _cohorts import read_reference

import hpvade as hp
from hpvade.models.ambient._clean import _native_counts
from hpvade.models.ambient._evidence import _assess, _floor, _scatter, markers
from hpvade.models.ambient._native_share import native_share
from hpvade.models.ambient._profile import refine_profile

SCAR = scvi.external.SCAR  # noqa: TID251  a baseline, nothing is built on it
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def variable_genes(adata: ad.AnnData, n: int) -> ad.AnnData:
    """The genes with the highest ratio of variance to mean of counts per ten thousand."""
    X = adata.X.multiply(1e4 / adata.X.sum(axis=1)).tocsr()
    mean = X.mean(axis=0).A1
    ratio = np.where(mean > 0.05, (X.multiply(X).mean(axis=0).A1 - mean**2) / np.maximum(mean, 1e-9), 0)
    adata = adata[:, np.sort(np.argsort(-ratio)[:n])].copy()
    return adata[adata.X.sum(axis=1).A1 > 20].copy()


def planted_cells(folder: Path, cells: int, genes: int, seed: int) -> ad.AnnData:
    adata = read_reference(folder, "ref_pbmc3k")
    adata = adata[np.random.default_rng(seed).permutation(adata.n_obs)[:cells]].copy()
    return hp.datasets.plant_ambient(variable_genes(adata, genes), seed=seed)


def fit_ambient(observed: ad.AnnData, epochs: int, seed: int, **plan) -> hp.AmbientRegularizedSCVI:
    scvi.settings.seed = seed
    hp.AmbientRegularizedSCVI.setup_anndata(observed, batch_key="batch")
    model = hp.AmbientRegularizedSCVI(observed)
    model.train(epochs, train_size=1.0, plan_kwargs=plan, **QUIET)
    return model


def score(observed: ad.AnnData, clean: np.ndarray, lacks: dict[str, np.ndarray] | None = None) -> dict[str, float]:
    """Ambient counts that go and native counts that stay, types with 20 cells or more.

    `lacks` holds the genes that each type lacks. Without it, a gene is absent from a type that has no native count of
    it although five or more would be expected if the type expressed it as the average cell does; "drop of zeros" takes
    all genes without a native count, most of which a type may well express. "kept" and "surplus" compare sums over the
    cells of a type, "kept by cell" single values.
    """
    native, before = observed.layers["native"].toarray(), observed.X.toarray()
    types, mean = observed.obs["cell_type"], native.sum(axis=0) / native.sum()
    gone, there = np.zeros(2), np.zeros(2)
    kept = own_kept = total = surplus = 0.0
    for name in types.cat.categories:
        own = (types == name).to_numpy()
        if own.sum() < 20:
            continue
        n, o, c = (matrix[own].sum(axis=0) for matrix in (native, before, clean))
        absent = (n == 0) & (mean * n.sum() >= 5) if lacks is None else lacks[name]
        for k, chosen in enumerate([absent, n == 0]):
            gone[k], there[k] = gone[k] + (o - c)[chosen].sum(), there[k] + o[chosen].sum()
        kept, total, surplus = kept + np.minimum(c, n).sum(), total + n.sum(), surplus + np.maximum(c - n, 0).sum()
        own_kept += np.minimum(clean[own], native[own]).sum()
    names = ("drop of absent", "drop of zeros", "kept", "kept by cell", "surplus")
    return dict(zip(names, [*gone / there, kept / total, own_kept / total, surplus / total], strict=True))


@functools.cache
def _fitted(folder: Path, cells: int, genes: int, epochs: int, seed: int):
    """Contaminated cells and a model trained on them, shared by two parts."""
    observed = planted_cells(folder, cells, genes, seed)
    return observed, fit_ambient(observed, epochs, seed)


def planted(folder: Path, args, seed: int) -> pd.DataFrame:
    return compare(*_fitted(folder, args.cells, args.genes, args.epochs, seed))


def scar(folder: Path, args, seed: int) -> pd.DataFrame:
    return scar_rows(planted_cells(folder, args.cells, args.genes, seed), seed)


def drawn_cells(seed: int) -> tuple[ad.AnnData, dict[str, np.ndarray]]:
    """Six types of drawn cells with planted ambient RNA; a third of the genes is in all of them, each other in one.

    Returns the cells and the genes that each type lacks.
    """
    rng = np.random.default_rng(seed)
    n_cells, n_genes, n_types = 1200, 360, 6
    owner, kind = np.arange(n_genes) % (n_types * 3 // 2), rng.integers(n_types, size=n_cells)
    types = np.array([f"type {k}" for k in range(n_types)])
    expressed = np.array([(owner == k) | (owner >= n_types) for k in range(n_types)])
    profiles = rng.gamma(1.0, 1.0, (n_types, n_genes)) * expressed
    profiles /= profiles.sum(axis=1, keepdims=True)
    native = rng.poisson(800 * profiles[kind] * rng.lognormal(0, 0.4, (n_cells, 1))).astype(np.float32)
    obs = pd.DataFrame({"cell_type": pd.Categorical(types[kind])}, index=[f"c{i}" for i in range(n_cells)])
    observed = hp.datasets.plant_ambient(ad.AnnData(native, obs=obs), seed=seed)
    return observed, dict(zip(types, ~expressed, strict=True))


def simulated(folder: Path, args, seed: int) -> pd.DataFrame:
    observed, lacks = drawn_cells(seed)
    return compare(observed, fit_ambient(observed, args.epochs, seed), lacks)


def simulated_scar(folder: Path, args, seed: int) -> pd.DataFrame:
    observed, lacks = drawn_cells(seed)
    return scar_rows(observed, seed, lacks)


def compare(observed: ad.AnnData, model, lacks: dict | None = None) -> pd.DataFrame:
    """Cleaned counts of the model, and none."""
    truth = observed.varm["ambient_profile"]
    found = model.get_ambient_profile(normalize=True)
    r = np.min([np.corrcoef(found[b], truth[b])[0, 1] for b in truth])
    rows = []
    for name, key in (("clusters", None), ("labels", "cell_type")):
        start = time.process_time()
        clean = model.get_clean_reference(labels_key=key)
        used = time.process_time() - start
        row = {"method": f"AmbientRegularizedSCVI, {name}", "profile r (lowest)": r}
        row |= {f"share {b}": clean.uns["ambient_share"].loc[b, "share"] for b in truth}
        rows.append(row | score(observed[clean.obs_names], clean.X.toarray(), lacks) | {"CPU s to clean": used})
    rows.append({"method": "nothing (profile: mean of the batch)", "profile r (lowest)": of_means(observed)[1]})
    rows[-1] |= score(observed, observed.X.toarray(), lacks)
    return pd.DataFrame(rows)


def of_means(observed: ad.AnnData) -> tuple[dict[str, np.ndarray], float]:
    """Sums over the cells of each batch, and their lowest correlation with the batch's ambient profile."""
    truth, batch = observed.varm["ambient_profile"], observed.obs["batch"]
    mean = {b: observed.X[(batch == b).to_numpy()].sum(axis=0).A1 for b in truth}
    return mean, np.min([np.corrcoef(mean[b], truth[b])[0, 1] for b in truth])


def scar_rows(observed: ad.AnnData, seed: int, lacks: dict | None = None) -> pd.DataFrame:
    """Cleaned counts of SCAR."""
    truth, batch = observed.varm["ambient_profile"], observed.obs["batch"]
    mean, r = of_means(observed)
    denoised, shares = np.zeros(observed.shape), {}
    for b in truth:  # SCAR has one profile for all cells, so one model per batch
        own = (batch == b).to_numpy()
        part = ad.AnnData(observed.X[own].copy())
        scvi.settings.seed = seed
        SCAR.setup_anndata(part)
        scar = SCAR(part, ambient_profile=mean[b] / mean[b].sum())
        scar.train(**QUIET)  # its own number of epochs, 400 here
        denoised[own] = np.asarray(scar.get_denoised_counts())
        shares[f"share {b}"] = 1 - denoised[own].sum() / observed.X[own].sum()
    row = {"method": "scvi.external.SCAR, per batch", "profile r (lowest)": r} | shares
    return pd.DataFrame([row | score(observed, denoised, lacks)])


SIMILAR = ["gamma", 0.3, 0.5, 1.0, 1.5]  # how types that share all genes differ: gamma(1), or log-normal with this sd
CLEAN = ["ref_pbmc3k", "ref_kang_ctrl_5donors", "sc_pancreas_panc8_small", "sc_zheng_sorted9"]


def signs(sums: np.ndarray, profile: np.ndarray, b: int) -> dict[str, float]:
    """What decides whether a batch has a floor: pairs below it per pair on it, and disagreement of low groups."""
    base = sums.sum(axis=2)[..., None] * profile
    chosen = markers(sums, base)
    counts, base = sums[:, b][:, chosen], base[:, b][:, chosen]
    _, _, likelihood, n, _ = _assess(counts, base)
    least, most = _scatter(counts, base)
    return {
        "leak": np.nan if likelihood is None else _floor(likelihood, n)[1],
        "scatter, least": least,
        "scatter, most": most,
    }


def evidence(folder: Path, args, seed: int) -> pd.DataFrame:
    """Cells with no ambient RNA but their own, and with planted one: how much is found, and removed?"""
    rng, rows = np.random.default_rng(seed), []

    def split(name: str, cells: ad.AnnData, planted: tuple = (0.0,), batch=None, profile=None) -> None:
        kind = pd.factorize(cells.obs["cell_type"])[0]
        batch = np.zeros(cells.n_obs, int) if batch is None else batch
        sums = np.zeros((kind.max() + 1, batch.max() + 1, cells.n_vars))
        np.add.at(sums, (kind, batch), cells.X.toarray())
        mean = sums.sum(axis=0) / sums.sum(axis=(0, 2))[:, None]
        n_cells = np.zeros(sums.shape[:2])
        np.add.at(n_cells, (kind, batch), 1)
        if profile is None or isinstance(profile, str):
            profile = mean if profile is None else refine_profile(sums, mean, n_cells)
        found = native_share(sums, profile, (cells.X, kind * (batch.max() + 1) + batch))
        removed = 1 - (found.share * sums).sum(axis=(0, 2)) / sums.sum(axis=(0, 2))
        for b in range(len(removed)):
            row = {"case": f"{name}, {planted[b]:.0%} planted" if any(planted) else name, "planted": planted[b]}
            row |= {"share": found.level[b], "lower": found.lower[b], "upper": found.upper[b], "removed": removed[b]}
            rows.append(row | signs(sums, profile, b))

    for sd in SIMILAR:
        for n in (60, 1200):
            spread = rng.gamma(1.0, 1.0, (6, 360)) if sd == "gamma" else rng.lognormal(0, sd, (6, 360))
            profiles = spread if sd == "gamma" else spread * rng.gamma(1.0, 1.0, 360)
            kind = np.arange(n) % 6
            mean = 800 * (profiles / profiles.sum(axis=1, keepdims=True))[kind] * rng.lognormal(0, 0.4, (n, 1))
            drawn = ad.AnnData(scipy.sparse.csr_matrix(rng.poisson(mean).astype(np.float32)))
            drawn.obs["cell_type"] = kind.astype(str)
            case = f"drawn, all genes in all types ({sd}), {n} cells"
            split(case, drawn)
            split(f"{case}, found profile", drawn, (0.0,) * 3, np.arange(n) // 6 % 3, "found")
    for n_types in (4, 5, 8):
        drawn = hp.datasets.planted_cohort(n_types=n_types, seed=seed)[0]
        donor = drawn.obs["donor"].cat.codes.to_numpy()
        shares = (0.05, 0.15, 0.4)
        dirty = hp.datasets.plant_ambient(drawn, fractions=shares, seed=seed)
        batch = dirty.obs["batch"].cat.codes.to_numpy()
        for way in (None, "found"):
            split(f"planted_cohort, {n_types} types, {way or 'mean'} profile", drawn, (0.0,) * 4, donor, way)
            split(f"planted_cohort, {n_types} types, {way or 'mean'} profile", dirty, shares, batch, way)
    for file in CLEAN:
        whole = read_reference(folder, file)
        whole = variable_genes(whole[rng.permutation(whole.n_obs)].copy(), args.genes)
        of = whole.obs["cell_type"].astype(str)
        ten = (of.groupby(of).cumcount() < 10).to_numpy()
        some = whole[:1500].copy()
        split(f"{file}, ten cells per type", whole[ten].copy())
        split(f"{file}, 1500 cells", some)
        third = rng.permutation(some.n_obs) % 3
        split(f"{file}, 1500 cells, found profile", some, (0.0,) * 3, third, "found")
        for concentration in (2.0, 5.0, 20.0):
            shares = (0.05, 0.15, 0.4)
            dirty = hp.datasets.plant_ambient(some, fractions=shares, concentration=concentration, seed=seed)
            batch = pd.factorize(dirty.obs["batch"].astype(str), sort=True)[0]
            measured = dirty.varm["ambient_profile"].to_numpy().T
            split(f"{file}, concentration {concentration:g}, mean profile", dirty, shares, batch)
            split(f"{file}, concentration {concentration:g}, found profile", dirty, shares, batch, "found")
            split(f"{file}, concentration {concentration:g}, measured profile", dirty, shares, batch, measured)
    return pd.DataFrame(rows)


def profiles(folder: Path, args, seed: int) -> pd.DataFrame:
    """See `profile_rows`; four references, three concentrations."""
    pairs = [(file, concentration) for file in CLEAN for concentration in (2.0, 5.0, 20.0)]
    return pd.concat([profile_rows(folder, args, seed, *pair, free=args.schedules) for pair in pairs])


def profile_rows(folder: Path, args, seed: int, file: str, concentration: float, free: bool = True) -> pd.DataFrame:
    """The profile that is learned by the networks, with its shape free in the second half of the epochs (default) or
    throughout, that `get_clean_reference` finds, and the planted one: r of what deviates from the mean of the batch.

    The mean is that of the cells' relative expression, at which the profile starts.
    """
    whole = read_reference(folder, file)
    some = variable_genes(whole[np.random.default_rng(seed).permutation(whole.n_obs)[: args.cells]].copy(), args.genes)
    dirty = hp.datasets.plant_ambient(some, fractions=(0.05, 0.15, 0.4), concentration=concentration, seed=seed)
    relative, batch = dirty.X.multiply(1 / dirty.X.sum(axis=1)).tocsr(), dirty.obs["batch"]
    truth = dirty.varm["ambient_profile"]
    mean = pd.DataFrame({b: relative[(batch == b).to_numpy()].mean(axis=0).A1 for b in truth}, truth.index)
    model = fit_ambient(dirty.copy(), args.epochs, seed)
    ways = {"learned": (model, model.get_ambient_profile(normalize=True))}
    if free:
        freed = fit_ambient(dirty.copy(), args.epochs, seed, background_level_share=0.0)
        ways["learned, always free"] = freed, freed.get_ambient_profile(normalize=True)
    ways |= {"found": (model, None), "planted": (model, truth)}
    rows = []
    for way, (fitted, profile) in ways.items():
        values = {"case": f"{file}, {concentration:g}: {way}"}
        for name, key in (("clusters", None), ("labels", "cell_type")):
            clean = fitted.get_clean_reference(labels_key=key, ambient_profile=profile)
            for k, b in enumerate(truth):
                deviation = clean.varm["ambient_profile"][:, k] - mean[b], truth[b] - mean[b]
                values[f"r {b}, {name}"] = np.corrcoef(*deviation)[0, 1]
            values |= {f"share {b}, {name}": clean.uns["ambient_share"].loc[b, "share"] for b in truth}
            scores = score(dirty[clean.obs_names], clean.X.toarray())
            values |= {f"{key}, {name}": scores[key] for key in ("drop of absent", "kept")}
        rows.append(values)
    return pd.DataFrame(rows)


def unbalanced(folder: Path, args, seed: int) -> pd.DataFrame:
    """Batches with 5, 15 and 40 % planted ambient RNA, each without the cells of a third of the types.

    RNA of these is in the ambient RNA, as of donors that are told apart after sequencing ("of all types"), or not ("of
    own types"). Groups are the labels; the profile is sought from the mean of the batch, without training.
    """
    rows, shares = [], (0.05, 0.15, 0.4)
    for file in CLEAN:
        whole = read_reference(folder, file)
        chosen = np.random.default_rng(seed).permutation(whole.n_obs)[:1500]
        some = variable_genes(whole[chosen].copy(), args.genes)
        third = pd.factorize(some.obs["cell_type"].astype(str), sort=True)[0] % 3
        for concentration in (2.0, 5.0, 20.0):
            for kind in ("of all types", "of own types", "all types in all batches"):
                if kind == "of own types":
                    draw, parts = np.random.default_rng(seed).integers(3, size=some.n_obs), []
                    for b, share in enumerate(shares):
                        part = some[(draw == b) & (third != b)].copy()
                        part.obs["cell_type"] = part.obs["cell_type"].cat.remove_unused_categories()
                        options = {"fractions": (share,), "concentration": concentration, "seed": 10 * seed + b}
                        parts.append(hp.datasets.plant_ambient(part, **options))
                    truth = np.hstack([part.varm["ambient_profile"] for part in parts]).T
                    dirty = ad.concat(parts, label="batch")
                    dirty.obs["cell_type"] = dirty.obs["cell_type"].astype("category")
                else:
                    dirty = hp.datasets.plant_ambient(some, fractions=shares, concentration=concentration, seed=seed)
                    truth = dirty.varm["ambient_profile"].to_numpy().T
                    if kind == "of all types":
                        dirty = dirty[third != dirty.obs["batch"].cat.codes.to_numpy()].copy()
                batch, label = (
                    pd.factorize(dirty.obs[key].astype(str), sort=True)[0] for key in ("batch", "cell_type")
                )
                place = label * 3 + batch
                sums, n_cells = np.zeros((label.max() + 1, 3, dirty.n_vars)), np.zeros((label.max() + 1, 3))
                np.add.at(sums, (label, batch), dirty.X.toarray())
                np.add.at(n_cells, (label, batch), 1)
                mean = sums.sum(axis=0) / sums.sum(axis=(0, 2))[:, None]
                found = refine_profile(sums, mean, n_cells)
                split = native_share(sums, found, (dirty.X, place))
                clean = _native_counts(dirty.X, place, batch, split, None)[0]
                row = {"case": f"{kind}, {file}"}
                for b, share in enumerate(shares):
                    r = np.corrcoef(found[b] - mean[b], truth[b] - mean[b])[0, 1] if np.any(found[b] != mean[b]) else 0
                    row |= {f"r {share:.0%}": r, f"share {share:.0%}": split.level[b]}
                scores = score(dirty, clean.toarray())
                rows.append(row | {key: scores[key] for key in ("drop of absent", "kept")})
    return pd.DataFrame(rows)


def query(folder: Path, args, seed: int) -> pd.DataFrame:
    """Ambient fraction of one batch's cells when they come back as a query, at other depths and under a new name."""
    observed, model = _fitted(folder, args.cells, args.genes, args.epochs, seed)
    rng, rows = np.random.default_rng(seed), []
    for batch in observed.obs["batch"].cat.categories:
        own = observed[observed.obs["batch"] == batch].copy()
        known = model.get_ambient_fraction(own).mean()
        for depth in (0.2, 1.0, 5.0):
            X = scipy.sparse.csr_matrix(rng.poisson(depth * own.X.toarray()).astype(np.float32))
            new = ad.AnnData(X, obs=own.obs[["cell_type"]].assign(batch="new"), var=own.var[[]])
            new = new[new.X.sum(axis=1).A1 > 0].copy()
            scvi.settings.seed = seed
            mapped = hp.AmbientRegularizedSCVI.load_query_data(new, model)
            row = {"cells": f"{batch}, depth x {depth:g}", "planted": own.obs["ambient_fraction"].mean()}
            row |= {"as reference": known, "untrained query": _untrained(mapped).get_ambient_fraction().mean()}
            mapped.train(100, train_size=1.0, **QUIET)  # as in the guide
            rows.append(row | {"trained query": mapped.get_ambient_fraction().mean()})
            rows[-1]["difference"] = abs(rows[-1]["trained query"] - known)
    return pd.DataFrame(rows)


def _untrained(model):
    """The query as it starts, which is usable although it is not trained."""
    model.is_trained_ = True
    return model


def seven(folder: Path, genes: int) -> ad.AnnData:
    """Seven PBMC data sets of different protocols, 300 cells each; labels computed by classifiers."""
    return variable_genes(read_reference(folder, "sc_pbmc_7batches_computed_labels"), genes)


def kang(folder: Path, genes: int) -> ad.AnnData:
    """2,000 control cells of five donors of one study, labels of the authors."""
    adata = read_reference(folder, "ref_kang_ctrl_5donors")
    return variable_genes(adata[np.random.default_rng(0).permutation(adata.n_obs)[:2000]].copy(), genes)


def integration(folder: Path, args, seed: int, cells=seven) -> pd.DataFrame:
    """scib-metrics of models of one size, with one warm-up of the divergence, which is printed as it ended."""
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    adata = cells(folder, args.genes)
    adata.obs["batch"] = adata.obs["donor"].astype(str).astype("category")
    models = {
        "SCVI": (scvi.model.SCVI, {}),
        "AmbientRegularizedSCVI": (hp.AmbientRegularizedSCVI, {}),
        "AmbientRegularizedSCVI, conditioned": (
            hp.AmbientRegularizedSCVI,
            {"nn_conditioning_covariate_keys": ["batch"]},
        ),
    }
    more, warmup = {}, max(args.epochs // 4, 1)
    for name, (cls, setup) in models.items():
        scvi.settings.seed = seed
        cls.setup_anndata(adata, batch_key="batch", **setup)
        model, start = cls(adata, n_hidden=args.hidden, n_latent=args.latent), time.process_time()
        model.train(args.epochs, train_size=1.0, plan_kwargs={"n_epochs_kl_warmup": warmup}, **QUIET)
        used = time.process_time() - start
        mean, variance = model.get_latent_representation(return_dist=True)
        kl = 0.5 * (mean**2 + variance - 1 - np.log(variance)).sum(axis=1).mean()
        more[name] = {"KL of z (nats)": kl, "warm-up (epochs)": warmup, "training CPU s": used}
        adata.obsm[name] = mean
    adata.obsm["X_pca"] = _pca(adata)
    keys = list(more)
    bench = Benchmarker(
        adata,
        "batch",
        "cell_type",
        [*keys, "X_pca"],
        bio_conservation_metrics=BioConservation(nmi_ari_cluster_labels_leiden=True),
        batch_correction_metrics=BatchCorrection(),
        progress_bar=False,
    )
    bench.benchmark()
    table = bench.get_results(min_max_scale=False).loc[[*keys, "X_pca"]].astype(float)
    aggregate = ["Batch correction", "Bio conservation", "Total"]
    table = table[[*aggregate, *(c for c in table if c not in aggregate)]]
    return table.join(pd.DataFrame(more).T).rename_axis("method").reset_index()


def _pca(adata: ad.AnnData) -> np.ndarray:
    import scanpy as sc

    scratch = ad.AnnData(adata.X.copy())
    sc.pp.normalize_total(scratch, target_sum=1e4)
    sc.pp.log1p(scratch)
    sc.pp.pca(scratch, n_comps=30)
    return scratch.obsm["X_pca"]


def reference(folder: Path, args, seed: int) -> pd.DataFrame:
    """RMSE of proportions of bulk simulated from the uncontaminated cells, so that all cost is the ambient RNA's."""
    observed, model = _fitted(folder, args.cells, args.genes, args.epochs, seed)
    counts = observed.obs["cell_type"].value_counts()
    keep = observed.obs["cell_type"].isin(counts.index[counts >= 5]).to_numpy()
    obs, var = observed.obs, observed.var
    cells = {
        "uncontaminated": ad.AnnData(observed.layers["native"].copy(), obs=obs, var=var)[keep].copy(),
        "contaminated": ad.AnnData(observed.X.copy(), obs=obs, var=var)[keep].copy(),
        "cleaned": model.get_clean_reference(),
        "cleaned, by label": model.get_clean_reference(labels_key="cell_type"),
    }
    bulk = hp.pp.simulate_bulk(cells["uncontaminated"], "cell_type", n_samples=50, n_cells=500, seed=seed)
    rows = []
    for name, adata in cells.items():
        adata = adata[adata.obs["cell_type"].isin(counts.index[counts >= 5])].copy()
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
        scvi.settings.seed = seed
        hp.HPVADE.setup_anndata(adata, labels_key="cell_type")
        deconvolution = hp.HPVADE(adata, cell_size="umi")
        deconvolution.train(args.reference_epochs, **QUIET)
        rows.append({"reference": name} | deconvolution.evaluate(bulk)["rmse"].to_dict())
    return pd.DataFrame(rows)


def recovered(table: pd.DataFrame) -> pd.DataFrame:
    """Add the share of the cost of contamination that cleaning takes back."""
    cost = table.loc["contaminated"] - table.loc["uncontaminated"]
    for name in [name for name in table.index if name.startswith("cleaned")]:
        table.loc[f"share of the cost recovered, {name}"] = (table.loc["contaminated"] - table.loc[name]) / cost
    return table


def measure(folder: Path, args) -> None:
    """Train one model and print seconds per epoch and peak memory; run in a process of its own."""
    adata = variable_genes(read_reference(folder, "ref_kang_ctrl_5donors"), args.genes)
    cls = hp.AmbientRegularizedSCVI if args.measure == "AmbientRegularizedSCVI" else scvi.model.SCVI
    scvi.settings.seed = args.seeds[0]
    cls.setup_anndata(adata, batch_key="donor")
    model = cls(adata, n_hidden=args.hidden, n_latent=args.latent)
    model.train(1, train_size=1.0, **QUIET)
    start, used = time.perf_counter(), time.process_time()
    model.train(args.epochs, train_size=1.0, **QUIET)
    seconds = [(time.perf_counter() - start) / args.epochs, (time.process_time() - used) / args.epochs]
    print(*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def speed(folder: Path, args, seed: int) -> pd.DataFrame:
    rows = []
    for name in ("SCVI", "AmbientRegularizedSCVI"):
        command = [sys.executable, __file__, str(folder), "--measure", name, "--epochs", "3", "--seeds", str(seed)]
        command += ["--genes", str(args.genes), "--hidden", str(args.hidden), "--latent", str(args.latent)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]
        values = dict(zip(("s / epoch", "CPU s / epoch", "peak MB"), map(float, out), strict=True))
        rows.append({"model": name} | values)
    return pd.DataFrame(rows)


def ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Add throughput and memory next to SCVI's."""
    table["throughput / SCVI"] = table.loc["SCVI", "CPU s / epoch"] / table["CPU s / epoch"]
    table["memory / SCVI"] = table["peak MB"] / table.loc["SCVI", "peak MB"]
    return table


PARTS = {"planted": planted, "scar": scar, "simulated": simulated, "simulated_scar": simulated_scar}
PARTS |= {"evidence": evidence, "integration": integration}
PARTS |= {"integration_donors": functools.partial(integration, cells=kang), "query": query, "profiles": profiles}
PARTS |= {"unbalanced": unbalanced}
PARTS |= {"reference": reference, "speed": speed}
AFTER = {"reference": recovered, "speed": ratios}


def rows_of(part: str, seed: int, args) -> pd.DataFrame:
    """Rows of one part and seed, from the results folder when they are there."""
    path = args.results / f"ambient_{part}_{seed}.csv" if args.results else None
    if path and path.exists():
        return pd.read_csv(path)
    rows = PARTS[part](args.folder, args, seed)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(path, index=False)
    return rows


def markdown(table: pd.DataFrame) -> str:
    table = table.round(3).reset_index()
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + " --- |" * table.shape[1]]
    lines += ["| " + " | ".join("-" if v != v else str(v) for v in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join(lines)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--reference-epochs", type=int, help="of HPVADE; its default when left out")
    parser.add_argument("--cells", type=int, default=2700)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--schedules", action="store_true", help="profiles: also with the shape always free")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--latent", type=int, default=128)
    parser.add_argument("--measure", choices=["SCVI", "AmbientRegularizedSCVI"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.folder, args)
        return
    for part in args.only:
        rows = pd.concat([rows_of(part, seed, args) for seed in args.seeds])
        table = rows.groupby(rows.columns[0], sort=False).median()
        print(f"\n### {part}, seeds {args.seeds}\n\n{markdown(AFTER.get(part, lambda t: t)(table))}", flush=True)


if __name__ == "__main__":
    main()
