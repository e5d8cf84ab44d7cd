"""Labels of references: planted errors found, clean labels left alone, and what repaired labels do to real bulk.

    python benchmarks/labels.py DATA_FOLDER planted [--seeds 3] [--only Hao] [--by markers anchor] [--share 0.1]
    python benchmarks/labels.py DATA_FOLDER clean [--only Hao]
    python benchmarks/labels.py DATA_FOLDER cohorts [--only Kang]
    python benchmarks/labels.py DATA_FOLDER ceiling [--seeds 5] [--only Kang] [--share 0.2]

`planted` relabels 10, 20 and 40 % of the cells of one type as its neighbour and asks `hp.tl.check_labels` for them, by
area under the ROC curve over all cells and over the cells with the neighbour's label, and for the share of that label
that is wrong. `clean` asks it of labels that hold, or as published, and judges the flags between T cells by CD8A and
CD8B (with `labels alone` these genes are taken out before). `cohorts` solves bulk with measured truth by references as
published and after `hp.pp.transfer_labels`. DATA_FOLDER holds the development files and cohorts.json.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scvi
from _cohorts import read_reference
from sklearn.metrics import roc_auc_score

import hpvade as hp
from hpvade.reference import _transfer

T_AND_NK = ["CD4 T", "CD8 T", "NK"]
PLANTED = {
    "Hao, one half": [("CD8 T", "CD4 T"), ("NK", "CD8 T"), ("Mono", "DC")],
    "sorted cells (Zheng)": [("CD8 T", "CD4 T"), ("NK", "CD8 T")],
    "10x, protein labels": [("CD8 T", "CD4 T"), ("NK", "CD8 T")],
    "PBMC 3k, repaired": [("CD8 T", "CD4 T"), ("NK", "CD8 T")],
    "Kang control, repaired": [("CD8 T", "CD4 T"), ("NK", "CD8 T")],
    "7 batches, repaired": [("CD8 T", "CD4 T"), ("NK", "CD8 T")],
    "Kang, 5 donors": [("NK", "CD4 T")],
    "pancreas": [("beta", "alpha"), ("ductal", "acinar")],
    "cell lines": [("H838", "A549"), ("H2228", "H1975")],
    "breast tumour": [("PVL", "CAFs")],
}
FILES = {
    "sorted cells (Zheng)": "sc_zheng_sorted9",
    "Kang, 5 donors": "ref_kang_ctrl_5donors",
    "pancreas": "sc_pancreas_panc8_small",
    "cell lines": "sc_cellbench_lines",
    "breast tumour": "sc_breast_wu_cid4465",
    "Kang, control": "kang_ctrl_stim:ctrl",
    "7 batches": "sc_pbmc_7batches_computed_labels",
}


def half(of_anchor: bool) -> ad.AnnData:
    """One half of the Hao cells; the other one is its anchor."""
    adata = hp.datasets.blood_anchor()
    chosen = np.random.default_rng(0).random(adata.n_obs) < 0.5
    return adata[chosen if of_anchor else ~chosen].copy()


def by_protein(folder: Path) -> ad.AnnData:
    """Cells of two 10x runs, called by surface protein alone: each is on or off beyond the middle of its two modes."""
    from sklearn.mixture import GaussianMixture

    adata = ad.read_h5ad(folder / "cite_pbmc_10x_2batches.h5ad")
    table = np.log1p(adata.obsm["protein_expression"])
    on = {}
    for name in table:
        modes = GaussianMixture(2, random_state=0, n_init=5).fit(table[[name]]).means_
        on[name.split("_")[0]] = table[name].to_numpy() > modes.mean()
    lineage = on["CD3"].astype(int) + on["CD19"] + on["CD14"]
    calls = {
        "B": on["CD19"],
        "CD4 T": on["CD3"] & on["CD4"] & ~on["CD8a"] & ~on["CD56"],
        "CD8 T": on["CD3"] & on["CD8a"] & ~on["CD4"] & ~on["CD56"],
        "Mono": on["CD14"],
    }
    called = np.select([(lineage == 1) & call for call in calls.values()], list(calls), "")
    called[(lineage == 0) & on["CD56"]] = "NK"
    adata.obs["cell_type"], adata.obs["donor"] = called, adata.obs["batch"].astype(str)
    return adata[called != ""].copy()


def reference(folder: Path, name: str) -> ad.AnnData:
    """A reference with coarse labels in `cell_type`."""
    if name == "Hao, one half":
        return half(of_anchor=False)
    if name == "10x, protein labels":
        return by_protein(folder)
    if name.endswith(", repaired"):
        adata = reference(folder, name.removesuffix(", repaired").replace("Kang control", "Kang, control"))
        hp.pp.transfer_labels(adata, hp.datasets.blood_anchor(), labels_key="cell_type", types=T_AND_NK)
        adata.obs["cell_type"] = adata.obs["transferred_labels"].astype(str)
        return adata[adata.obs["transferred_labels"].notna()].copy()
    if name == "PBMC 3k":
        return hp.datasets.pbmc_reference()
    # of the 7 batches all cells, also those whose three computed labels disagree
    file = FILES[name]
    adata = ad.read_h5ad(folder / f"{file}.h5ad") if name == "7 batches" else read_reference(folder, file)
    if "cell_type_coarse" in adata.obs:
        adata.obs["cell_type"] = adata.obs["cell_type_coarse"].astype(str)
    adata.obs["donor"] = adata.obs["donor"].astype(str)
    return adata


def evidence(name: str, adata: ad.AnnData) -> dict[str, dict]:
    """Arguments of `check_labels` that can be had for a reference."""
    if "B" not in set(adata.obs["cell_type"]):
        return {"labels alone": {"markers": None}}
    anchor = half(of_anchor=True) if name.startswith("Hao") else hp.datasets.blood_anchor()
    return {
        "labels alone": {"markers": None},
        "markers": {},
        "anchor": {"markers": None, "anchor": anchor},
    }


def remember_anchors() -> None:
    """Learn each anchor once: what it says of a cell does not depend on the planted labels."""
    learn, learned = _transfer.fit_classifier, {}

    def fit_classifier(X, genes, classes, known, used, **options):
        key = id(X), tuple(used), np.asarray(known).tobytes()
        if key not in learned:
            learned[key] = X, learn(X, genes, classes, known, used, **options)
        return learned[key][1]

    _transfer.fit_classifier = fit_classifier


def planted(folder: Path, n_seeds: int, only: str, by_what: list[str], shares: list[float]) -> None:
    columns = ["reference", "planted", "share of the type", "by", "AUC", "AUC in the label", "wrong", "found"]
    print(f"| {' | '.join(columns)} | difference | found before planting |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, pairs in PLANTED.items():
        if only not in name:
            continue
        clean = reference(folder, name)
        asked = evidence(name, clean)
        for source, target in pairs:
            for by, arguments in asked.items():
                if by not in by_what:
                    continue
                before = found_share(hp.tl.check_labels(clean, "cell_type", **arguments, copy=True), source, target)
                for share in shares:
                    rows = [one(clean, source, target, share, seed, arguments) for seed in range(n_seeds)]
                    auc, inside, wrong, found = np.median(rows, axis=0)
                    gap = np.median([row[3] - row[2] for row in rows])
                    print(
                        f"| {name} | {source} as {target} | {share:.0%} | {by} | {auc:.3f} | {inside:.3f} "
                        f"| {wrong:.3f} | {found:.3f} | {gap:+.3f} | {before:.3f} |",
                        flush=True,
                    )


def one(clean: ad.AnnData, source: str, target: str, share: float, seed: int, arguments: dict) -> tuple:
    adata, labels = clean.copy(), clean.obs["cell_type"].astype(str).to_numpy().copy()
    cells = np.flatnonzero(labels == source)
    chosen = np.random.default_rng(seed).choice(cells, round(share * len(cells)), replace=False)
    labels[chosen] = target
    wrong = np.isin(np.arange(len(labels)), chosen)
    adata.obs["cell_type"] = labels
    hp.tl.check_labels(adata, "cell_type", **arguments)
    score, inside = adata.obs["label_check_score"].to_numpy(), labels == target
    return (
        roc_auc_score(wrong, score),
        roc_auc_score(wrong[inside], score[inside]),
        wrong[inside].mean(),
        found_share(adata, source, target),
    )


def found_share(adata: ad.AnnData, source: str, target: str) -> float:
    """Share of the cells called `target` that are said to be `source`."""
    return adata.uns["label_check"]["pairs"].set_index(["type", "second"])["share"].get((target, source), 0.0)


def clean(folder: Path, only: str) -> None:
    columns = [
        "reference",
        "by",
        "flagged cells",
        "wrong by CD8A, CD8B",
        "largest share",
        "findings",
        "warning of setup",
    ]
    print(f"| {' | '.join(columns)} | s |")
    print("|---|---|---|---|---|---|---|---|")
    from hpvade.reference._labels import cheap_label_warning

    for name in [*PLANTED, "PBMC 3k", "Kang, control", "7 batches"]:
        if only not in name:
            continue
        adata = reference(folder, name)
        for by, arguments in evidence(name, adata).items():
            start = time.perf_counter()
            hp.tl.check_labels(adata, "cell_type", **arguments)
            middle = time.perf_counter()
            text = cheap_label_warning(adata.X, adata.obs["cell_type"], adata.var_names)
            result = adata.uns["label_check"]
            told = "; ".join(
                f"{row.type} as {row.second} {row.share:.0%}"
                if row.share == row.share
                else f"no label for {row.second}"
                for row in result["findings"].itertuples()
                if row.second != "doublets"
            )
            top = result["pairs"]["share"].max() if len(result["pairs"]) else 0.0
            judged = wrong_by_cd8(adata) if by == "labels alone" else "-"
            print(
                f"| {name} | {by} | {adata.obs['label_check_flagged'].mean():.2%} | {judged} "
                f"| {top:.3f} | {told or '-'} | {'yes' if text else 'no'} | {middle - start:.1f} |",
                flush=True,
            )


def wrong_by_cd8(clean: ad.AnnData) -> str:
    """How many of the T cells that labels alone flag as the other kind are such, by genes that were taken out before.

    Their rate of CD8A or CD8B lies between the one of their label's other cells and the one of the other kind's.
    """
    genes = clean.var_names.intersection(["CD8A", "CD8B"])
    if not len(genes) or not {"CD4 T", "CD8 T"} <= set(clean.obs["cell_type"]):
        return "-"
    hit = (clean[:, genes].X.toarray() > 0).any(axis=1)
    adata = clean[:, ~clean.var_names.isin(["CD8A", "CD8B", "CD4"])].copy()
    hp.tl.check_labels(adata, "cell_type", markers=None)
    flagged, label = adata.obs["label_check_flagged"].to_numpy(), adata.obs["cell_type"].astype(str).to_numpy()
    suggested, found, n = adata.obs["label_check_suggestion"].astype(str).to_numpy(), 0.0, 0
    rate = {kind: hit[(label == kind) & ~flagged].mean() for kind in ("CD4 T", "CD8 T")}
    for own, other in (("CD4 T", "CD8 T"), ("CD8 T", "CD4 T")):
        cells = flagged & (label == own) & (suggested == other)
        if cells.any():
            found += cells.sum() * np.clip((hit[cells].mean() - rate[own]) / (rate[other] - rate[own]), 0, 1)
            n += cells.sum()
    return f"{found:.0f} of {n}" if n else "none flagged"


def ceiling(folder: Path, n_seeds: int, only: str, share: float) -> None:
    from hpvade.reference import _label_evidence as evidence
    from hpvade.reference._blood_markers import MARKERS
    from hpvade.reference._label_space import embed, sample_cells

    print("| reference | planted | a marker | planted labels | with a marker | right labels | with a marker |")
    print("|---|---|---|---|---|---|---|")
    for name in ("10x, protein labels", *(name for name in PLANTED if name.endswith("repaired")), "Hao, one half"):
        if only not in name:
            continue
        clean = reference(folder, name)
        right = clean.obs["cell_type"].astype(str).to_numpy()
        kinds, codes = np.unique(right, return_inverse=True)
        sample = sample_cells(codes, np.random.default_rng(0))
        points = embed(clean.X, sample)[1]
        expressed = evidence.expressed_markers(clean.X, clean.var_names, MARKERS)

        def odds(codes, a, b, sample=sample, points=points, kinds=kinds):
            found = evidence.by_labels(points, codes, sample, len(kinds))
            return np.log(found[:, a] + 1e-9) - np.log(found[:, b] + 1e-9)

        for source, target in PLANTED[name][:2]:
            a, b = (np.flatnonzero(kinds == kind)[0] for kind in (source, target))
            hit = expressed[expressed.columns.intersection(MARKERS[source]["has"])].any(axis=1).to_numpy()
            full, background = (np.clip(hit[codes == k].mean(), 0.01, 0.99) for k in (a, b))
            marker = np.where(hit, np.log(full / background), np.log((1 - full) / (1 - background)))
            found = []
            for seed in range(n_seeds):
                cells = np.flatnonzero(codes == a)
                chosen = np.random.default_rng(seed).choice(cells, round(share * len(cells)), replace=False)
                planted_codes = codes.copy()
                planted_codes[chosen] = b
                inside, wrong = planted_codes == b, np.isin(np.arange(len(codes)), chosen)
                known, best = odds(planted_codes, a, b), odds(codes, a, b)
                ways = (marker, known, known + marker, best, best + marker)
                found.append([roc_auc_score(wrong[inside], way[inside]) for way in ways])
            cells = " | ".join(f"{value:.3f}" for value in np.median(found, axis=0))
            print(f"| {name} | {source} as {target} | {cells} |", flush=True)


def cohorts(folder: Path, only: str, scanvi: int = 0) -> None:
    config = json.loads((folder / "cohorts.json").read_text())
    print("| reference | labels | cells | cohort | r | RMSE | x as published | NNLS | constant |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in ("PBMC 3k", "7 batches", "Kang, control"):
        if only not in name:
            continue
        published = reference(folder, name)
        variants = {"as published": published}
        ways = {"transferred": {}, "transferred, by batch": {"batch_key": "donor"}}
        ways |= {f"by scANVI, seed {seed}": {"method": "scanvi"} for seed in range(scanvi)}
        for seed, (label, options) in enumerate(ways.items(), start=-2):
            if options.get("batch_key") and published.obs["donor"].nunique() < 2:
                continue
            scvi.settings.seed = max(seed, 0)
            adata = published.copy()
            hp.pp.transfer_labels(adata, hp.datasets.blood_anchor(), labels_key="cell_type", types=T_AND_NK, **options)
            adata = adata[adata.obs["transferred_labels"].notna()].copy()
            adata.obs["cell_type"] = adata.obs["transferred_labels"].astype(str)
            variants[label] = adata
        for cohort in ("hoek", "finotello", "newman_full"):
            before = None
            for label, adata in variants.items():
                scores = solve(folder, config["cohorts"][cohort], adata)
                before = before or scores["solved", "rmse"]
                ratio = scores["solved", "rmse"] / before
                print(
                    f"| {name} | {label} | {adata.n_obs} | {cohort} | {scores['solved', 'per_type_r']:.3f} "
                    f"| {scores['solved', 'rmse']:.3f} | {ratio:.2f} | {scores['nnls', 'rmse']:.3f} "
                    f"| {scores['constant', 'rmse']:.3f} |",
                    flush=True,
                )


def solve(folder: Path, entry: dict, adata: ad.AnnData) -> pd.Series:
    """Scores of `tl.solve` with its defaults, with NNLS and the constant beside."""
    bulk = ad.read_h5ad(folder / f"{entry['bulk']}.h5ad")
    shared = adata.var_names.intersection(bulk.var_names, sort=False)
    if len(shared) < 0.5 * adata.n_vars:  # as in the other benchmarks: the reference on what both have
        adata = adata[:, shared].copy()
        adata = adata[np.asarray(adata.X.sum(axis=1)).ravel() > 0].copy()
    merge = entry.get("merge", {})
    columns = {merge.get(c, c): column for column, c in entry["truth"].items()}
    short = {"CD4 T": "CD4", "CD8 T": "CD8"}
    types = {t: merge.get(short.get(t, t), short.get(t, t)) for t in adata.obs["cell_type"].unique()}
    mapping = {t: columns[c] for t, c in types.items() if c in columns}
    input_type = "log2" if entry.get("transform") == "exp2" else "auto"
    hp.tl.solve(
        bulk, adata, labels_key="cell_type", sample_key="donor", input_type=input_type, key_added="solved", device="cpu"
    )
    return hp.tl.evaluate(bulk, entry["truth_key"], prediction_key="solved", mapping=mapping).stack()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("what", choices=["planted", "clean", "cohorts", "ceiling"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scanvi", type=int, default=0, help="cohorts: labels by scANVI, too, with so many seeds")
    parser.add_argument("--only", default="", help="references whose name holds this")
    parser.add_argument("--share", nargs="+", type=float, default=[0.1, 0.2, 0.4])
    parser.add_argument("--by", nargs="+", default=["labels alone", "markers", "anchor"])
    arguments = parser.parse_args()
    if arguments.what == "planted":
        remember_anchors()
        planted(arguments.folder, arguments.seeds, arguments.only, arguments.by, arguments.share)
    elif arguments.what == "cohorts":
        cohorts(arguments.folder, arguments.only, arguments.scanvi)
    elif arguments.what == "ceiling":
        ceiling(
            arguments.folder, arguments.seeds, arguments.only, arguments.share[-2 if len(arguments.share) > 1 else 0]
        )
    else:
        clean(arguments.folder, arguments.only)
