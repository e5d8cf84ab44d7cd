"""Accuracy, intervals, unknown types, RNA content and type expression on pseudo-bulk with exact truth.

    python benchmarks/pseudobulk.py DATA_FOLDER [--seeds 3] [--models FOLDER]
                                    [--parts cross dataset intervals unknown sizes expression speed]
                                    [--only ref_pbmc3k]

- cross: reference of one blood study, bulk summed from the cells of the donors of another one (40 samples of 1,000
  cells). RMSE beside NNLS and the constant.
- dataset: leave one data set out: both other blood references together, and each alone.
- intervals: share of the truth inside the 90 % intervals, on held-out cells or donors of the reference, across studies
  and on the real cohorts; width against depth and for similar types.
- unknown: one lineage is left out of the reference and makes up 0 to 40 % of the cells.
- sizes: planted types whose RNA content differs fourfold; error of cell and RNA fractions against the cells' truth.
- expression: profiles of the types in mixtures of held-out donors, gene-wise correlation across samples.
- speed: CPU seconds to train and deconvolve, and for the solver alone.

Medians over seeds. `--only` keeps the rows of cross, intervals, unknown and speed whose name contains a text. Donors
that a model is judged on were not given to it. `--models` is the folder of trained models of accuracy.py. From these
figures came the scale of intervals on other platforms (`_intervals.py`) and, with the real cohorts, the weight of the
prior.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _cohorts import blood_reference, read_reference, rows
from accuracy import fit

import hpvade as hp

STUDIES = ["ref_pbmc3k", "kang_ctrl_stim:ctrl", "sc_pbmc_7batches_computed_labels", "ref_kang_ctrl_5donors"]
FULL = STUDIES[:3]  # the last one has 2,511 filtered genes: a source of bulk, not a reference for other studies
CLASSES = ["B", "CD4", "CD8", "NK", "Mono"]
KEY = "hpvade_proportions"
MODELS: Path | None = None
ONLY = ""


def coarse(folder: Path, name: str) -> ad.AnnData:
    """A study with coarse labels."""
    adata = read_reference(folder, name)
    names = json.loads((folder / "cohorts.json").read_text())["classes"]
    adata.obs["class"] = adata.obs["cell_type"].astype(str).map(names)
    return adata


def train(adata: ad.AnnData, seed: int, labels_key: str = "cell_type", batch_key: str | None = None) -> hp.HPVADE:
    scvi.settings.seed = seed
    adata = adata.copy()
    hp.HPVADE.setup_anndata(adata, labels_key=labels_key, sample_key="donor", batch_key=batch_key)
    model = hp.HPVADE(adata)
    model.train(accelerator="cpu", enable_progress_bar=False)
    return model


def mix(adata: ad.AnnData, fractions: np.ndarray, classes: list[str], rng: np.random.Generator) -> ad.AnnData:
    """Sums of 1,000 cells; the cells of a sample come from one donor that has all classes, drawn anew."""
    X, kind, donor = adata.X.tocsr(), adata.obs["class"].to_numpy(), adata.obs["donor"].to_numpy()
    pools = {d: [np.flatnonzero((donor == d) & (kind == c)) for c in classes] for d in np.unique(donor)}
    pools = [pool for pool in pools.values() if min(map(len, pool)) >= 3]
    counts, truth = [], []
    for p in fractions:
        pool = pools[rng.integers(len(pools))]
        n = rng.multinomial(1000, p)
        cells = np.concatenate([rng.choice(pool[k], n[k]) for k in range(len(classes))])
        counts.append(np.asarray(X[cells].sum(axis=0)).ravel())
        truth.append(n / 1000)
    bulk = ad.AnnData(np.array(counts, dtype=np.float32), var=pd.DataFrame(index=adata.var_names))
    bulk.obsm["proportions"] = pd.DataFrame(truth, index=bulk.obs_names, columns=classes)
    return bulk


def blood_fractions(n: int, classes: list[str], rng: np.random.Generator) -> np.ndarray:
    """Half flat Dirichlet, half around blood."""
    centre = np.array([{"B": 0.1, "CD4": 0.4, "CD8": 0.2, "NK": 0.1, "Mono": 0.2}[c] for c in classes])
    flat = rng.dirichlet(np.ones(len(classes)), n // 2)
    return np.concatenate([flat, rng.dirichlet(10 * centre / centre.sum(), n - n // 2)])


def crosses(folder: Path, seed: int) -> Iterator[tuple[str, ad.AnnData, ad.AnnData, dict[str, str]]]:
    """Name, reference, bulk of another study, mapping of types."""
    for name in FULL:
        reference = coarse(folder, name)
        mapping = dict(reference.obs[["cell_type", "class"]].astype(str).drop_duplicates().to_numpy())
        for source in STUDIES:
            if source[:8] == name[:8] or {source[:8], name[:8]} == {"ref_kang", "kang_ctr"}:
                continue  # one study
            other = coarse(folder, source)
            classes = [c for c in CLASSES if (other.obs["class"] == c).sum() >= 10]
            rng = np.random.default_rng(seed)
            bulk = mix(other, blood_fractions(40, classes, rng), classes, rng)
            kept = on_shared_genes(reference, bulk)
            yield f"{name} <- {source}", kept, bulk, {t: c for t, c in mapping.items() if c in classes}


def on_shared_genes(reference: ad.AnnData, bulk: ad.AnnData) -> ad.AnnData:
    """The reference; cut to the genes of the bulk where that lacks more than half of them, as in `_cohorts.rows`."""
    shared = reference.var_names.intersection(bulk.var_names)
    if len(shared) >= 0.5 * reference.n_vars:
        return reference
    kept = reference[:, shared].copy()
    return kept[np.asarray(kept.X.sum(axis=1)).ravel() > 0].copy()


def coverage(model: hp.HPVADE, bulk: ad.AnnData, mapping: dict | None, **options) -> tuple[float, float]:
    """Share of the truth inside the 90 % intervals, and their mean width; classes of several types from draws."""
    truth = options.pop("truth", "proportions")
    grouped = model.get_proportion_intervals(bulk, mapping=mapping, **options)
    measured = bulk.obsm[truth]
    columns = [c for c in measured.columns if c in grouped.columns.get_level_values(0)]
    measured = measured[columns].div(measured[columns].sum(axis=1), axis=0)
    low, high = (grouped.xs(bound, axis=1, level="bound")[columns] for bound in ("lower", "upper"))
    inside = (measured >= low - 1e-9) & (measured <= high + 1e-9)
    return float(inside.to_numpy().mean()), float((high - low).to_numpy().mean())


def cross(folder: Path, seeds: int) -> pd.DataFrame:
    records = []
    for seed in range(seeds):
        for name, reference, bulk, mapping in crosses(folder, seed):
            if ONLY not in name:
                continue
            model = train(reference, seed)
            model.deconvolve(bulk)
            table = hp.tl.evaluate(bulk, mapping=mapping)
            inside, width = coverage(model, bulk, mapping)
            records.append(
                {
                    "reference <- bulk": name,
                    "r": table.loc[KEY, "per_type_r"],
                    "RMSE": table.loc[KEY, "rmse"],
                    "NNLS r": table.loc["nnls", "per_type_r"],
                    "NNLS RMSE": table.loc["nnls", "rmse"],
                    "constant RMSE": table.loc["constant", "rmse"],
                    "RMSE / NNLS": table.loc[KEY, "rmse"] / table.loc["nnls", "rmse"],
                    "platform": bulk.uns[KEY]["platform_distance"],
                    "coverage@90": inside,
                    "width": width,
                }
            )
            print(records[-1], flush=True)
    return pd.DataFrame(records).groupby("reference <- bulk", sort=False).median()


def dataset(folder: Path, seeds: int) -> pd.DataFrame:
    """Each blood study as bulk of the other two together, and of each of them alone."""
    records = []
    for seed in range(seeds):
        for source in FULL:
            other = coarse(folder, source)
            classes = [c for c in CLASSES if (other.obs["class"] == c).sum() >= 10]
            rng = np.random.default_rng(seed)
            bulk = mix(other, blood_fractions(40, classes, rng), classes, rng)
            record = {"bulk": source}
            references = {name: coarse(folder, name) for name in FULL if name != source}
            for adata in references.values():
                adata.obs["cell_type"] = adata.obs["class"]
            for i, adata in enumerate([blood_reference(folder, source), *references.values()]):
                kind = "both" if i == 0 else f"single {i}"
                model = train(on_shared_genes(adata, bulk), seed, batch_key="dataset" if i == 0 else None)
                model.deconvolve(bulk)
                table = hp.tl.evaluate(bulk, mapping={c: c for c in classes})
                record |= {f"r, {kind}": table.loc[KEY, "per_type_r"], f"RMSE, {kind}": table.loc[KEY, "rmse"]}
                if i == 0:
                    record |= {"RMSE, NNLS": table.loc["nnls", "rmse"], "RMSE, constant": table.loc["constant", "rmse"]}
            records.append(record)
            print(record, flush=True)
    return pd.DataFrame(records).groupby("bulk", sort=False).median()


def held_out_cells(adata: ad.AnnData, seed: int) -> np.ndarray:
    """A quarter of the donors (with one donor: of the cells) that the model never sees."""
    rng = np.random.default_rng(seed)
    donors = adata.obs["donor"].unique()
    if len(donors) < 4:
        return rng.random(adata.n_obs) < 0.25
    return adata.obs["donor"].isin(rng.choice(donors, -(-len(donors) // 4), replace=False)).to_numpy()


def intervals(folder: Path, seeds: int) -> pd.DataFrame:
    records = []
    for seed in range(seeds):
        for name in STUDIES:
            if ONLY not in f"held-out donors of {name}":
                continue
            adata = read_reference(folder, name)
            away = held_out_cells(adata, seed)
            model = train(adata[~away], seed)
            few = adata[away & adata.obs["cell_type"].isin(model.cell_types).to_numpy()].copy()
            counts = few.obs["cell_type"].value_counts()
            few = few[few.obs["cell_type"].isin(counts.index[counts >= 2])].copy()
            held_out = hp.pp.simulate_bulk(few, "cell_type", 100, seed=seed)
            inside, width = coverage(model, held_out, None)
            records.append({"bulk": f"held-out donors of {name}", "coverage@90": inside, "width": width})
            print(records[-1], flush=True)
            if name == FULL[0]:
                for reads in (1e4, 1e5, 1e6):
                    shallow = held_out.copy()
                    share = reads / shallow.X.sum(axis=1, keepdims=True)
                    shallow.X = np.random.default_rng(seed).poisson(shallow.X * share).astype(np.float32)
                    inside, width = coverage(model, shallow, None)
                    records.append({"bulk": f"... at {reads:,.0f} reads", "coverage@90": inside, "width": width})
    for row in rows(folder, ONLY):
        for seed in range(seeds):
            model = fit(row, "default", seed, MODELS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                inside, width = coverage(
                    model,
                    row.bulk,
                    row.mapping,
                    truth=row.truth_key,
                    input_type=row.input_type,
                    fractions="rna" if row.truth_in_rna else "cell",
                )
            records.append({"bulk": row.name, "coverage@90": inside, "width": width})
            print(records[-1], flush=True)
    return pd.DataFrame(records).groupby("bulk", sort=False).median()


def unknown(folder: Path, seeds: int) -> pd.DataFrame:
    records = []
    for name in (FULL[0], STUDIES[3]):
        for missing in ("B", "NK", "Mono"):
            if ONLY not in f"{name}, {missing}":
                continue
            for seed in range(seeds):
                rng = np.random.default_rng(seed)
                adata = coarse(folder, name)
                classes = [c for c in CLASSES if (adata.obs["class"] == c).sum() >= 20]
                adata = adata[adata.obs["class"].isin(classes)].copy()
                donors = adata.obs["donor"].unique()
                first = adata.obs["donor"].isin(donors[::2]) if len(donors) > 3 else rng.random(adata.n_obs) < 0.5
                first = np.asarray(first)
                known = [c for c in classes if c != missing]
                share = np.concatenate([np.zeros(4), rng.uniform(0, 0.4, 36)])
                mixed = np.column_stack([rng.dirichlet(2 * np.ones(len(known)), 40) * (1 - share)[:, None], share])
                bulk = mix(adata[~first], mixed, [*known, missing], rng)
                truth = bulk.obsm["proportions"].copy()
                bulk.obsm["proportions"] = truth[known]
                errors = {}
                for label, keep in (("complete", classes), ("missing", known)):
                    model = train(adata[first & adata.obs["class"].isin(keep).to_numpy()], seed, "class")
                    model.deconvolve(bulk, unknown=label == "missing")
                    table = hp.tl.evaluate(bulk, mapping={c: c for c in known})
                    errors[label] = table["rmse"]
                found = bulk.obsm[KEY]["unknown"]
                model.deconvolve(bulk)
                plain = hp.tl.evaluate(bulk, mapping={c: c for c in known}).loc[KEY, "rmse"]
                growth = {m: errors["missing"][m] - errors["complete"][m] for m in (KEY, "nnls")}
                records.append(
                    {
                        "reference, missing": f"{name}, {missing}",
                        "RMSE complete": errors["complete"][KEY],
                        "RMSE missing": plain,
                        "RMSE with unknown": errors["missing"][KEY],
                        "NNLS complete": errors["complete"]["nnls"],
                        "NNLS missing": errors["missing"]["nnls"],
                        "growth / NNLS's": growth[KEY] / growth["nnls"],
                        "r of the share": np.corrcoef(found, truth[missing])[0, 1],
                        "mean share": found.mean(),
                        "true mean": truth[missing].mean(),
                    }
                )
                print(records[-1], flush=True)
    return pd.DataFrame(records).groupby("reference, missing", sort=False).median()


def sizes(folder: Path, seeds: int) -> pd.DataFrame:
    records = []
    for seed in range(seeds):
        reference, bulk = hp.datasets.planted_cohort(
            n_types=5, n_genes=2000, n_cells=2000, n_samples=40, rna_content=np.geomspace(1, 4, 5), seed=seed
        )
        model = train(reference, seed)
        cell, rna = model.deconvolve(bulk), bulk.obsm[f"{KEY}_rna"]
        truth = bulk.obsm["proportions"]
        errors = {"MAE of cell fractions": cell, "MAE of RNA fractions": rna}
        records.append({"bulk": "planted, 4x"} | {k: (v - truth).abs().to_numpy().mean() for k, v in errors.items()})
    return pd.DataFrame(records).groupby("bulk").median()


def expression(folder: Path, seeds: int) -> pd.DataFrame:
    """Mixtures in which every type's cells come from a held-out donor of its own, so that profiles differ."""
    records = []
    for seed in range(seeds):
        adata = coarse(folder, STUDIES[3])
        away = held_out_cells(adata, seed)
        model, held_out = train(adata[~away], seed, "class"), adata[away]
        rng = np.random.default_rng(seed)
        classes = model.cell_types
        X, kind = held_out.X.tocsr(), held_out.obs["class"].to_numpy()
        counts, profiles = [], []
        for p in rng.dirichlet(2 * np.ones(len(classes)), 40):
            n = rng.multinomial(1000, p)
            # a few cells make up each type, so that the profiles of a type differ between samples
            parts = []
            for k, c in enumerate(classes):
                few = rng.choice(np.flatnonzero(kind == c), 8)
                parts.append(np.asarray(X[rng.choice(few, max(n[k], 1))].sum(axis=0)).ravel() * min(n[k], 1))
            counts.append(np.sum(parts, axis=0))
            profiles.append([part / max(part.sum(), 1) * 1e6 for part in parts])
        bulk = ad.AnnData(np.array(counts, dtype=np.float32), var=pd.DataFrame(index=adata.var_names))
        found = model.get_cell_type_expression(bulk)
        measured = adata.var_names.get_indexer(found.var_names)  # genes without a read in any sample are not measured
        truth = np.array(profiles)[:, :, measured]
        estimated = found.layers["expression"].reshape(len(bulk), len(classes), -1)
        part = found.obs["rna_proportion"].to_numpy().reshape(len(bulk), -1)
        for k, name in enumerate(classes):
            enough = part[:, k] > 0.1
            if enough.sum() < 10:
                continue
            true, guess = truth[enough, k], estimated[enough, k]
            expressed = true.mean(axis=0) > 50
            resolved = found.varm["is_resolved"][name].to_numpy() & expressed
            r = np.array([_r(true[:, g], guess[:, g]) for g in range(true.shape[1])])
            flat = model.get_signature_matrix(normalize="cpm")[name].loc[found.var_names].to_numpy()
            records.append(
                {
                    "type": name,
                    "genes": expressed.sum(),
                    "resolved": resolved.sum(),
                    "median r, resolved": np.median(r[resolved]) if resolved.any() else np.nan,
                    "median r, all expressed": np.median(r[expressed]),
                    "RMSE log, resolved": _log_error(guess[:, resolved], true[:, resolved]),
                    "reference mean": _log_error(
                        np.broadcast_to(flat[resolved], true[:, resolved].shape), true[:, resolved]
                    ),
                }
            )
            print(records[-1], flush=True)
    return pd.DataFrame(records).groupby("type", sort=False).median()


def _r(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(float), y.astype(float)
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 1e-6 and y.std() > 1e-6 else 0.0


def _log_error(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((np.log(x + 50) - np.log(y + 50)) ** 2))) if x.size else np.nan


def speed(folder: Path, seeds: int) -> pd.DataFrame:
    records = []
    for row in rows(folder, ONLY):
        start = time.process_time()
        model = train(row.adata, 0)
        model.deconvolve(row.bulk.copy(), input_type=row.input_type)
        middle = time.process_time()
        hp.tl.solve(row.bulk.copy(), row.adata, labels_key="cell_type", sample_key="donor", input_type=row.input_type)
        end = time.process_time()
        records.append(
            {"row": row.name, "train + deconvolve, CPU s": middle - start, "solver alone, CPU s": end - middle}
        )
        print(records[-1], flush=True)
    return pd.DataFrame(records).set_index("row")


PARTS = {f.__name__: f for f in (cross, dataset, intervals, unknown, sizes, expression, speed)}


def markdown(table: pd.DataFrame) -> str:
    lines = [[table.index.name, *table.columns], ["---"] * (table.shape[1] + 1)]
    for name, values in table.iterrows():
        lines.append([name, *(f"{v:.3f}" if v % 1 else f"{v:.0f}" for v in values)])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    args = parser.parse_args()
    global MODELS, ONLY
    MODELS, ONLY = args.models, args.only
    for part in args.parts:
        table = PARTS[part](args.folder, args.seeds)
        print(f"\n## {part}\n\n{markdown(table)}\n", flush=True)


if __name__ == "__main__":
    main()
