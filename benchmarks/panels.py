"""How few genes, and how few reads, still say something: the limits of `hpvade.reference._measured`.

    python benchmarks/panels.py DATA_FOLDER [--seeds 5]

First table: three cohorts with measured truth, deconvolved (`tl.solve`, defaults) on panels of random genes and random
markers; per-type r and RMSE over that of the constant predictor, medians over all panels in a class of information
(genes' worth for the median pair of types). Second table: samples simulated from references with a platform factor of
0.5 (log standard deviation); the reads at which the error equals that of equal parts, for compositions from a Dirichlet
distribution of concentration two, beside `reads_needed`.
"""

import argparse
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch

import hpvade as hp
from hpvade.reference import _measured
from hpvade.reference._signature import gene_scores
from hpvade.solvers import robust

REFERENCES = {
    "pbmc3k": "ref_pbmc3k",
    "hao": "ref_hao_pbmc",
    "kang": "ref_kang_ctrl_5donors",
    "lines": "sc_cellbench_lines",
}
COHORTS = ["bulk_hoek_gse64655", "bulk_finotello_gse107572", "array_newman_gse65133_full"]
PANELS = [("markers", 300), ("markers", 100), ("markers", 30), *(("random", n) for n in (1000, 300, 100, 50, 30))]
CLASSES = [0, 1, 2, 3, 5, 10, 20, 40, np.inf]


def signature(folder: Path, name: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Mean counts per cell (genes x types), and the genes that may tell types apart."""
    adata = ad.read_h5ad(folder / f"{REFERENCES[name]}.h5ad")
    key = "cell_type_coarse" if "cell_type_coarse" in adata.obs else "cell_type"
    groups = adata.obs.groupby(key, observed=True).indices
    means = {kind: np.asarray(adata[cells].X.mean(axis=0)).ravel() for kind, cells in groups.items()}
    table = pd.DataFrame(means, index=adata.var_names)
    return table, gene_scores(table.to_numpy(), adata.var_names.to_numpy()) > 0


def panels(folder: Path, n_seeds: int) -> pd.DataFrame:
    _measured.LOST = 0.0  # show what refusing spares
    rows = []
    for name in ("pbmc3k", "hao"):
        table, allowed = signature(folder, name)
        share = (table / table.sum()).to_numpy()
        markers = _measured._markers(share, allowed)
        for cohort in COHORTS:
            bulk = ad.read_h5ad(folder / f"{cohort}.h5ad")
            key = "proportions_coarse" if "proportions_coarse" in bulk.obsm else "proportions"
            columns = bulk.obsm[key].columns
            mapping = {kind: kind for kind in table if kind in columns}
            if "T" in columns:
                mapping |= {"CD4 T": "T", "CD8 T": "T"}
            units = "log2" if cohort.startswith("array") else "tpm"
            for (kind, size), seed in ((panel, seed) for panel in PANELS for seed in range(n_seeds)):
                pool = markers if kind == "markers" else np.arange(len(table))
                chosen = np.random.default_rng(seed).choice(pool, min(size, len(pool)), replace=False)
                panel = bulk[:, table.index[np.sort(chosen)].intersection(bulk.var_names)].copy()
                present = allowed & table.index.isin(panel.var_names)
                left = _measured.pair_information(share, _measured._markers(share, present))
                try:
                    hp.tl.solve(panel, table, input_type=units, device="cpu")
                    scores = hp.tl.evaluate(panel, key, prediction_key="robust_proportions", mapping=mapping)
                except ValueError:  # fewer genes than types, or a sample without a read
                    continue
                information = np.median(left[np.triu_indices(len(left), 1)])
                errors = scores["rmse"] / scores["rmse"].iloc[2]
                rows.append((information, scores["per_type_r"].iloc[0], errors.iloc[0], errors.iloc[1]))
    columns = ["per_type_r", "rmse / constant", "nnls: rmse / constant"]
    table = pd.DataFrame(rows, columns=["information", *columns])
    groups = table.groupby(pd.cut(table["information"], CLASSES), observed=True)
    return groups[columns].median().assign(n=groups.size())


def reads(folder: Path, n_seeds: int) -> pd.DataFrame:
    rows = []
    for name in REFERENCES:
        table, allowed = signature(folder, name)
        share = (table / table.sum()).to_numpy()
        genes = _measured._markers(share, allowed)
        n_types, grid, ratios = share.shape[1], 25 * 2 ** np.arange(11), []
        for depth in grid:
            errors = []
            for seed in range(n_seeds):
                rng = np.random.default_rng(seed)
                truth = rng.dirichlet(np.full(n_types, 2.0), 12)
                mean = (share * np.exp(rng.normal(0, 0.5, (len(share), 1)))) @ truth.T
                counts = rng.multinomial(depth, (mean / mean.sum(axis=0)).T)
                anchor = torch.full((12, n_types), 1 / n_types)
                fit = robust(
                    torch.from_numpy(counts[:, genes] / depth),
                    torch.from_numpy(share[genes]),
                    depth=torch.full((12,), float(depth)),
                    anchor=anchor,
                    anchor_weight=0.02,
                )
                estimated = fit.rna_proportions.numpy()
                errors.append([np.square(x - truth).mean() ** 0.5 for x in (estimated, 1 / n_types)])
            ratios.append(np.divide(*np.median(errors, axis=0)))
        measured = np.exp(np.interp(0, -np.log(ratios), np.log(grid)))  # ratios fall with depth
        rows.append((name, n_types, round(measured), round(_measured.reads_needed(share, genes))))
    return pd.DataFrame(rows, columns=["reference", "types", "error of equal parts at", "reads_needed"])


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    print(panels(args.folder, args.seeds).round(2).to_markdown(), "\n")
    print(reads(args.folder, args.seeds).to_markdown(index=False))


if __name__ == "__main__":
    main()
