"""Where the level error of several studies on blood comes from, and what does not mend it.

    python benchmarks/blood_level.py DATA_FOLDER [--output FILE.csv]

First table: bias of every type by study (mean over samples of predicted less measured fractions) with the shipped two.
Second: ways to choose genes, prior, sizes and weights, each in place of the default, over eight sets of two to five
studies and three cohorts, and over eight pseudo-bulks across studies (24 samples of 1,000 cells, the fractions around
blood's); RMSE over the default's, median over the sets of studies. Third: sums of one type's cells of another study.
No way sees the truth of a cohort; the labels of cells are those that the anchor gave (benchmarks/studies.py).
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import studies as studies_of
import torch
from torch import Tensor

import hpvade as hp
from hpvade.evaluation import _metrics as metrics
from hpvade.models.hpvade._consensus import average
from hpvade.models.hpvade._estimate import Estimate, estimate
from hpvade.solvers import _robust, marker_genes, robust
from hpvade.solvers._influence import covariance_of_mean

TYPES = ["B", "CD4 T", "CD8 T", "NK", "Mono"]
USUAL = [0.1, 0.4, 0.2, 0.1, 0.2]
CELLS = ["pbmc3k", "kang", "7 batches", "hao cells"]
FIVE = [*CELLS, "hao sums"]
SETS = [["pbmc3k", "hao sums"], FIVE, ["pbmc3k", "hao sums", "hao cells"], ["kang", "7 batches"]]
SETS += [["pbmc3k", "7 batches"], ["hao sums", "7 batches"], ["pbmc3k", "kang"], ["pbmc3k", "hao cells"]]
OTHERS = {  # source of the cells: references
    "kang": [["pbmc3k", "hao sums"], ["pbmc3k", "7 batches", "hao sums"]],
    "7 batches": [["pbmc3k", "hao sums"], ["pbmc3k", "kang", "hao sums"]],
    "pbmc3k": [["hao sums", "7 batches"], ["kang", "7 batches", "hao sums"]],
    "hao cells": [["pbmc3k", "7 batches"], ["pbmc3k", "kang", "7 batches"]],
}
FLOOR = 5e-5


def mixtures(adata: ad.AnnData, fractions: np.ndarray, seed: int) -> ad.AnnData:
    """Sums of 1,000 cells."""
    rng, X, kind = np.random.default_rng(seed), adata.X.tocsr(), adata.obs["type"].astype(str).to_numpy()
    pools, counts, truth = [np.flatnonzero(kind == name) for name in TYPES], [], []
    for p in fractions:
        n = rng.multinomial(1000, p)
        cells = np.concatenate([rng.choice(pool, k) for pool, k in zip(pools, n, strict=True)])
        counts.append(np.asarray(X[cells].sum(axis=0)).ravel())
        truth.append(n / 1000)
    bulk = ad.AnnData(np.array(counts, dtype=np.float32), var=pd.DataFrame(index=adata.var_names))
    bulk.obsm["truth"] = pd.DataFrame(truth, bulk.obs_names, TYPES)
    return bulk


def composition(cells: dict[str, ad.AnnData], types: list[str]) -> Tensor:
    """Mean composition over the donors of the seven batches and PBMC 3k, as their cells show it."""
    obs = pd.concat(
        [cells[name].obs[["type", "donor"]].astype(str).assign(study=name) for name in ("7 batches", "pbmc3k")]
    )
    table = pd.crosstab([obs["study"], obs["donor"]], obs["type"], normalize="index").mean()
    parts = torch.tensor([table.get(name, 0.0) + 0.002 for name in types], dtype=torch.float64)
    return parts / parts.sum()


def solve(model, found: Estimate, s: int, genes: Tensor, agreement: Tensor | None = None, **options) -> Tensor:
    """Fractions of cells by one study on some genes; `agreement` (genes,) multiplies the weights of the cohort."""
    module, study = model.module, found.studies[s]
    signature = module.study_signature(s)
    equal = torch.ones(found.rna.shape, dtype=torch.float32)
    anchor = module.cells_to_rna(equal, module.study_mean_counts[s].sum(dim=0))
    given = {"depth": found.depth, "anchor": anchor, "anchor_weight": 0.1} | options
    whole = _robust.moderated_weight
    if agreement is not None:
        _robust.moderated_weight = lambda *args: whole(*args) * agreement
    try:
        fit = robust(found.shares[:, genes], (signature / signature.sum(dim=0))[genes], **given)
    finally:
        _robust.moderated_weight = whole
    return module.rna_to_cells(fit.rna_proportions, study.sizes)


def choose(model, found: Estimate, s: int, how: str, n: int) -> Tensor:
    """Genes by the mean log profile of the studies, by that of the other studies, or by their smallest contrast."""
    module, all_studies = model.module, list(range(len(found.studies)))
    used = [t for t in all_studies if t != s] if how == "others" else all_studies
    profiles = torch.stack([module.study_signature(t) / module.study_signature(t).sum(dim=0) for t in used])
    measured = module.study_measured[used]
    allowed = found.present & (module.gene_score > 0) & module.study_measured[s] & measured.any(dim=0)
    level = torch.log(profiles + FLOOR)
    if how == "smallest":
        chosen, index = set(), allowed.nonzero()[:, 0]
        for i, j in ((i, j) for i in range(level.shape[2]) for j in range(level.shape[2]) if i != j):
            contrast = torch.where(measured[:, index], level[:, index, i] - level[:, index, j], torch.inf).amin(dim=0)
            best = contrast.topk(min(n, len(index)))
            chosen |= set(index[best.indices[best.values > 0.3]].tolist())
        return torch.tensor(sorted(chosen))
    known = measured[:, :, None].float()
    mean = (level * known).sum(dim=0) / known.sum(dim=0).clamp(min=1)
    return marker_genes((mean.exp() - FLOOR).clamp(min=0), allowed, n_per_pair=n, n_total=20 * n)


def agreement(model, s: int, genes: Tensor) -> Tensor:
    """1 / (1 + d / median d), d the mean square of the studies' difference in a gene's log contrasts between types."""
    module = model.module
    level = [
        torch.log(module.study_signature(t) / module.study_signature(t).sum(dim=0) + FLOOR)[genes]
        for t in range(len(model.studies))
    ]
    known = module.study_measured[:, genes].float().clone()
    known[s] = 0
    apart = torch.stack([level[s] - one for one in level])
    apart = (apart - apart.mean(dim=2, keepdim=True)).square().mean(dim=2)
    apart = (apart * known).sum(dim=0) / known.sum(dim=0).clamp(min=1)
    compared = known.sum(dim=0) > 0
    typical = apart[compared].median()
    weight = 1 / (1 + torch.where(compared, apart, typical) / typical)
    return weight / weight.median()


def gene_effects(found: Estimate) -> list[Tensor]:
    """What every gene does to the cohort's mean fractions of RNA, by study (all genes x types)."""
    effects = []
    for study in found.studies:
        influence, mean = study.fit.influence, study.rna.double().mean(dim=0)
        moved = torch.einsum("ng,gj,nkj->gk", influence.score.double(), influence.profile.double(), influence.inverse)
        whole = torch.zeros((len(found.present), len(mean)), dtype=torch.float64)
        whole[study.genes] = moved / len(influence.score) @ (torch.eye(len(mean)).double() - mean[:, None]).T
        effects.append(whole)
    return effects


def drawn_to(found: Estimate, cells: Tensor) -> Tensor:
    """The cohort's mean fractions of RNA by linear Bayes, from a Dirichlet around `cells` and the genes' covariance."""
    sizes = torch.stack([study.sizes.double().log() for study in found.studies]).mean(dim=0).exp()
    prior, mean = cells * sizes / (cells * sizes).sum(), found.rna.double().mean(dim=0)
    effect = torch.stack(gene_effects(found)).mean(dim=0)
    own, spread = effect.T @ effect, (torch.diag(prior) - prior[:, None] * prior) / (len(prior) + 1)
    moved = (mean + own @ torch.linalg.pinv(own + spread, hermitian=True, rtol=1e-8) @ (prior - mean)).clamp(min=1e-4)
    factor = torch.where(mean > 1e-3, moved / mean.clamp(min=1e-3), 1.0).clamp(0.2, 5)
    return found.cells.double() * factor


def by_covariance(found: Estimate, kind: str) -> Tensor:
    """Studies weighted by the inverse variance of their level, per type or study, or by generalised least squares."""
    effects, cells = gene_effects(found), torch.stack([study.cells.double() for study in found.studies])
    if kind != "covariance":
        variance = torch.stack([x.square().sum(dim=0) for x in effects]).clamp(min=1e-6)
        weight = 1 / (variance if kind == "type" else variance.sum(dim=1, keepdim=True))
        return (weight[:, None] / weight.sum(dim=0) * cells).sum(dim=0)
    joint, n = torch.cat(effects, dim=1), cells.shape[2]
    each = torch.eye(n, dtype=torch.float64).repeat(len(cells), 1)
    precision = torch.linalg.pinv(joint.T @ joint + 1e-4 * torch.eye(len(each)), hermitian=True)
    weight = torch.linalg.pinv(each.T @ precision @ each, hermitian=True) @ each.T @ precision
    return (torch.cat(list(cells), dim=1) @ weight.T).clamp(min=0)


def to_cohort(found: Estimate) -> Tensor:
    """Samples drawn to the cohort's mean as far as their own variance asks for it (James and Stein, type by type)."""
    parts = [(study.fit.influence, study.genes) for study in found.studies]
    level = torch.stack(gene_effects(found)).mean(dim=0).square().sum(dim=0)
    own = (torch.diagonal(covariance_of_mean(parts), dim1=1, dim2=2) - level).clamp(min=1e-8)
    cells = found.cells.double()
    between = ((cells - cells.mean(dim=0)).square().mean(dim=0) - own.mean(dim=0)).clamp(min=0)
    return (cells.mean(dim=0) + (cells - cells.mean(dim=0)) * between / (between + own)).clamp(min=0)


def ways(model, bulk: ad.AnnData, input_type: str, usual: Tensor) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Every way by name; the default first."""
    found = estimate(model, bulk, input_type=input_type, covariance=True)
    each, types = range(len(found.studies)), model.cell_types
    own = [study.genes for study in found.studies]
    yield "default", lambda: found.cells

    def again(**options):
        return lambda: estimate(model, bulk, input_type=input_type, **options).cells

    def chosen(how: str, n: int):
        return lambda: average([solve(model, found, s, choose(model, found, s, how, n)) for s in each])

    for weight in (0.3, 1.0):
        yield f"prior of equal parts, weight {weight}", again(prior_weight=weight)
    for weight in (0.1, 1.0):
        prior = dict(zip(types, usual.tolist(), strict=True))
        yield f"prior of the donors' composition, weight {weight}", again(prior=prior, prior_weight=weight)
    equal = torch.full((len(types),), 1 / len(types), dtype=torch.float64)
    yield "level drawn to equal parts by its covariance", lambda: drawn_to(found, equal)
    yield "level drawn to the donors' composition by its covariance", lambda: drawn_to(found, usual)
    yield "samples drawn to the cohort's mean", lambda: to_cohort(found)
    sizes = torch.stack([study.sizes.log() for study in found.studies]).mean(dim=0).exp()
    yield (
        "one RNA content: mean of the studies' logs",
        lambda: average([model.module.rna_to_cells(study.rna, sizes) for study in found.studies]),
    )
    yield (
        "geometric mean of the studies",
        lambda: torch.stack([torch.log(study.cells + 1e-3) for study in found.studies]).mean(dim=0).exp() - 1e-3,
    )
    for kind in ("study", "type", "covariance"):
        yield (
            f"studies weighted by their level's {'covariance' if kind == 'covariance' else f'variance, per {kind}'}",
            lambda kind=kind: by_covariance(found, kind),
        )
    total, count = torch.zeros(len(found.present)), torch.zeros(len(found.present))
    for study in found.studies:
        total[study.genes] += study.fit.gene_factor
        count[study.genes] += 1
    shared = total / count.clamp(min=1)
    yield (
        "one gene factor for all studies",
        lambda: average(
            [
                solve(model, found, s, own[s], gene_factor=shared[own[s]], gene_weight=found.studies[s].fit.gene_weight)
                for s in each
            ]
        ),
    )
    yield "no gene factor", lambda: average([solve(model, found, s, own[s], gene_factor=False) for s in each])
    yield (
        "genes weighted by the studies' agreement",
        lambda: average([solve(model, found, s, own[s], agreement(model, s, own[s])) for s in each]),
    )
    yield "genes by the mean of the studies", chosen("mean", 25)
    yield "genes by the other studies", chosen("others", 25)
    yield "genes by the smallest contrast of the studies", chosen("smallest", 25)
    yield "the same, 50 a pair", chosen("smallest", 50)
    yield (
        "one signature, the mean of the studies",
        lambda: model.module.rna_to_cells(found.fit.rna_proportions, found.sizes),
    )


def bias(model, bulk: ad.AnnData, entry: dict, classes: dict, input_type: str) -> pd.DataFrame:
    """Bias of every type, and RMSE with and without it, by study and for their mean; how large genes say it may be."""
    found, mapping = (
        estimate(model, bulk, input_type=input_type, covariance=True),
        studies_of.mapping_of(model.cell_types, entry, classes),
    )
    rows = {}
    for name, cells in [*((study.name, study.cells) for study in found.studies), ("mean", found.cells)]:
        table = pd.DataFrame(cells.double().numpy(), bulk.obs_names, model.cell_types)
        predicted, truth = hp.tl.compare(table, bulk.obsm[entry["truth_key"]], mapping)
        error = predicted - truth
        rows[name] = error.mean().map("{:+.3f}".format).to_dict()
        rows[name] |= {"RMSE": f"{(error**2).mean(axis=None) ** 0.5:.3f}"}
        rows[name] |= {"RMSE without the bias": f"{((error - error.mean()) ** 2).mean(axis=None) ** 0.5:.3f}"}
    rows["measured"] = truth.mean().map("{:.3f}".format).to_dict()
    effect = torch.stack(gene_effects(found)).mean(dim=0).numpy()
    moved = {group: effect[:, [mapping.get(name) == group for name in model.cell_types]].sum(axis=1) for group in truth}
    rows["expected sd, of RNA"] = {group: f"{np.sqrt(np.square(x).sum()):.3f}" for group, x in moved.items()}
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, help="records; a run that was stopped goes on from them")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_grad_enabled(False)
    config = json.loads((args.folder / "cohorts.json").read_text())
    classes, cells = config["classes"], {}
    summarize = hp.pp.summarize

    def remember(adata, *args, **options):  # the relabelled cells, before they are summed
        cells[CELLS[len(cells)]] = adata
        return summarize(adata, *args, **options)

    hp.pp.summarize = remember
    parts = studies_of.studies(args.folder, classes)
    hp.pp.summarize = summarize
    models, records = {}, []
    if args.output and args.output.exists():  # of a run that was stopped
        records = pd.read_csv(args.output).to_dict("records")
    done = {(record["row"], record["group"]) for record in records}

    def model_of(names: list[str]):
        key = tuple(names)
        models[key] = models.get(key) or studies_of.model_of({name: parts[name] for name in names})
        return models[key]

    def measure(row: str, group: str, names: list[str], bulk, score, input_type: str = "auto") -> None:
        if (row, group) in done:
            return
        model = model_of(names)
        for way, answer in ways(model, bulk, input_type, composition(cells, model.cell_types)):
            x = answer().double().clamp(min=0)
            table = pd.DataFrame((x / x.sum(dim=1, keepdim=True)).numpy(), bulk.obs_names, model.cell_types)
            records.append({"row": row, "group": group, "way": way, "value": score(table)})
        if args.output:
            pd.DataFrame(records).to_csv(args.output, index=False)

    for cohort in studies_of.COHORTS:
        entry = config["cohorts"][cohort]
        bulk = ad.read_h5ad(args.folder / f"{entry['bulk']}.h5ad")
        input_type = "log2" if entry.get("transform") == "exp2" else "auto"
        shipped = model_of(["pbmc3k", "hao sums"])
        biases = bias(shipped, bulk, entry, classes, input_type).fillna("")
        print(f"\n{cohort}\n\n{biases.to_markdown(disable_numparse=True)}", flush=True)

        def on_cohort(table, bulk=bulk, entry=entry):
            pair = hp.tl.compare(
                table, bulk.obsm[entry["truth_key"]], studies_of.mapping_of(table.columns, entry, classes)
            )
            return metrics.rmse(*(x.to_numpy() for x in pair))

        for names in SETS:
            measure("+".join(names), cohort, names, bulk, on_cohort, input_type)
    fractions = np.random.default_rng(0).dirichlet(10 * np.array(USUAL), 24)
    for source, references in OTHERS.items():
        bulk = mixtures(cells[source], fractions, 0)

        def on_mixtures(table, bulk=bulk):
            mapping = {name: name for name in TYPES} | ({"Plasma cells": "B"} if "Plasma cells" in table else {})
            return metrics.rmse(*(x.to_numpy() for x in hp.tl.compare(table, bulk.obsm["truth"], mapping)))

        for names in references:
            measure(f"{source} <- {'+'.join(names)}", "pseudo-bulk", names, bulk, on_mixtures)
        for kind in ("CD4 T", "CD8 T", "NK") if source in ("kang", "7 batches") else ():
            pure = mixtures(cells[source], np.eye(5)[[TYPES.index(kind)] * 6], 1)
            measure(f"{source}, {kind}", "pure", references[0], pure, lambda table, kind=kind: table[kind].mean())
    table = pd.DataFrame(records)
    wide = table[table["group"] != "pure"].pivot_table("value", ["group", "row"], "way", sort=False)
    ratio = wide.div(wide["default"], axis=0)
    shown = ratio.groupby(level="group", sort=False).median().T
    shipped = wide.xs("pbmc3k+hao sums", level="row").T
    shown = pd.concat([shipped.map("{:.3f}".format).add_suffix(", shipped two"), shown.map("{:.2f}".format)], axis=1)
    shown["worse by over 2 %"] = [f"{(ratio[way] > 1.02).sum()} of {len(ratio)}" for way in shown.index]
    print("\n" + shown.to_markdown(disable_numparse=True))
    pure = table[table["group"] == "pure"].pivot_table("value", "way", "row", sort=False)
    print("\n" + pure.map("{:.3f}".format).to_markdown(disable_numparse=True))


if __name__ == "__main__":
    main()
