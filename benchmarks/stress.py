"""Where do the defaults give confidently wrong answers? Beds that no default was chosen on, all with exact truth.

    python benchmarks/stress.py DATA_FOLDER [--parts studies platform cohort composition reference real]
                                [--prior-weight W] [--seed 0] [--output FILE.csv]

One table. `hpvade`: the defaults of HPVADE with no network trained; `solve`: tl.solve(method="robust"); r is the Fisher
mean over types of the correlation over samples, NaN counts as 0; `cover`: share of the truth inside the 90 % intervals;
`said`: what tl.diagnose says of the cohort, and the share of samples it flags; `fails`: loses to NNLS or to the
constant (which knows the truth's mean), intervals cover less than 75 %, silent on a wrong answer (RMSE above the
constant's or .1), or a warning of the cohort about a right one (RMSE below .05, r above .95).
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _beds import BLOOD, FEWEST, composition, distortions, reads, study, sums, with_cells
from _cohorts import rows
from _records import markdown

import hpvade as hp
from hpvade.evaluation import _metrics as metrics

STUDIES = {
    "pbmc3k": "ref_pbmc3k",
    "kang": "kang_ctrl_stim:ctrl",
    "kang stim": "kang_ctrl_stim:stim",
    "hao": "ref_hao_pbmc",
    "zheng": "sc_zheng_sorted9",
    "cite": "cite",
} | {
    name: f"sc_pbmc_7batches_computed_labels:{name}"
    for name in ("10x_6K", "10x_8K", "SCP424_pbmc1", "SCP424_pbmc2", "SRR11038995", "SRR7244582")
}
REFERENCES = ["pbmc3k", "kang", "hao", "zheng", "10x_8K", "SCP424_pbmc1"]
SAME = [{"kang", "kang stim"}, {"SCP424_pbmc1", "SCP424_pbmc2"}]  # studies, not to be read with each other
TAGS = {  # how a message of the cohort begins or goes on: its name
    "There is one sample": "one sample", "The bulk has genes with": "genes", "are nearly proportional": "proportional",
    "ill-conditioned": "condition", "unusually far": "far", "of the gene factor looks like": "factor",
    "have much expression": "unexplained", "All samples are alike": "alike",
    "The mean composition is far": "drift", "express markers of": "missing", "cannot be told apart here": "merge",
    "leaves open how much": "open", "answers unlike": "study",
}  # fmt: skip
KEY = "hpvade_proportions"


@dataclass
class Case:
    """One bulk with one reference; `truth` in groups that `mapping` sends the reference's types to."""

    part: str
    name: str
    reference: ad.AnnData
    bulk: ad.AnnData
    mapping: dict[str, str]
    options: dict = field(default_factory=dict)
    truth: str = "truth"
    judged: np.ndarray | None = None  # samples; all when None
    in_rna: bool = False


def rng_of(seed: int, *names: str) -> np.random.Generator:
    return np.random.default_rng([seed, *"|".join(names).encode()])


def mapping_of(reference: ad.AnnData, groups: list[str]) -> dict[str, str]:
    pairs = reference.obs[["cell_type", "type"]].drop_duplicates().to_numpy()
    return {label: kind for label, kind in pairs if kind in groups}


def types_of(adata: ad.AnnData, among: list[str] | None = None) -> list[str]:
    counts = adata.obs["type"].value_counts()
    return [t for t in (among or sorted(counts.index)) if counts.get(t, 0) >= FEWEST]


def halves(adata: ad.AnnData, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    first = rng_of(seed, "halves").random(adata.n_obs) < 0.5
    return with_cells(adata[first], 5, "cell_type"), adata[~first].copy()


def bases(folder: Path, seed: int) -> Iterator[tuple[str, ad.AnnData, ad.AnnData, list[str]]]:
    """Name, reference, source of bulk, types: blood of another study, breast tumour of other cells, lines."""
    source = ad.concat([study(folder, STUDIES[name]) for name in list(STUDIES)[6:]], index_unique="-")
    yield "blood", study(folder, STUDIES["pbmc3k"]), source, BLOOD
    first, second = halves(study(folder, "sc_breast_wu_cid4465"), seed)
    types = ["B-cells", "CAFs", "Endothelial", "Myeloid", "PVL", "Plasmablasts", "T-cells", "Cancer Epithelial"]
    yield "breast", first, second, types
    lines = ad.concat([study(folder, f"sc_cellbench_lines:sc_celseq2_5cl_p{i}") for i in (1, 2, 3)], index_unique="-")
    yield "lines", lines, study(folder, "sc_cellbench_lines:sc_dropseq"), ["H1975", "H2228", "HCC827"]


def measured(bulk: ad.AnnData, X: np.ndarray) -> ad.AnnData:
    """The same samples with other values."""
    other = ad.AnnData(np.asarray(X, dtype=np.float32), bulk.obs.copy(), bulk.var.copy())
    other.obsm["truth"] = bulk.obsm["truth"]
    return other


def studies(folder: Path, seed: int) -> Iterator[Case]:
    """Every pair of studies of a tissue: pseudo-bulk of one read with the other."""
    found = {name: study(folder, file) for name, file in STUDIES.items()}
    for source, cells in found.items():
        types = types_of(cells, BLOOD)
        rng = rng_of(seed, "studies", source)
        bulk = sums(cells, composition("usual", types, 20, rng), rng)
        bulk = measured(bulk, reads(bulk.X, rng))
        for name in REFERENCES:
            if name == source or {name, source} in SAME:
                continue
            yield Case(
                "studies", f"blood, {source} read with {name}", found[name], bulk, mapping_of(found[name], types)
            )
    others = {f"pancreas {t}": f"sc_pancreas_panc8_small:{t}" for t in ("indrop", "smartseq2", "celseq2", "fluidigmc1")}
    others |= {f"lines {b[3:]}": f"sc_cellbench_lines:{b}" for b in ("sc_dropseq", "sc_celseq2", "sc_celseq2_5cl_p1")}
    found = {name: study(folder, file) for name, file in others.items()}
    for source, cells in found.items():
        for name, reference in found.items():
            whole = np.allclose(reference.X.data, np.round(reference.X.data))
            if name == source or name.split()[0] != source.split()[0] or not whole:
                continue
            types = [t for t in sorted(set(reference.obs["type"])) if (cells.obs["type"] == t).sum() >= 5]
            rng = rng_of(seed, "studies", source)
            bulk = sums(cells, composition("usual", types, 20, rng), rng)
            bulk = measured(bulk, reads(bulk.X, rng))
            yield Case("studies", f"{source} read with {name}", reference, bulk, mapping_of(reference, types))


def platform(folder: Path, seed: int) -> Iterator[Case]:
    """What platforms make of one pseudo-bulk."""
    for base, reference, source, types in bases(folder, seed):
        rng = rng_of(seed, base)
        mixed = sums(source, composition("usual", types, 20, rng), rng)
        for name, distort in distortions(folder).items():
            X, units = distort(np.asarray(mixed.X), mixed.var_names, rng_of(seed, base, name))
            options = {"input_type": units}
            yield Case(
                "platform", f"{base}, {name}", reference, measured(mixed, X), mapping_of(reference, types), options
            )
        for n in (2000, 500):
            rng = rng_of(seed, base, str(n))
            X = reads(mixed.X * rng.lognormal(0, 0.6, mixed.n_vars), rng)
            shared = np.flatnonzero((X.sum(axis=0) > 0) & mixed.var_names.isin(reference.var_names))
            some = measured(mixed, X)[:, np.sort(rng.choice(shared, n, replace=False))].copy()
            yield Case("platform", f"{base}, {n} genes, sd 0.6", reference, some, mapping_of(reference, types))


def cohort(folder: Path, seed: int) -> Iterator[Case]:
    """Numbers of samples, samples of something else among them, two protocols; gene factors of sd 0.6."""
    for base, reference, source, types in bases(folder, seed):
        mapping = mapping_of(reference, types)
        rng = rng_of(seed, "cohort", base)
        mixed = sums(source, composition("usual", types, 200, rng), rng)
        factor = rng.lognormal(0, 0.6, (2, mixed.n_vars))
        X = reads(mixed.X * factor[0], rng)
        whole = measured(mixed, X)
        for n in (1, 2, 5, 200):
            yield Case("cohort", f"{base}, {n} samples", reference, whole[:n].copy(), mapping)
        few = whole[:20].copy()
        few.X[:3] = reads(rng.permuted(X[:3], axis=1), rng)
        yield Case("cohort", f"{base}, 20, 3 of them noise", reference, few, mapping, judged=np.arange(3, 20))
        few = whole[:20].copy()
        few.X[:3] = reads(few.X[:3] * rng.lognormal(0, 1.5, (3, mixed.n_vars)), rng)
        yield Case("cohort", f"{base}, 20, 3 of them bad", reference, few, mapping, judged=np.arange(3, 20))
        two = whole[:20].copy()
        two.X[10:] = reads(np.asarray(mixed.X[10:20]) * factor[1], rng)
        two.obs["protocol"] = np.repeat(["a", "b"], 10)
        yield Case("cohort", f"{base}, two protocols", reference, two, mapping)
        yield Case("cohort", f"{base}, two protocols, batch_key", reference, two, mapping, {"batch_key": "protocol"})


def compositions(folder: Path, seed: int) -> Iterator[Case]:
    """Unusual compositions; gene factors of sd 0.6; twenty samples."""
    for base, reference, source, types in bases(folder, seed):
        mapping = mapping_of(reference, types)
        for kind in ("flat", "dominated", "sorted", "correlated", "alike", "absent", "rare"):
            rng = rng_of(seed, "composition", base, kind)
            mixed = sums(source, composition(kind, types, 20, rng), rng, 2000)
            bulk = measured(mixed, reads(mixed.X * rng.lognormal(0, 0.6, mixed.n_vars), rng))
            yield Case("composition", f"{base}, {kind}", reference, bulk, mapping)
        rng = rng_of(seed, "composition", base, "lacks")
        mixed = sums(source, composition("usual", types, 20, rng), rng)
        bulk = measured(mixed, reads(mixed.X * rng.lognormal(0, 0.6, mixed.n_vars), rng))
        for gone in (types[0], types[-1]):
            kept = {label: kind for label, kind in mapping.items() if kind != gone}
            less = reference[reference.obs["type"] != gone].copy()
            yield Case("composition", f"{base}, reference lacks {gone}", less, bulk, kept)
    adata = study(folder, "sc_breast_wu_cid4465")
    adata.obs["cell_type"] = adata.obs["type"] = ad.read_h5ad(folder / "sc_breast_wu_cid4465.h5ad").obs.loc[
        adata.obs_names, "cell_type_minor"
    ].astype(str)  # fmt: skip
    first, second = halves(with_cells(adata, 20, "type"), seed)
    rng = rng_of(seed, "composition", "minor")
    mixed = sums(second, composition("flat", types_of(second), 40, rng), rng)
    bulk = measured(mixed, reads(mixed.X * rng.lognormal(0, 0.6, mixed.n_vars), rng))
    yield Case("composition", "breast, minor types", first, bulk, mapping_of(first, types_of(second)))
    for k in (2, 10, 40):
        first, bulk = hp.datasets.planted_cohort(
            n_types=k, n_genes=2000, n_cells=60 * k, n_samples=20, n_donors=4, seed=seed
        )
        first.obs["type"], bulk.obsm["truth"] = first.obs["cell_type"].astype(str), bulk.obsm["proportions"]
        yield Case("composition", f"planted, {k} types", first, bulk, mapping_of(first, list(bulk.obsm["truth"])))


def reference(folder: Path, seed: int) -> Iterator[Case]:
    """References that are small, unbalanced, of few donors or wrongly labelled; gene factors of sd 0.6."""
    for base, adata, source, types in bases(folder, seed):
        rng = rng_of(seed, "reference", base)
        mapping = mapping_of(adata, types)
        mixed = sums(source, composition("usual", types, 20, rng), rng)
        bulk = measured(mixed, reads(mixed.X * rng.lognormal(0, 0.6, mixed.n_vars), rng))
        order = adata.obs.assign(at=np.arange(adata.n_obs)).sample(frac=1, random_state=seed)
        places = order.groupby("cell_type")["at"]
        small = adata[np.sort(places.head(10))].copy()
        first = adata.obs["cell_type"].value_counts().index[0]
        uneven = adata[np.sort([*order["at"][order["cell_type"] == first], *small_places(order, first)])].copy()
        wrong = adata.copy()
        swapped = rng.random(adata.n_obs) < 0.1
        pairs = adata.obs[["cell_type", "type"]].to_numpy()
        wrong.obs.loc[swapped, ["cell_type", "type"]] = pairs[rng.integers(adata.n_obs, size=swapped.sum())]
        yield Case("reference", f"{base}, whole", adata, bulk, mapping)
        yield Case("reference", f"{base}, 10 cells a type", small, bulk, mapping)
        yield Case("reference", f"{base}, 10 cells of all but one", uneven, bulk, mapping)
        yield Case("reference", f"{base}, 10 % wrong labels", wrong, bulk, mapping)


def small_places(order: pd.DataFrame, but: str) -> np.ndarray:
    return order[order["cell_type"] != but].groupby("cell_type")["at"].head(10).to_numpy()


def real(folder: Path, seed: int) -> Iterator[Case]:
    """Cohorts with measured composition, as they are and as other platforms would have shown them."""
    for row in rows(folder):
        if row.cohort not in ("hoek", "finotello", "newman_full", "rnamix") or "hao" in row.reference:
            continue
        adata = row.adata.copy()
        adata.obs["type"] = adata.obs["cell_type"].astype(str).map(row.mapping)
        options = {"input_type": row.input_type}
        whole = Case("real", row.name, adata, row.bulk, row.mapping, options, row.truth_key, in_rna=row.truth_in_rna)
        yield whole
        if row.input_type != "auto" or row.reference != "ref_pbmc3k":
            continue
        rng = rng_of(seed, "real", row.name)
        X = np.asarray(row.bulk.X.todense() if hasattr(row.bulk.X, "todense") else row.bulk.X)
        panel = np.flatnonzero(row.bulk.var_names.isin(adata.var_names) & (X.sum(axis=0) > 0))
        changed = {
            "sd 0.6 more": (X * rng.lognormal(0, 0.6, X.shape[1]), None, "auto"),
            "one sample": (X[:1], None, "auto"),
            "2,000 genes": (X, np.sort(rng.choice(panel, 2000, replace=False)), "auto"),
            "log2(TPM + 1), one decimal": (np.log2(X + 1).round(1), None, "log2"),
            "1e5 reads": (reads(X, rng, 1e5), None, "auto"),
        }
        for name, (values, genes, units) in changed.items():
            bulk = ad.AnnData(np.float32(values), row.bulk.obs.iloc[: len(values)], row.bulk.var)
            bulk.obsm["truth"] = row.bulk.obsm[row.truth_key].iloc[: len(values)]
            bulk = bulk if genes is None else bulk[:, genes].copy()
            yield Case("real", f"{row.name}, {name}", adata, bulk, row.mapping, {"input_type": units})


PARTS = {"studies": studies, "platform": platform, "cohort": cohort, "composition": compositions,
         "reference": reference, "real": real}  # fmt: skip


def train(adata: ad.AnnData) -> hp.HPVADE:
    adata = adata.copy()
    hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    model = hp.HPVADE(adata)
    model.train(max_epochs=0, accelerator="cpu", enable_progress_bar=False)
    return model


def measure(case: Case, model: hp.HPVADE) -> dict:
    """One row of the table."""
    judged = slice(None) if case.judged is None else case.judged
    bulk, fractions = case.bulk.copy(), "rna" if case.in_rna else "cell"
    model.deconvolve(bulk, fractions=fractions, **case.options)
    hp.tl.solve(
        bulk,
        case.reference,
        labels_key="cell_type",
        sample_key="donor",
        fractions=fractions,
        device="cpu",
        **case.options,
    )
    tables = {"": bulk.obsm[KEY], "solve ": bulk.obsm["robust_proportions"], "NNLS ": bulk.obsm[f"{KEY}_nnls"]}
    record = {"part": case.part, "case": case.name, "n": bulk.n_obs}
    for name, table in tables.items():
        found, truth = (x.to_numpy()[judged] for x in hp.tl.compare(table, bulk.obsm[case.truth], case.mapping))
        several = len(truth) > 1
        record[f"{name}r"] = metrics.per_type_r(found, truth) if several else np.nan
        record[f"{name}RMSE"] = metrics.rmse(found, truth)
    record["constant RMSE"] = metrics.rmse(metrics.constant(truth), truth) if several else np.nan
    bounds = model.get_proportion_intervals(bulk, mapping=case.mapping, fractions=fractions, **case.options)
    groups = list(hp.tl.compare(table, bulk.obsm[case.truth], case.mapping)[1])
    low, high = (bounds.xs(b, axis=1, level=1)[groups].to_numpy()[judged] for b in ("lower", "upper"))
    record |= {"cover": ((truth >= low - 1e-9) & (truth <= high + 1e-9)).mean(), "width": (high - low).mean()}
    reading = {k: v for k, v in case.options.items() if k != "batch_key"}
    hp.tl.diagnose(bulk, model, **reading)
    messages = [
        next((tag for key, tag in TAGS.items() if key in text), text[:40]) for text in bulk.uns["hpvade_qc"]["messages"]
    ]
    flagged = bulk.obs["hpvade_qc_flagged"].to_numpy()[judged].mean()
    record["platform"] = bulk.uns[KEY]["platform_distance"]
    record["flagged"] = flagged
    record["said"] = ", ".join(dict.fromkeys(messages))
    return record | {"fails": ", ".join(failures(record))}


def failures(row: dict) -> Iterator[str]:
    if row["RMSE"] > row["NNLS RMSE"] or row["r"] < row["NNLS r"] - 0.02:
        yield "NNLS"
    if row["RMSE"] > row["constant RMSE"]:
        yield "constant"
    if row["cover"] < 0.75:
        yield "cover"
    said = row["said"] or row["flagged"] >= 0.5
    wrong = row["RMSE"] > min(np.nan_to_num(row["constant RMSE"], nan=1), 0.1)
    if wrong and not said:
        yield "silent"
    if said and row["RMSE"] < 0.05 and not row["r"] < 0.95:
        yield "false alarm"


def set_prior_weight(weight: float) -> None:
    """Another weight of the prior in everything that is asked here."""
    from hpvade.models.hpvade import _estimate, _intervals

    _estimate.PRIOR_WEIGHT = _intervals.PRIOR_WEIGHT = weight
    _estimate.estimates.__wrapped__.__kwdefaults__["prior_weight"] = weight
    _estimate.estimate_shares.__wrapped__.__kwdefaults__["anchor_weight"] = weight
    hp.HPVADE.deconvolve.__kwdefaults__["prior_weight"] = weight


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--prior-weight", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.prior_weight is not None:
        set_prior_weight(args.prior_weight)
    records, models = [], {}
    for part in args.parts:
        for case in PARTS[part](args.folder, args.seed):
            if args.only not in case.name:
                continue
            if id(case.reference) not in models:  # the reference is kept beside its model, so that its id stays its own
                models[id(case.reference)] = case.reference, train(case.reference)
            records.append(measure(case, models[id(case.reference)][1]))
        models.clear()
    table = pd.DataFrame(records)
    if args.output:
        table.to_csv(args.output, index=False)
    print(markdown(table.drop(columns="part").set_index("case")))


if __name__ == "__main__":
    main()
