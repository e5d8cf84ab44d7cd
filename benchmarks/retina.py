"""What separates bulk from nuclei of the same retinas, by ablation; and does a gene-level prior pay on blood as well?

    python benchmarks/retina.py DATA_FOLDER [--spans spans.csv] [--only retina | blood]

The samples of `bulk_retina_demixsc` and `pseudobulk_retina_demixsc` are the same, with one truth; the reference is
`sig_retina_sumcounts` (nuclei), its genes and those of both files, without its own two samples. `r` is the Fisher mean
over types of the correlation over samples; `kept` leaves out the four doubtful pairs. Rows that begin with "oracle" use
the pairs or the truth: they are bounds, no method.

A prior of the gene factor is a function of gene covariates (`hpvade.solvers.covariate_factor`), fitted to the cohort's
own median residuals over all expressed genes: neither pairs nor truth. `length`: exons, from DATA_FOLDER/genes. `span`:
from start to end of the gene with introns, which nuclei are rich in, from a CSV file of symbol and span. Made from
`chromosome_locations` of Bioconductor's org.Hs.eg.db (Debian: r-bioc-org.hs.eg.db), the longest of

    SELECT symbol, ABS(ABS(end_location) - ABS(start_location)) + 1 AS span
    FROM chromosome_locations JOIN gene_info USING (_id) WHERE seqname NOT LIKE '%\\_%' ESCAPE '\\'

The blood rows take the references as published, with their own labels. Nothing here is random.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from _cohorts import rows
from _records import markdown
from _regression import FLOOR, Problem, baseline, cells, problem, profiles, regress
from scipy.optimize import nnls

import hpvade as hp
from hpvade import solvers
from hpvade.reference._signature import gene_scores

TYPES = ["RGC", "AC", "BC", "HC", "Rod", "Cone", "MG"]
WEIGHTED = "NNLS, weighted, 60 genes per type"
COHORTS = ("hoek ", "finotello ", "newman_full ")
DOUBTFUL = ["Macular_19_D006", "Macular_D027_13", "Macular_19_D007", "Macular_19_D011"]


def retina(folder: Path) -> tuple[ad.AnnData, ad.AnnData, pd.DataFrame]:
    """Bulk, pseudo-bulk (same samples and genes) and mean counts per nucleus (genes x types), mean of two donors."""
    bulk, pseudo, sums = (
        ad.read_h5ad(folder / f"{name}.h5ad")
        for name in ("bulk_retina_demixsc", "pseudobulk_retina_demixsc", "sig_retina_sumcounts")
    )
    per_cell = sums.to_df().div(sums.obs["n_cells"].astype(float), axis=0)
    donors = [per_cell[sums.obs["donor"] == d].set_axis(sums.obs["cell_type"][sums.obs["donor"] == d]).loc[TYPES].T
              for d in sums.obs["donor"].unique()]  # fmt: skip
    measured = np.all([d.sum(axis=1) > 0 for d in donors], axis=0)
    size = np.exp(np.mean([np.log(d.sum()) for d in donors], axis=0))
    mean_counts = np.mean([d[measured] / d[measured].sum() for d in donors], axis=0) * size
    mean_counts = pd.DataFrame(mean_counts, sums.var_names[measured], TYPES)
    shared = mean_counts.index.intersection(bulk.var_names).intersection(pseudo.var_names)
    kept = ~bulk.obs["in_reference"].to_numpy()
    return bulk[kept, shared].copy(), pseudo[kept, shared].copy(), mean_counts.loc[shared]


def markers(of: Problem, allowed: np.ndarray | bool = True, **options) -> np.ndarray:
    """Markers of pairs of types among allowed genes."""
    scores = gene_scores(of.mean_counts, of.genes.to_numpy())
    allowed = torch.from_numpy(allowed & of.present & (scores > 0))
    return solvers.marker_genes(torch.from_numpy(of.signature), allowed, **options).numpy()


def covariates(genes: pd.Index, tables: dict[str, pd.Series], names: list[str]) -> np.ndarray:
    """Logs (genes x covariates), NaN where a gene has no value."""
    return np.stack([np.log(tables[name].reindex(genes).to_numpy(float)) for name in names], axis=1)


def covariate_factor(of: Problem, columns: np.ndarray) -> tuple[np.ndarray, float]:
    """`hpvade.solvers.covariate_factor` on the expressed genes that the bulk has: log factor, and R2."""
    used = of.present & (of.signature.max(axis=1) > FLOOR) & (gene_scores(of.mean_counts, of.genes.to_numpy()) > 0)
    arrays = (torch.tensor(x, dtype=torch.float32) for x in (of.bulk, of.signature, columns))
    options = {"markers": torch.from_numpy(of.markers), "used": torch.from_numpy(used)}
    found = solvers.covariate_factor(*arrays, **options, depth=torch.tensor(of.depth, dtype=torch.float32))
    return found.gene_factor.double().numpy(), found.explained


def functions(columns: np.ndarray) -> np.ndarray:
    """The functions of the covariates that `covariate_factor` fits."""
    return solvers._covariates._functions(torch.tensor(columns)).numpy()


def score(fractions: np.ndarray, bulk: ad.AnnData) -> dict:
    kept = ~bulk.obs_names.isin(DOUBTFUL)
    record = {}
    for name, rows_ in (("", np.ones(len(kept), bool)), (", kept", kept)):
        part = bulk[rows_].copy()
        table = pd.DataFrame(fractions[rows_], part.obs_names, TYPES)
        part.obsm["found"] = part.obsm["found_nnls"] = table
        result = hp.tl.evaluate(part, "proportions", prediction_key="found").loc["found"]
        record |= {f"r{name}": result["per_type_r"], f"RMSE{name}": result["rmse"]}
    bias = (fractions - bulk.obsm["proportions"][TYPES]).mean()
    worst = bias.abs().idxmax()
    return record | {"largest bias": f"{worst} {bias[worst]:+.2f}"}


def solve(of: Problem, **options) -> np.ndarray:
    return cells(regress(of, **options).rna, of.sizes)


def by_group(of: Problem, groups: np.ndarray, factor) -> np.ndarray:
    """Each group of samples solved with a prior of its own, `factor(group)`."""
    found = np.empty((len(of.bulk), len(TYPES)))
    for group in np.unique(groups):
        rows_ = groups == group
        part = Problem(**vars(of) | {"bulk": of.bulk[rows_], "depth": of.depth[rows_]})
        given = factor(rows_)
        found[rows_] = solve(part) if given is None else solve(part, prior=given, gene_factor=False)
    return found


def supervised(of: Problem, truth: np.ndarray, ridge: float) -> np.ndarray:
    """Profiles learned from the other samples' bulk and truth (ridge towards the reference), one sample left out."""
    rna = truth * of.sizes
    rna /= rna.sum(axis=1, keepdims=True)
    found = np.empty_like(truth)
    pull = np.sqrt(ridge) * np.eye(len(TYPES))
    for i in range(len(truth)):
        others = np.arange(len(truth)) != i
        learned = of.signature.copy()
        for g in of.markers:
            y, s = of.bulk[others, g], of.signature[g]
            target = np.r_[y / y.mean(), np.sqrt(ridge) * s / (rna[others] @ s).mean()]
            learned[g] = nnls(np.r_[rna[others], pull], target)[0] * y.mean()
        one = Problem(**vars(of) | {"bulk": of.bulk[[i]], "depth": of.depth[[i]], "signature": learned})
        found[i] = solve(one, gene_factor=False)[0]
    return found


def ablation(folder: Path, tables: dict[str, pd.Series]) -> pd.DataFrame:
    bulk, pseudo, mean_counts = retina(folder)
    of, summed = problem(bulk, mean_counts), problem(pseudo, mean_counts)
    truth, batch = bulk.obsm["proportions"][TYPES].to_numpy(), bulk.obs["batch"].astype(str).to_numpy()
    length, one_by_one = np.log(tables["length"].reindex(of.genes)), np.arange(len(batch)).astype(str)
    middle, coding = length.median(), (tables["biotype"].reindex(of.genes) == "protein_coding").to_numpy()
    by_length = of.bulk / np.exp(length.fillna(middle)).to_numpy()
    tpm = Problem(**vars(of) | {"bulk": by_length / by_length.sum(axis=1, keepdims=True)})
    pair = np.log(of.bulk + FLOOR / 10) - np.log(summed.bulk + FLOOR / 10)  # measured factor per sample
    shared = np.median(pair, axis=0) - np.median(pair)
    beside = (pair - np.median(pair, axis=0))[:, of.markers]
    _, size, loading = np.linalg.svd(beside - beside.mean(axis=1, keepdims=True), full_matrices=False)
    level = np.column_stack([np.ones(len(of.markers)), np.log(of.signature[of.markers] + FLOOR)])
    left = loading[0] - level @ np.linalg.lstsq(level, loading[0], rcond=None)[0]
    explained = 1 - left.var() / loading[0].var()
    print(
        f"Pair factor: sd over markers {shared[of.markers].std():.2f}, beside it per sample {beside.std():.2f}; its "
        f"first component is {size[0] ** 2 / (size**2).sum():.0%} of the variance, and log profiles of the types "
        f"explain {explained:.0%} of its loading\n"
    )

    def others(rows_: np.ndarray) -> np.ndarray:
        return np.median(pair[~rows_], axis=0)

    def others_of_batch(rows_: np.ndarray) -> np.ndarray:
        return np.median(pair[~rows_ & (batch == batch[rows_][0])], axis=0)

    found = {
        "pseudo-bulk: NNLS, all genes": baseline(summed),
        f"pseudo-bulk: {WEIGHTED}": cells(nnls_on(summed, specific(summed, 60), weighted=True), summed.sizes),
        "pseudo-bulk: regression": solve(summed),
        "NNLS, all genes": baseline(of),
        "NNLS, markers": cells(nnls_on(of, of.markers), of.sizes),
        WEIGHTED: cells(nnls_on(of, specific(of, 60), weighted=True), of.sizes),
        "constant": np.broadcast_to(truth.mean(axis=0), truth.shape),
        "regression (default)": solve(of),
        "no gene factor": solve(of, gene_factor=False),
        "factor penalty 10": solve(of, factor_penalty=10.0),
        "no gene weight": solve(of, gene_weight=False),
        "factor per batch": by_group(of, batch, lambda _: None),
        "depth weights of 1e5 reads": solve(of, depth=torch.full((len(batch),), 1e5)),
        "offset 5e-6": solve(of, offset=5e-6),
        "offset 5e-4": solve(of, offset=5e-4),
        "10 genes per pair": solve(of, genes=markers(of, n_per_pair=10)),
        "100 genes per pair": solve(of, genes=markers(of, n_per_pair=100)),
        "120 genes per type against all others": solve(of, genes=specific(of, 120)),
        "all genes": solve(of, genes=np.flatnonzero(of.signature.sum(axis=1) > 0)),
        "protein coding only": solve(of, genes=markers(of, coding)),
        "short half of genes": solve(of, genes=markers(of, (length < middle).to_numpy())),
        "long half of genes": solve(of, genes=markers(of, (length >= middle).to_numpy())),
        "counts by length (TPM)": solve(tpm),
    }
    explained = {}
    for names in (["length"], ["span"], ["span", "length"], ["span", "length", "level"]):
        if not all(name in tables or name == "level" for name in names):
            continue
        level = {"level": pd.Series(of.mean_counts.mean(axis=1) + 1e-3, of.genes)}
        columns = covariates(of.genes, tables | level, names)
        prior, explained[", ".join(names)] = covariate_factor(of, columns)
        label = "prior by " + ", ".join(names)
        found[label] = solve(of, prior=prior, gene_factor=False)
        found[f"{label}; gene factor"] = solve(of, prior=prior)
        found[f"pseudo-bulk: {label}; gene factor"] = solve(summed, prior=covariate_factor(summed, columns)[0])
        if names == ["span"]:
            for number, genes in (("100 genes per pair", markers(of, n_per_pair=100)),
                                  ("120 genes per type against all others", specific(of, 120))):  # fmt: skip
                found[f"{label}; {number}"] = solve(of, genes=genes, prior=prior, gene_factor=False)
                found[f"{label}; gene factor; {number}"] = solve(of, genes=genes, prior=prior)
        fit = functions(columns) @ np.linalg.lstsq(functions(columns), shared, rcond=None)[0]
        found[f"oracle: {label}, coefficients from the pairs"] = solve(of, prior=fit, gene_factor=False)
        explained[", ".join(names)] = (explained[", ".join(names)], 1 - np.var(shared - fit) / np.var(shared))
    found |= {
        "oracle: genes whose pair factor is within 1": solve(of, genes=of.markers[np.abs(shared[of.markers]) < 1]),
        "oracle: factor from the other pairs": by_group(of, one_by_one, others),
        "oracle: factor from the other pairs of the batch": by_group(of, one_by_one, others_of_batch),
        "oracle: factor from all pairs": solve(of, prior=shared, gene_factor=False),
        "oracle: profiles from the other samples' truth": supervised(of, truth, 1.0),
    }
    for name, (own, pairs) in explained.items():
        print(f"{name}: R2 {own:.2f} of the cohort's own median residuals, {pairs:.2f} of the pair factor")
    table = pd.DataFrame([{"retina": name} | score(x, pseudo if name.startswith("pseudo") else bulk)
                          for name, x in found.items()]).set_index("retina")  # fmt: skip
    table.insert(2, "/ NNLS", table["RMSE"] / table.loc["NNLS, all genes", "RMSE"])
    table.insert(3, "/ weighted", table["RMSE"] / table.loc[WEIGHTED, "RMSE"])
    return table


def specific(of: Problem, n: int) -> np.ndarray:
    """The n genes per type of largest log ratio over the highest other type."""
    level = np.log(of.signature + FLOOR / 5)
    level[gene_scores(of.mean_counts, of.genes.to_numpy()) == 0] = 0
    above = [level[:, k] - np.delete(level, k, axis=1).max(axis=1) for k in range(len(of.types))]
    return np.unique(np.argsort(above, axis=1)[:, -n:])


def nnls_on(of: Problem, genes: np.ndarray, weighted: bool = False) -> np.ndarray:
    """Non-negative least squares on some genes, weighted by the inverse square of their mean over types if asked."""
    signature = of.signature[genes]
    weight = torch.tensor(1 / (signature.mean(axis=1) + FLOOR / 5) ** 2) if weighted else None
    return solvers.nnls(torch.tensor(of.bulk[:, genes]), torch.tensor(signature), weight).numpy()


def blood(folder: Path, tables: dict[str, pd.Series]) -> pd.DataFrame:
    records = []
    for row in (row for cohort in COHORTS for row in rows(folder, cohort)):
        of = problem(row.bulk, profiles(row.adata, "cell_type"), row.input_type)
        found = {"default": solve(of), "nnls": baseline(of)}
        record = {"blood": row.name.replace(" | ", " x ")}
        many = markers(of, n_per_pair=100)
        found["100 genes"] = solve(of, genes=many)
        for name in (name for name in ("length", "span") if name in tables):
            prior, record[f"R2 {name}"] = covariate_factor(of, covariates(of.genes, tables, [name]))
            found[name] = solve(of, prior=prior)
        if "span" in tables:
            found["span, 100 genes"] = solve(of, genes=many, prior=prior)
        for name, x in found.items():
            table = pd.DataFrame(x, row.bulk.obs_names, of.types)
            row.bulk.obsm["found"] = row.bulk.obsm["found_nnls"] = table
            result = hp.tl.evaluate(row.bulk, row.truth_key, prediction_key="found", mapping=row.mapping)
            record |= {f"r {name}": result.loc["found", "per_type_r"], f"RMSE {name}": result.loc["found", "rmse"]}
        records.append(record | {"RMSE constant": result.loc["constant", "rmse"]})
    table = pd.DataFrame(records).set_index("blood")
    table.loc["median"] = table.median()
    order = ["default", "length", "span", "100 genes", "span, 100 genes", "nnls", "constant"]
    return table[[c for kind in ("r", "RMSE", "R2") for name in order if (c := f"{kind} {name}") in table]]


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--spans", type=Path, help="CSV with columns symbol and span, in bases")
    parser.add_argument("--only", choices=["retina", "blood"])
    args = parser.parse_args()
    genes = pd.read_csv(args.folder / "genes" / "genes_homo_sapiens.csv.gz").drop_duplicates("symbol")
    tables = {name: genes.set_index("symbol")[name] for name in ("length", "biotype")}
    if args.spans:
        tables["span"] = pd.read_csv(args.spans).groupby("symbol")["span"].max()
    for name, part in (("retina", ablation), ("blood", blood)):
        if args.only in (None, name):
            print(markdown(part(args.folder, tables)), "\n", flush=True)


if __name__ == "__main__":
    main()
