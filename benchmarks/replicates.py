"""What a cohort does to an answer: replicates, duplicates, the factor of a platform, and real cohorts beside it.

    python benchmarks/replicates.py DATA_FOLDER [--parts pure duplicates rows stored]

- pure: reads of every type of a reference (2 million per sample, from the sum of its own cells), alone, replicated,
  among ten mixtures, and one of each type. The lowest reading over the types, with the prior of `HPVADE.deconvolve`;
  NNLS on all genes of the same single sample. Types whose NNLS reads below 0.98 are left out as not well determined.
- duplicates: how far any fraction moves when every sample of a cohort is there 2 or 5 times (`hp.tl.solve`).
- rows: accuracy of `hp.tl.solve` on the development rows and the retina pair, beside NNLS and the constant.
- stored: samples solved one by one, without a factor and with one stored from the cohort's other samples or from
  each of two other cohorts (`hpvade.solvers.platform_factor`; mean score), beside the whole cohort at once.

The solvers are deterministic; reads are drawn with the number of the type as seed.
"""

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from _cohorts import Row, read_reference, rows

import hpvade as hp
from hpvade.models.hpvade._estimate import PRIOR_WEIGHT
from hpvade.solvers import marker_genes, nnls, robust

REFERENCES = ["ref_pbmc3k", "ref_kang_ctrl_5donors", "kang_ctrl_stim:ctrl", "ref_hao_pbmc", "sc_cellbench_lines"]
DEPTH = 2e6
RETINA = ("bulk_retina", "pseudobulk_retina")


def pure(folder: Path) -> pd.DataFrame:
    """Lowest reading over the well-determined types of each reference."""
    records = []
    for name in REFERENCES:
        adata = read_reference(folder, name)
        codes = adata.obs["cell_type"].cat.codes.to_numpy()
        sums = np.stack([np.asarray(adata.X[codes == k].sum(axis=0)).ravel() for k in range(codes.max() + 1)])
        profiles = sums / sums.sum(axis=1, keepdims=True)
        signature = torch.from_numpy(profiles.T)
        genes = marker_genes(signature)
        records += [
            {"reference": name} | record for record in map(_readings(profiles, signature, genes), range(len(sums)))
        ]
    table = pd.DataFrame(records)
    table = table[table["NNLS"] > 0.98]
    return table.groupby("reference", sort=False).min().assign(types=table.groupby("reference").size())


def _readings(profiles: np.ndarray, signature: torch.Tensor, genes: torch.Tensor):
    n_types = len(profiles)

    def of_type(k: int) -> dict:
        rng = np.random.default_rng(k)
        one = np.eye(n_types)[[k]]
        cohorts = {
            "one": one,
            "5 replicates": np.repeat(one, 5, axis=0),
            "20 replicates": np.repeat(one, 20, axis=0),
            "among mixtures": np.concatenate([one, rng.dirichlet(np.ones(n_types), 10)]),
            "one of each type": np.roll(np.eye(n_types), -k, axis=0),
        }
        readings = {}
        for name, of_rna in cohorts.items():
            counts = rng.poisson(DEPTH * of_rna @ profiles)
            bulk = torch.from_numpy(counts / counts.sum(axis=1, keepdims=True))
            if name == "one":
                found = nnls(bulk, signature)[0]
                readings["NNLS"] = float(found[k] / found.sum())
            equal = torch.full((len(bulk), n_types), 1 / n_types)
            options = {"depth": torch.full((len(bulk),), DEPTH), "anchor": equal, "anchor_weight": PRIOR_WEIGHT}
            readings[name] = float(robust(bulk[:, genes], signature[genes], **options).rna_proportions[0, k])
        return readings

    return of_type


def all_rows(folder: Path) -> Iterator[tuple[Row, dict]]:
    """Development rows, then retina with its table of sums; and how `hp.tl.solve` reads them."""
    for cohort in json.loads((folder / "cohorts.json").read_text())["cohorts"]:
        if cohort in RETINA:
            continue
        for row in rows(folder, f"{cohort} |"):
            fractions = "rna" if row.truth_in_rna else "cell"
            yield row, {"labels_key": "cell_type", "sample_key": "donor", "fractions": fractions}
    sums = ad.read_h5ad(folder / "sig_retina_sumcounts.h5ad")
    table = sums.to_df()
    table = table.loc[:, (table.groupby(sums.obs["donor"].to_numpy()).sum() > 0).all()]  # measured in both batches
    per_cell = table.div(sums.obs["n_cells"].to_numpy(), axis=0).groupby(sums.obs["cell_type"].to_numpy()).mean().T
    for name in RETINA:
        bulk = ad.read_h5ad(folder / f"{name}_demixsc.h5ad")
        bulk = bulk[~bulk.obs["in_reference"].astype(bool)].copy()
        mapping = {t: t for t in per_cell.columns}
        yield Row(name, "sums", per_cell, bulk, mapping, "proportions", False, "auto"), {"cell_size": "umi"}


def accuracy(folder: Path) -> pd.DataFrame:
    """Accuracy on every row, and the medians."""
    records = {}
    for row, reading in all_rows(folder):
        hp.tl.solve(row.bulk, row.adata, key_added="robust", device="cpu", input_type=row.input_type, **reading)
        scores = hp.tl.evaluate(row.bulk, row.truth_key, prediction_key="robust", mapping=row.mapping)
        records[row.name] = {
            "r": scores.loc["robust", "per_type_r"],
            "RMSE": scores.loc["robust", "rmse"],
            "r, NNLS": scores.loc["nnls", "per_type_r"],
            "RMSE, NNLS": scores.loc["nnls", "rmse"],
            "RMSE, constant": scores.loc["constant", "rmse"],
        }
    table = pd.DataFrame(records).T
    return pd.concat([table, table.median().to_frame("median").T])


def duplicates(folder: Path) -> pd.DataFrame:
    """Largest move of any fraction when all samples are repeated."""
    records = {}
    for row, reading in all_rows(folder):
        if row.bulk.n_obs > 100:
            continue
        reading = reading | {"device": "cpu", "input_type": row.input_type, "key_added": "robust"}
        answers = {}
        for times in (1, 2, 5):
            bulk = ad.concat([row.bulk] * times, index_unique="-", keys=[str(i) for i in range(times)])
            hp.tl.solve(bulk, row.adata, **reading)
            answers[times] = bulk.obsm["robust"].to_numpy()[: row.bulk.n_obs]
        records[row.name] = {f"x {times}": np.abs(answers[times] - answers[1]).max() for times in (2, 5)}
    table = pd.DataFrame(records).T
    return pd.concat([table, table.max().to_frame("largest").T])


def stored(folder: Path) -> pd.DataFrame:
    """Per-type r and RMSE of samples solved one by one with factors from elsewhere."""
    cohorts = ("hoek", "finotello", "newman_full")
    data = {(row.cohort, row.reference): _Problem(row) for cohort in cohorts for row in rows(folder, f"{cohort} |")}
    records = {}
    for (cohort, reference), problem in data.items():
        n = len(problem.shares)
        all_at_once = problem.fit(range(n))
        answers = {
            "cohort": all_at_once,
            "alone": torch.cat([problem.fit([i]) for i in range(n)]),
            "stored, other samples": torch.cat(
                [problem.fit([i], *problem.factor([j for j in range(n) if j != i])) for i in range(n)]
            ),
        }
        scores = {name: problem.score(rna) for name, rna in answers.items()}
        others = []
        for other in cohorts:
            if other != cohort:
                source = data[other, reference]
                found = [x.reindex(problem.genes) for x in source.factor(range(len(source.shares)))]
                others.append(problem.score(torch.cat([problem.fit([i], *found) for i in range(n)])))
        scores["stored, other cohorts"] = pd.DataFrame(others).mean().to_dict()
        records[problem.row.name] = {
            f"{metric}, {name}": value[metric] for metric in ("r", "RMSE") for name, value in scores.items()
        }
    table = pd.DataFrame(records).T
    return pd.concat([table, table.median().to_frame("median").T])


class _Problem:
    """A row as tensors, on all genes that the bulk has."""

    def __init__(self, row: Row):
        self.row = row
        reading = {"labels_key": "cell_type", "sample_key": "donor", "input_type": row.input_type, "device": "cpu"}
        hp.tl.solve(row.bulk, row.adata, key_added="solved", method="nnls", **reading)
        self.sizes = row.bulk.uns["solved"]["cell_sizes"]["size"]
        donors = row.adata.obs["donor"].to_numpy()
        groups = [row.adata.obs["cell_type"].to_numpy(), donors]
        sums = row.adata.to_df().groupby(groups).sum()
        mean = sums.div(sums.sum(axis=1), axis=0).groupby(level=0).mean().T
        values = row.bulk.to_df()
        values = 2**values if row.input_type == "log2" else values
        self.genes = mean.index.intersection(values.columns)
        values = values[self.genes].to_numpy(float)
        self.shares = torch.from_numpy(values / values.sum(axis=1, keepdims=True))
        self.signature = torch.from_numpy((mean / mean.sum()).loc[self.genes, self.sizes.index].to_numpy(float))
        self.markers = marker_genes(self.signature).numpy()

    def fit(self, samples, factor: pd.Series | None = None, weight: pd.Series | None = None) -> torch.Tensor:
        given = {}
        if factor is not None:
            at = self.genes[self.markers]
            given = {
                "gene_factor": torch.tensor(factor[at].to_numpy()),
                "gene_weight": torch.tensor(weight[at].to_numpy()),
            }
        bulk = self.shares[list(samples)][:, self.markers]
        return robust(bulk, self.signature[self.markers], **given).rna_proportions

    def factor(self, samples) -> tuple[pd.Series, pd.Series]:
        from hpvade.solvers import platform_factor

        found = platform_factor(self.shares[list(samples)], self.signature, self.fit(samples))
        return tuple(pd.Series(x.numpy(), index=self.genes) for x in (found.gene_factor, found.gene_weight))

    def score(self, rna: torch.Tensor) -> dict:
        cells = pd.DataFrame(rna.double().numpy(), self.row.bulk.obs_names, self.sizes.index) / self.sizes
        self.row.bulk.obsm["scored"] = cells.div(cells.sum(axis=1), axis=0)
        self.row.bulk.obsm["scored_nnls"] = self.row.bulk.obsm["solved_nnls"]
        scores = hp.tl.evaluate(
            self.row.bulk, self.row.truth_key, prediction_key="scored", mapping=self.row.mapping
        ).loc["scored"]
        return {"r": scores["per_type_r"], "RMSE": scores["rmse"]}


PARTS = {"pure": pure, "duplicates": duplicates, "rows": accuracy, "stored": stored}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # the gene overlap of each row
    for part in args.parts:
        table = PARTS[part](args.folder)
        table.index = [str(name).replace(" | ", " x ") for name in table.index]
        print(f"\n{part}\n\n{table.to_markdown(floatfmt='.1e' if part == 'duplicates' else '.3f')}", flush=True)


if __name__ == "__main__":
    main()
