"""Can a network correct the regression? Trained on differences measured between references, judged on left-out studies.

    python benchmarks/correction_network.py DATA_FOLDER [--seeds 0 1 2] [--cohorts 160] [--records FILE]

Gene factors are log ratios of matched types' profiles between two blood references (per type, shrunk by their counting
noise), mixed convexly over two targets and scaled. A pseudo-cohort is 24 mixtures of one reference's cells, distorted
so, and solved with that reference's own signature by `hpvade.solvers.robust`. From what the regression leaves
(fractions in log-ratio space, residuals of the markers of each type and of its nearest one, gene factor of the same
groups, platform distance, depth, RNA content) a model that treats all types alike predicts the correction in log-ratio
space:

- shift: mean correction of each named type; it knows types by name, the others do not;
- ridge, boosting: per type on these features;
- network: the features of a type beside the mean and maximum over types, three networks averaged.

Every judgement leaves a study out. "pseudo": sums of the cells of the left-out study, signatures of the others,
fractions of RNA. "real": the development cohorts with a reference of the left-out study; their truth judges and does
nothing else. Regression alone, NNLS on all genes and the constant (which knows the cohort's mean) stand beside.
Medians over seeds.
"""

import argparse
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from _cohorts import read_reference
from _records import markdown
from _regression import FLOOR, Problem, Solved, baseline, cells, problem, regress
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

import hpvade as hp
from hpvade.reference._signature import reference_signature, sum_chunks
from hpvade.simulate import ChunkSums, PlatformNoise, draw_mixtures

TYPES = ["B", "CD4 T", "CD8 T", "NK", "Mono", "DC", "Platelet"]
CENTRE = np.array([0.1, 0.4, 0.2, 0.1, 0.18, 0.01, 0.01])  # a usual composition of blood
N_SAMPLES, MIN_CELLS, SMALL = 24, 10, 0.01
BATCHES = "sc_pbmc_7batches_computed_labels"
HAO_SUMS = {"B cells": "B", "T cells CD4 conv": "CD4 T", "T cells CD8": "CD8 T", "NK cells": "NK"} | {
    "Monocytes": "Mono", "mDC": "DC", "Platelet": "Platelet"
}  # fmt: skip
ROWS = [(cohort, reference) for cohort in ("hoek", "finotello", "newman_full")
        for reference in ("pbmc3k", "kang", "hao", "7 batches")]  # fmt: skip
METHODS = ["regression", "shift", "ridge", "boosting", "network", "half network", "nnls"]
SCALE = (0.7, 2.0)  # of the measured differences: the factors of real bulk spread up to twice as far as those of cells


@dataclass
class Reference:
    """Coarse profiles; `chunks` are its cells, or None for sums."""

    name: str
    study: str
    mean_counts: pd.DataFrame
    umi: pd.DataFrame  # counts that the profile of a type stands on, genes x types
    chunks: ChunkSums | None = None
    genes: pd.Index | None = None  # those of the chunks


def from_cells(name: str, study: str, adata: ad.AnnData) -> Reference:
    label = adata.obs["cell_type_coarse"].astype(str)
    types = [t for t in TYPES if (label == t).sum() >= MIN_CELLS]
    adata = adata[label.isin(types).to_numpy()]
    codes = pd.Categorical(adata.obs["cell_type_coarse"].astype(str), types).codes.astype(int)
    donors = adata.obs["donor"].astype("category").cat.codes.to_numpy().astype(int)
    X, rng = adata.X.tocsr(), np.random.default_rng(0)
    counts = reference_signature(sum_chunks(X, codes, donors, len(types), rng, chunk_size=adata.n_obs)).mean_counts
    mean_counts = pd.DataFrame(counts, adata.var_names, types)
    n_cells = np.bincount(codes, minlength=len(types))
    return Reference(
        name, study, mean_counts, mean_counts * n_cells, sum_chunks(X, codes, donors, len(types), rng), adata.var_names
    )


def references(folder: Path) -> dict[str, Reference]:
    """All blood references; the whole of the seven batches is one for the real cohorts, its batches for the rest."""
    found = [
        from_cells("pbmc3k", "pbmc3k", read_reference(folder, "ref_pbmc3k")),
        from_cells("kang", "kang", read_reference(folder, "kang_ctrl_stim:ctrl")),
        from_cells("hao", "hao", read_reference(folder, "ref_hao_pbmc")),
        from_cells("zheng", "zheng", read_reference(folder, "sc_zheng_sorted9")),
    ]
    batches = read_reference(folder, BATCHES)
    found.append(from_cells("7 batches", "batches", batches))
    for batch in sorted(batches.obs["donor"].unique()):
        study = "pbmc3k" if batch == "10x_6K" else "batches"  # 10x_6K is the donor of pbmc3k
        found.append(from_cells(batch, study, batches[(batches.obs["donor"] == batch).to_numpy()]))
    sums = ad.read_h5ad(folder / "sig_hao_sumcounts.h5ad")
    sums = sums[sums.obs["cell_type"].isin(HAO_SUMS).to_numpy()]
    counts = pd.DataFrame(sums.to_df().to_numpy().T, sums.var_names, sums.obs["cell_type"].map(HAO_SUMS).tolist())
    per_cell = found[2].mean_counts.sum()  # RNA content is that of the cells
    types = [t for t in found[2].mean_counts if t in counts]
    found.append(Reference("hao sums", "hao", counts[types] / counts[types].sum() * per_cell[types], counts[types]))
    return {reference.name: reference for reference in found}


def log_ratio(a: Reference, b: Reference) -> pd.DataFrame:
    """Measured difference of b from a (shared genes x types of a), shrunk by noise; types that b lacks: shared part."""
    genes = a.mean_counts.index.intersection(b.mean_counts.index)
    types = [t for t in a.mean_counts if t in b.mean_counts]
    shares = [ref.mean_counts.loc[genes, types] / ref.mean_counts.loc[genes, types].sum() for ref in (a, b)]
    difference = np.log(shares[1] + FLOOR) - np.log(shares[0] + FLOOR)
    noise = 0
    for ref, share in zip((a, b), shares, strict=True):
        umi = ref.umi.loc[genes, types]
        noise = noise + umi / umi.sum() ** 2 / (share + FLOOR) ** 2
    shared = difference.mean(axis=1)
    own = difference.sub(shared, axis=0)
    spread = max(float((own**2).to_numpy().mean() - noise.to_numpy().mean()), 1e-3)
    own = own * (spread / (spread + noise))
    return own.reindex(columns=a.mean_counts.columns, fill_value=0.0).add(shared, axis=0)


def compositions(n: int, types: list[str], rng: np.random.Generator) -> np.ndarray:
    """Half flat Dirichlet, half around a blood centre that the cohort shares."""
    flat = rng.dirichlet(np.ones(len(types)), n)
    centre = CENTRE[[TYPES.index(t) for t in types]] * np.exp(rng.normal(0, 0.5, len(types)))
    around = rng.dirichlet(np.maximum(rng.uniform(10, 60) * centre / centre.sum(), 0.05), n)
    return np.where((rng.random(n) < rng.choice([0.0, 0.5, 1.0]))[:, None], flat, around)


def mixtures(ref: Reference, rng: np.random.Generator, difference: pd.DataFrame | None = None) -> tuple:
    """A pseudo-cohort of the cells of `ref`, distorted by `difference`: bulk, true fractions of RNA."""
    chunks = ref.chunks
    if difference is not None:
        kept = ref.genes.get_indexer(difference.index)
        counts = chunks.counts[:, kept] * np.exp(difference.to_numpy()).T[chunks.types].astype(np.float32)
        chunks = ChunkSums(counts, chunks.types, chunks.donors, chunks.n_cells, chunks.totals, chunks.n_types)
    noise = PlatformNoise(platform_sd=(0.0, 0.0), type_sd=0.0 if difference is None else 0.1, sample_sd=0.15)
    p = compositions(N_SAMPLES, list(ref.mean_counts), rng)
    drawn = draw_mixtures(chunks, p, rng, noise=noise)
    genes = ref.genes if difference is None else difference.index
    return ad.AnnData(drawn.counts, var=pd.DataFrame(index=genes)), drawn.rna_proportions


def pose(bulk: ad.AnnData, ref: Reference, input_type: str = "auto") -> Problem:
    """The problem with the profiles of `ref`, on shared genes where the bulk lacks many."""
    shared = ref.mean_counts.index.isin(bulk.var_names)
    return problem(bulk, ref.mean_counts if shared.mean() > 0.5 else ref.mean_counts[shared], input_type)


def centred_log(p: np.ndarray) -> np.ndarray:
    log = np.log(p + SMALL)
    return log - log.mean(axis=-1, keepdims=True)


def features(of: Problem, fit: Solved) -> np.ndarray:
    """What the regression leaves, the same for every type: (samples x types x features)."""
    level = np.log(of.signature[of.markers] + FLOOR)  # markers x types
    n, k = fit.rna.shape
    similar = np.corrcoef(level.T) - 2 * np.eye(k)
    near = similar.argmax(axis=1)
    above = level[:, :, None] - level[:, None, :]  # of a type over each other one
    weight = np.stack([np.delete(above[:, i], i, axis=1).min(axis=1) for i in range(k)], axis=1).clip(0)
    pair = above[:, np.arange(k), near].clip(0)
    back = (-above[:, np.arange(k), near]).clip(0)
    clr = centred_log(fit.rna)
    raw = (fit.residual + fit.factor - np.median(fit.factor)).clip(-3, 3)
    beside = fit.residual.clip(-3, 3)

    def group(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        return x @ (w / (w.sum(axis=0) + 1))

    spread = lambda x: np.broadcast_to(x, (n, k))  # noqa: E731
    columns = [
        clr, fit.rna, spread(clr.mean(axis=0)), spread(clr.std(axis=0)), clr[:, near], spread(fit.rna.mean(axis=0)),
        group(raw, weight), group(raw, pair), group(raw, back), group(beside, weight), group(beside, pair),
        group(beside, back), spread(group(raw, weight).mean(axis=0)), spread(group(raw, pair).mean(axis=0)),
        spread(group(raw, back).mean(axis=0)), spread(np.log1p(weight.sum(axis=0))), spread(similar.max(axis=1)),
        spread(np.log(of.sizes)), spread(raw.std(axis=1, keepdims=True)), spread(beside.std(axis=1, keepdims=True)),
        spread(fit.factor.std()), spread(np.log10(of.depth)[:, None]), spread(np.log(len(of.markers))), spread(k),
    ]  # fmt: skip
    return np.stack(columns, axis=2).astype(np.float32)


@dataclass
class Cohort:
    """One training cohort: features, estimate and truth (RNA), and the studies that it used."""

    x: np.ndarray
    estimate: np.ndarray
    truth: np.ndarray
    types: list[str]
    studies: set[str]
    source: str


def training_cohorts(refs: dict[str, Reference], n: int, rng: np.random.Generator) -> list[Cohort]:
    with_cells = [ref for ref in refs.values() if ref.chunks is not None and ref.name != "7 batches"]
    made = []
    for _ in range(n):
        a = with_cells[rng.integers(len(with_cells))]
        others = [ref for ref in refs.values() if ref.study != a.study and ref.name != "7 batches"]
        b, c = (others[i] for i in rng.choice(len(others), 2, replace=False))
        difference = log_ratio(a, b)
        studies = {a.study, b.study}
        if rng.random() < 0.5:
            second, share = log_ratio(a, c), rng.uniform(0, 1)
            genes = difference.index.intersection(second.index)
            difference = share * difference.loc[genes] + (1 - share) * second.loc[genes]
            studies |= {c.study}
        bulk, truth = mixtures(a, rng, difference * rng.uniform(*SCALE))
        of = pose(bulk, a)
        fit = regress(of)
        made.append(Cohort(features(of, fit), fit.rna, truth, of.types, studies, a.name))
    return made


def fit_models(cohorts: list[Cohort], seed: int) -> dict:
    """Functions (features, estimate, types) -> correction in log-ratio space."""
    x = np.concatenate([c.x.reshape(-1, c.x.shape[2]) for c in cohorts])
    target = np.concatenate([(centred_log(c.truth) - centred_log(c.estimate)).ravel() for c in cohorts])
    p = np.concatenate([c.estimate.ravel() for c in cohorts])
    names = np.concatenate([np.tile(c.types, len(c.estimate)) for c in cohorts])
    group = np.concatenate([np.full(c.estimate.size, i) for i, c in enumerate(cohorts)])
    weight = p * (1 - p) + 0.02  # slope of the fraction, so that rare types do not rule
    mean, sd = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / sd
    shift = {t: np.average(target[names == t], weights=weight[names == t]) for t in np.unique(names)}
    folds = list(GroupKFold(5, shuffle=True, random_state=seed).split(z, groups=group))
    ridge = RidgeCV(np.logspace(0, 6, 7), cv=folds).fit(z, target, sample_weight=weight)
    boosting = HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.05, max_depth=4, min_samples_leaf=200, random_state=seed
    ).fit(z, target, sample_weight=weight)
    network = train_network(cohorts, mean, sd, seed)

    def per_type(model):
        return lambda x, types: model.predict(((x - mean) / sd).reshape(-1, x.shape[2])).reshape(x.shape[:2])

    return {
        "shift": lambda x, types: np.array([shift.get(t, 0.0) for t in types])[None],
        "ridge": per_type(ridge),
        "boosting": per_type(boosting),
        "network": network,
    }


class Equivariant(torch.nn.Module):
    """Correction of a type from its features and those of all types, the same function for each."""

    def __init__(self, n_features: int, width: int = 48):
        super().__init__()
        self.embed = torch.nn.Sequential(torch.nn.Linear(n_features, width), torch.nn.SiLU())
        self.head = torch.nn.Sequential(
            torch.nn.Dropout(0.1), torch.nn.Linear(3 * width, width), torch.nn.SiLU(), torch.nn.Linear(width, 1)
        )
        torch.nn.init.zeros_(self.head[-1].weight)  # starts as no correction

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        h = self.embed(x) * mask[:, :, None]
        mean = h.sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None]
        context = torch.cat([mean, h.amax(dim=1, keepdim=True)], dim=2).expand(-1, x.shape[1], -1)
        return self.head(torch.cat([h, context], dim=2))[:, :, 0]


def train_network(cohorts: list[Cohort], mean: np.ndarray, sd: np.ndarray, seed: int, n_networks: int = 3):
    torch.manual_seed(seed)
    width = len(TYPES)

    def padded(parts: list[np.ndarray]) -> torch.Tensor:
        pad = lambda a: np.pad(a, [(0, 0), (0, width - a.shape[1])] + [(0, 0)] * (a.ndim - 2))  # noqa: E731
        return torch.tensor(np.concatenate([pad(part) for part in parts]), dtype=torch.float32)

    x = padded([((c.x - mean) / sd).clip(-5, 5) for c in cohorts])
    mask = padded([np.ones_like(c.estimate) for c in cohorts])
    estimate, truth = padded([c.estimate for c in cohorts]), padded([c.truth for c in cohorts])
    networks = [Equivariant(x.shape[2]) for _ in range(n_networks)]
    for network in networks:
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=600)
        for _ in range(600):
            at = torch.randint(len(x), (512,))
            found = corrected(estimate[at], network(x[at], mask[at]), mask[at])
            loss = 10 * (found - truth[at]).square().sum(dim=1).mean()
            loss = loss + (found - truth[at]).abs().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        network.eval()

    @torch.no_grad()
    def predict(x: np.ndarray, types: list[str]) -> np.ndarray:
        x = torch.tensor(((x - mean) / sd).clip(-5, 5), dtype=torch.float32)
        mask = torch.ones(x.shape[:2])
        return torch.stack([network(x, mask) for network in networks]).mean(dim=0).double().numpy()

    return predict


def corrected(p, correction, mask=None):
    """Fractions moved in log-ratio space; zeros may come back up to `SMALL`."""
    if mask is None:
        moved = np.maximum((p + SMALL) * np.exp(correction) - SMALL, 0)
        return moved / moved.sum(axis=1, keepdims=True)
    moved = ((p + SMALL) * correction.clamp(-3, 3).exp() - SMALL).clamp(min=0) * mask
    return moved / moved.sum(dim=1, keepdim=True).clamp(min=1e-6)


def score(bulk: ad.AnnData, of: Problem, models: dict, truth_key: str, mapping: dict, note: dict) -> list[dict]:
    """Every method on one bulk: fractions of RNA where `note` says pseudo, of cells where it says real."""
    fit = regress(of)
    x = features(of, fit)
    found = {"regression": fit.rna} | {name: corrected(fit.rna, f(x, of.types)) for name, f in models.items()}
    found["half network"] = corrected(fit.rna, models["network"](x, of.types) / 2)
    size = of.sizes if note["kind"] == "real" else np.ones(len(of.types))
    tables = {name: cells(rna, size) for name, rna in found.items()}
    tables["nnls"] = cells(baseline(of), 1 if note["kind"] == "real" else 1 / of.mean_counts.sum(axis=0))
    records = []
    for name, table in tables.items():
        bulk.obsm["found"] = bulk.obsm["found_nnls"] = pd.DataFrame(table, bulk.obs_names, of.types)
        result = hp.tl.evaluate(bulk, truth_key, prediction_key="found", mapping=mapping)
        records.append(
            note | {"method": name, "r": result.loc["found", "per_type_r"], "RMSE": result.loc["found", "rmse"]}
        )
    return [*records, note | {"method": "constant", "r": np.nan, "RMSE": result.loc["constant", "rmse"]}]


def pseudo(refs: dict[str, Reference], study: str, models: dict, rng: np.random.Generator) -> list[dict]:
    records = []
    for target in (ref for ref in refs.values() if ref.study == study and ref.chunks is not None):
        if target.name == "7 batches":
            continue
        bulk, truth = mixtures(target, rng)
        bulk.obsm["truth"] = pd.DataFrame(truth, bulk.obs_names, target.mean_counts.columns)
        for ref in (refs[name] for name in ("pbmc3k", "kang", "hao", "7 batches", "zheng")):
            if ref.study == study or (study, ref.name) == ("pbmc3k", "7 batches"):
                continue
            note = {"kind": "pseudo", "case": f"{study} left out", "row": f"{ref.name} <- {target.name}"}
            shared = [t for t in ref.mean_counts if t in target.mean_counts]
            records += score(bulk.copy(), pose(bulk, ref), models, "truth", {t: t for t in shared}, note)
    return records


def real(folder: Path, refs: dict[str, Reference], study: str, models: dict) -> list[dict]:
    config = json.loads((folder / "cohorts.json").read_text())
    records = []
    for cohort, name in ROWS:
        if refs[name].study != study:
            continue
        entry = config["cohorts"][cohort]
        merge = entry.get("merge", {})
        columns = {merge.get(c, c): column for column, c in entry["truth"].items()}
        classes = {t: merge.get(config["classes"][t], config["classes"][t]) for t in refs[name].mean_counts}
        mapping = {t: columns[c] for t, c in classes.items() if c in columns}
        bulk = ad.read_h5ad(folder / f"{entry['bulk']}.h5ad")
        of = pose(bulk, refs[name], "log2" if entry.get("transform") == "exp2" else "auto")
        note = {"kind": "real", "case": cohort, "row": f"{cohort} x {name}"}
        records += score(bulk, of, models, entry["truth_key"], mapping, note)
    return records


def tables(records: pd.DataFrame) -> None:
    for kind, part in records.groupby("kind", sort=False):
        part = part.groupby(["case", "row", "method"], sort=False)[["r", "RMSE"]].median().reset_index()
        by = ["case"] if kind == "pseudo" else ["row"]
        for value in ("RMSE", "r"):
            table = part.pivot_table(values=value, index=by, columns="method", aggfunc="median", sort=False)
            columns = [*METHODS, "constant"] if value == "RMSE" else METHODS
            table.loc["median"] = part.groupby("method")[value].median()
            print(f"\n### {kind}, {value}\n\n{markdown(table[columns])}\n", flush=True)


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cohorts", type=int, default=160, help="training cohorts")
    parser.add_argument("--records", type=Path, help="CSV file for every row, method and seed")
    args = parser.parse_args()
    refs, records = references(args.folder), []
    for seed in args.seeds:
        start = time.process_time()
        cohorts = training_cohorts(refs, args.cohorts, np.random.default_rng(seed))
        for study in sorted({ref.study for ref in refs.values()}):
            models = fit_models([c for c in cohorts if study not in c.studies], seed)
            rows = pseudo(refs, study, models, np.random.default_rng([seed, 1])) + real(
                args.folder, refs, study, models
            )
            records += [row | {"seed": seed} for row in rows]
        print(f"<!-- seed {seed}: {time.process_time() - start:.0f} CPU s -->", flush=True)
    records = pd.DataFrame(records)
    if args.records:
        records.to_csv(args.records, index=False)
    tables(records)


if __name__ == "__main__":
    main()
