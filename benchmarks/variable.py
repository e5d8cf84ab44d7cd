"""Types that differ from sample to sample: planted malignant profiles, with and without `variable_types`.

    python benchmarks/variable.py DATA_FOLDER [--seeds 5] [--samples 24] [--halves] [--only PART]
    python benchmarks/variable.py DATA_FOLDER --expression [--seeds 5] [--samples 24] [--only PART]

Two references: a breast tumour (`sc_breast_wu_cid4465`, the malignant cells vary) and PBMC 3k with the tumour's
malignant cells as a foreign type. A cohort mixes the reference's mean profiles: the variable type makes up .1 to .9 of
the RNA, the others share the rest (Dirichlet of concentration one), and every sample is read at two million counts. In
each sample the variable type's genes are multiplied by log-normal factors of their own (independent by gene, or one for
each of 61 blocks of neighbours along the genome as copy numbers move them; half shared: half of their variance is the
same in all samples, as where the reference is one patient) and closed to one. With a platform, one more
factor per gene (log standard deviation .5) is shared by all samples and types. With `--halves` the mixtures come from
one half of the cells of each type and the reference from the other.

Per row, medians over seeds in fractions of RNA: RMSE of the other types / r over samples / bias of the variable type.
`nnls`: on all genes. `constant`: the truth's mean. `plain` is `hpvade.tl.solve`, `variable` the same with
`variable_types`; `HPVADE.deconvolve` with them is compared with it below the table. `ratio` is variable over plain in
the RMSE of the other types.

`--expression` asks `get_cell_type_expression` of the same cohorts, with and without `variable_types`: root mean squared
error of log(CPM + 10), of all genes of the other types and of the variable one, beside that of the reference's
profiles. In rows with `another` the 200 genes that another type makes most exclusively move, too (sd .6); r is
the median over these genes, across samples, 0 where the estimate does not move.
"""

import argparse
import gzip
import io
import warnings
from itertools import product
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import hpvade as hp

MALIGNANT, FOREIGN = "Cancer Epithelial", "Foreign"
CASES = [(0.0, "genes"), (0.3, "genes"), (0.6, "genes"), (1.0, "genes"), (0.6, "blocks"), (0.6, "half shared")]
DEPTH, N_BLOCKS, PLATFORM = 2_000_000, 61, 0.5


def materials(folder: Path) -> dict[str, tuple[ad.AnnData, str]]:
    """References and the type that varies."""
    tumour, blood = (ad.read_h5ad(folder / f"{name}.h5ad") for name in ("sc_breast_wu_cid4465", "ref_pbmc3k"))
    foreign = tumour[tumour.obs["cell_type"] == MALIGNANT].copy()
    foreign.obs["cell_type"] = FOREIGN
    both = ad.concat([blood, foreign], join="inner")
    found = {"breast tumour": (tumour, MALIGNANT), "PBMC 3k + foreign": (both, FOREIGN)}
    for adata, _ in found.values():
        adata.obs = pd.DataFrame({"cell_type": adata.obs["cell_type"].astype(str).astype("category")})
        adata.X = sparse.csr_matrix(adata.X)
    return found


def genome_order(folder: Path, genes: pd.Index) -> np.ndarray:
    """Rank of genes along the genome, which is the order of GENCODE's table; unknown ones first."""
    text = gzip.decompress((folder / "genes" / "genes_homo_sapiens.csv.gz").read_bytes()).decode()
    symbols = pd.read_csv(io.StringIO(text))["symbol"].drop_duplicates()
    place = pd.Series(np.arange(len(symbols)), symbols).reindex(genes).fillna(-1).to_numpy()
    return place.argsort(kind="stable").argsort()


def profiles(adata: ad.AnnData) -> pd.DataFrame:
    """Mean counts per cell (genes x types)."""
    groups = adata.obs.groupby("cell_type", observed=True).indices
    means = {name: np.asarray(adata.X[rows].mean(axis=0)).ravel() for name, rows in groups.items()}
    return pd.DataFrame(means, adata.var_names)


def cohort(
    means: pd.DataFrame,
    varies: str,
    sd: float,
    kind: str,
    platform: float,
    order: np.ndarray,
    n: int,
    seed: int,
    another: float = 0.0,
) -> ad.AnnData:
    """Planted samples with their fractions of RNA in `obsm["proportions"]`, and their profiles in `uns`."""
    rng = np.random.default_rng(seed)
    share, v = (means / means.sum()).to_numpy(), means.columns.get_loc(varies)
    others = [k for k in range(means.shape[1]) if k != v]
    truth = np.zeros((n, means.shape[1]))
    truth[:, v] = rng.uniform(0.1, 0.9, n)
    truth[:, others] = rng.dirichlet(np.ones(len(others)), n) * (1 - truth[:, [v]])
    if kind == "genes":
        delta = rng.normal(0, sd, (n, len(share)))
    elif kind == "half shared":
        delta = rng.normal(0, sd / 2**0.5, (n, len(share))) + rng.normal(0, sd / 2**0.5, len(share))
    else:
        ends = [np.sort(rng.choice(len(share), N_BLOCKS - 1, replace=False)) for _ in range(n)]
        delta = np.stack([rng.normal(0, sd, N_BLOCKS)[np.searchsorted(end, order)] for end in ends])
    own = np.repeat(share.T[None], n, axis=0)
    own[:, v] *= np.exp(delta)
    if another:
        moved = exclusive_genes(share, others[0])
        own[:, others[0], moved] *= np.exp(rng.normal(0, another, (n, len(moved))))
    own /= own.sum(axis=2, keepdims=True)
    mean = np.einsum("nk,nkg->ng", truth, own)
    mean = mean * np.exp(rng.normal(0, platform, len(share)))
    counts = rng.multinomial(DEPTH, mean / mean.sum(axis=1, keepdims=True))
    bulk = ad.AnnData(counts.astype(np.float32), var=pd.DataFrame(index=means.index))
    bulk.obs_names = [f"sample{i}" for i in range(n)]
    bulk.obsm["proportions"] = pd.DataFrame(truth, bulk.obs_names, means.columns)
    bulk.uns["profiles"] = own
    return bulk


def exclusive_genes(share: np.ndarray, k: int) -> np.ndarray:
    """The 200 genes of which type k makes the largest part, among those with 100 counts per million in it."""
    return np.argsort(-np.where(share[:, k] > 1e-4, share[:, k] / share.sum(axis=1), 0))[:200]


def expression(
    model: hp.HPVADE, means: pd.DataFrame, bulk: ad.AnnData, varies: str, another: bool
) -> dict[str, dict[str, float]]:
    """Errors of log expression by method, and r of the genes of another type that move."""
    types, truth = bulk.obsm["proportions"].columns, bulk.uns.pop("profiles")
    share = (means / means.sum()).to_numpy()
    v, others = types.get_loc(varies), np.flatnonzero(types != varies)
    found = {"reference": (np.broadcast_to(share.T[None], truth.shape), np.arange(len(share)))}
    for name, names in {"plain": None, "variable": [varies]}.items():
        table = model.get_cell_type_expression(bulk, variable_types=names)
        values = table.layers["expression"].reshape(bulk.n_obs, len(model.cell_types), -1)
        order = pd.Index(model.cell_types).get_indexer(types)
        found[name] = values[:, order] / 1e6, bulk.var_names.get_indexer(table.var_names)
    scores = {}
    for name, (values, genes) in found.items():
        error = np.square(np.log(1e6 * values + 10) - np.log(1e6 * truth[:, :, genes] + 10))
        scores[name] = {"others": np.sqrt(error[:, others].mean()), "own": np.sqrt(error[:, v].mean())}
        moved = np.flatnonzero(np.isin(genes, exclusive_genes(share, others[0])))
        if another and name != "reference":
            pairs = (values[:, others[0], moved].T, truth[:, others[0], genes[moved]].T)
            scores[name]["r"] = np.median([np.nan_to_num(np.corrcoef(a, b)[0, 1]) for a, b in zip(*pairs, strict=True)])
    return scores


def expression_table(folder: Path, n_seeds: int, n: int, only: str) -> pd.DataFrame:
    rows = []
    cases = [(0.0, False), (0.3, False), (0.6, False), (1.0, False), (0.0, True), (0.6, True)]
    for name, (adata, varies) in materials(folder).items():
        means = profiles(adata)
        hp.HPVADE.setup_anndata(adata, "cell_type")
        model = hp.HPVADE(adata, cell_size="umi")
        model.train(max_epochs=0, accelerator="cpu")
        for platform, (sd, another) in product((0.0, PLATFORM), cases):
            if only not in f"{name} | {platform}":
                continue
            each = []
            for seed in range(100, 100 + n_seeds):
                bulk = cohort(means, varies, sd, "genes", platform, np.empty(0), n, seed, 0.6 * another)
                each.append(pd.DataFrame(expression(model, means, bulk, varies, another)).stack())
            m = pd.concat(each, axis=1).median(axis=1)
            row = {"reference": name, "platform": platform, "sd": sd, "another": "yes" if another else "no"}
            row |= {f"others: {one}": f"{m['others', one]:.3f}" for one in ("reference", "plain", "variable")}
            row |= {f"own: {one}": f"{m['own', one]:.3f}" for one in ("reference", "plain", "variable")}
            row |= {f"r: {one}": f"{m['r', one]:.2f}" if another else "-" for one in ("plain", "variable")}
            rows.append(row)
    return pd.DataFrame(rows)


def halves(adata: ad.AnnData, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """Two halves of the cells of each type."""
    rank = pd.Series(np.random.default_rng(seed).random(adata.n_obs)).groupby(adata.obs["cell_type"].to_numpy()).rank()
    even = (rank % 2 == 0).to_numpy()
    return adata[even].copy(), adata[~even].copy()


def scores(found: pd.DataFrame, truth: pd.DataFrame, varies: str) -> dict[str, float]:
    found = found[truth.columns]
    error = found - truth
    r = np.corrcoef(found[varies], truth[varies])[0, 1] if found[varies].std() > 0 else np.nan
    own, others = error[varies], error.drop(columns=varies)
    rmse = np.sqrt(np.square(others.to_numpy()).mean())
    return {"others": rmse, "r": r, "bias": own.mean()}


def answers(adata: ad.AnnData, bulk: ad.AnnData, varies: str) -> dict[str, pd.DataFrame]:
    """Fractions of RNA by each method."""
    options = {"fractions": "rna", "labels_key": "cell_type", "cell_size": "umi", "device": "cpu"}
    hp.tl.solve(bulk, adata, method="nnls", genes=None, key_added="nnls", **options)
    hp.tl.solve(bulk, adata, key_added="plain", **options)
    hp.tl.solve(bulk, adata, key_added="variable", variable_types=[varies], **options)
    hp.HPVADE.setup_anndata(adata, "cell_type")
    model = hp.HPVADE(adata, cell_size="umi")
    model.train(max_epochs=0, accelerator="cpu")
    model.deconvolve(bulk, fractions="rna", variable_types=[varies], key_added="model", baseline=False)
    truth = bulk.obsm["proportions"]
    constant = pd.DataFrame(np.broadcast_to(truth.mean(), truth.shape), truth.index, truth.columns)
    return {"constant": constant} | {name: bulk.obsm[name] for name in ("nnls", "plain", "variable", "model")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--only", default="", help="part of 'reference | platform', such as 'breast tumour | 0.5'")
    parser.add_argument("--expression", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.expression:
        table = expression_table(args.folder, args.seeds, args.samples, args.only)
        print(table.to_markdown(index=False, disable_numparse=True))
        return
    rows, apart = [], 0.0
    for name, (adata, varies) in materials(args.folder).items():
        order = genome_order(args.folder, adata.var_names)
        for platform, (sd, kind) in product((0.0, PLATFORM), CASES):
            if args.only not in f"{name} | {platform}":
                continue
            found: dict[str, list] = {}
            sds = []
            for seed in range(100, 100 + args.seeds):
                reference, source = halves(adata, seed) if args.halves else (adata, adata)
                bulk = cohort(profiles(source), varies, sd, kind, platform, order, args.samples, seed)
                tables = answers(reference, bulk, varies)
                apart = max(apart, float((tables.pop("model") - tables["variable"]).abs().to_numpy().max()))
                for method, table in tables.items():
                    found.setdefault(method, []).append(scores(table, bulk.obsm["proportions"], varies))
                sds.append(bulk.uns["variable"]["variation"]["log_sd"].iloc[0])
            medians = {method: pd.DataFrame(each).median() for method, each in found.items()}
            row = {"reference": name, "platform": platform, "sd": sd, "moved": kind}
            row |= {method: f"{m['others']:.4f} / {m['r']:.3f} / {m['bias']:+.3f}" for method, m in medians.items()}
            row["ratio"] = f"{medians['variable']['others'] / medians['plain']['others']:.2f}"
            rows.append(row | {"found sd": f"{np.median(sds):.2f}"})
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))
    print(f"\nLargest difference between tl.solve and HPVADE.deconvolve: {apart:.1e}")


if __name__ == "__main__":
    main()
