"""Test beds that no default was chosen on: studies as sources of pseudo-bulk, compositions, platforms."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _cohorts import rows
from scipy import sparse

import hpvade as hp

BLOOD = ["B", "CD4 T", "CD8 T", "NK", "Mono"]
USUAL = dict(zip(BLOOD, [0.1, 0.4, 0.2, 0.1, 0.2], strict=True))
DEPTH = 5e6
FEWEST = 10  # cells of a type that a source of bulk needs
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
_PROTEIN = {"CD19": "B", "CD14": "Mono", "CD56": "NK"}


def study(folder: Path, name: str) -> ad.AnnData:
    """A study with its own labels in `obs["cell_type"]`, classes in `obs["type"]`, and `obs["donor"]`.

    ``"file"``, ``"file:value"`` (of condition, batch, technology or donor) or ``"cite"``, typed by its proteins.
    """
    if name == "cite":
        adata = ad.read_h5ad(folder / "cite_pbmc_10x_2batches.h5ad")
        adata.obs["cell_type"], adata.obs["donor"] = _by_protein(adata.obsm["protein_expression"]), adata.obs["batch"]
        adata = adata[adata.obs["cell_type"] != ""].copy()
    else:
        file, _, value = name.partition(":")
        adata = ad.read_h5ad(folder / f"{file}.h5ad")
        if value:
            columns = [c for c in ("condition", "batch", "tech", "donor") if c in adata.obs]
            adata = adata[np.any([adata.obs[c].astype(str) == value for c in columns], axis=0)].copy()
        if "label_agreement" in adata.obs:
            adata = adata[adata.obs["label_agreement"].astype(str).str.startswith("3")].copy()
    coarse = "cell_type_coarse" if "cell_type_coarse" in adata.obs else "cell_type"
    adata.obs["type"] = adata.obs[coarse].astype(str)
    adata.obs = adata.obs[["cell_type", "type", "donor"]].astype(str)
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    return with_cells(adata, 5, "cell_type")


def with_cells(adata: ad.AnnData, n: int, key: str) -> ad.AnnData:
    """Without types of fewer than `n` cells."""
    counts = adata.obs[key].value_counts()
    return adata[adata.obs[key].isin(counts.index[counts >= n])].copy()


def _by_protein(protein: pd.DataFrame) -> np.ndarray:
    """Types of cells in which the proteins of one lineage stand out, "" for the others."""
    protein = protein.rename(columns=lambda c: c.split("_")[0])
    log = np.log1p(protein)
    high = {c: log[c] > (log[c].quantile(0.02) + log[c].quantile(0.98)) / 2 for c in protein}
    t = high["CD3"] & ~high["CD19"] & ~high["CD14"]
    named = {"CD4 T": t & high["CD4"] & ~high["CD8a"], "CD8 T": t & high["CD8a"] & ~high["CD4"]}
    named |= {kind: high[c] & ~high["CD3"] for c, kind in _PROTEIN.items()}
    table = pd.DataFrame(named)
    return np.where(table.sum(axis=1) == 1, table.idxmax(axis=1), "")


def sums(
    adata: ad.AnnData, fractions: pd.DataFrame, rng: np.random.Generator, n_cells: int = 500, key: str = "type"
) -> ad.AnnData:
    """Sums of cells; `obsm["truth"]` holds the fractions that were drawn."""
    pools = [np.flatnonzero(adata.obs[key] == kind) for kind in fractions]
    drawn = np.array([rng.multinomial(n_cells, p) for p in fractions.to_numpy()])
    chosen = [rng.multinomial(n, np.full(len(pool), 1 / len(pool))) for row in drawn
              for n, pool in zip(row, pools, strict=True)]  # fmt: skip
    weight = np.zeros((len(drawn), adata.n_obs), dtype=np.float32)
    weight[:, np.concatenate(pools)] = np.concatenate(chosen).reshape(len(drawn), -1)
    names = [f"s{i}" for i in range(len(drawn))]
    bulk = ad.AnnData(weight @ adata.X, pd.DataFrame(index=names), pd.DataFrame(index=adata.var_names))
    bulk.obsm["truth"] = pd.DataFrame(drawn / n_cells, names, list(fractions))
    return bulk


def composition(kind: str, types: list[str], n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Fractions of cells (samples x types): usual, flat, one type at 90 %, two that go together, one absent or rare."""
    k = len(types)
    centre = np.array([USUAL.get(t, 1 / k) for t in types])
    centre = centre / centre.sum()
    if kind == "usual":
        p = rng.dirichlet(2 * k * centre, n)
    elif kind == "flat":
        p = rng.dirichlet(np.ones(k), n)
    elif kind == "dominated":  # by the last type
        p = np.hstack([rng.dirichlet(np.ones(k - 1), n), np.full((n, 1), 9.0)]) / 10
    elif kind == "sorted":  # each sample by another type
        p = 0.1 * rng.dirichlet(np.ones(k), n) + 0.9 * np.eye(k)[np.arange(n) % k]
    elif kind == "correlated":
        p = rng.dirichlet(2 * k * centre, n)
        p[:, 1] = p[:, 0] * rng.lognormal(0, 0.1, n)
    elif kind == "alike":
        p = rng.dirichlet(400 * centre, n)
    else:  # absent or rare: the first type
        p = rng.dirichlet(2 * k * centre, n)
        p[:, 0] = (0 if kind == "absent" else 0.01) * p[:, 1:].sum(axis=1)
    return pd.DataFrame(p / p.sum(axis=1, keepdims=True), columns=types)


def reads(X: np.ndarray, rng: np.random.Generator, depth: float = DEPTH) -> np.ndarray:
    """Counts of a depth."""
    return rng.poisson(depth * X / X.sum(axis=1, keepdims=True)).astype(np.float32)


def tpm(X: np.ndarray) -> np.ndarray:
    return 1e6 * X / X.sum(axis=1, keepdims=True)


def lengths(folder: Path, genes: pd.Index) -> np.ndarray:
    """Of genes in kilobases, the median where unknown."""
    table = pd.read_csv(folder / "genes" / "genes_homo_sapiens.csv.gz").drop_duplicates("symbol").set_index("symbol")
    found = table["length"].reindex(genes)
    return found.fillna(found.median()).to_numpy() / 1000


def array(X: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log2 of an array: probes of their own affinity, compressed, above a background, quantile-normalised."""
    signal = tpm(X) ** 0.8 * rng.lognormal(0, 0.7, X.shape[1]) + rng.lognormal(2.5, 0.3, X.shape[1])
    signal *= rng.lognormal(0, 0.1, X.shape)
    ranks = signal.argsort(axis=1).argsort(axis=1)
    return np.log2(np.sort(signal, axis=1).mean(axis=0)[ranks])


def distortions(folder: Path) -> dict[str, Callable]:
    """What a platform makes of expected counts: functions of (samples x genes), genes, generator -> matrix, units."""

    def factor(sd: float) -> Callable:
        return lambda X, genes, rng: (reads(X * rng.lognormal(0, sd, X.shape[1]), rng), "auto")

    def of_length(power: float) -> Callable:
        return lambda X, genes, rng: (reads(X * lengths(folder, genes) ** power, rng), "auto")

    def logged(X, genes, rng):
        return np.log2(tpm(reads(X * rng.lognormal(0, 0.6, X.shape[1]), rng)) + 1), "log2"

    def rounded(X, genes, rng):
        return tpm(reads(X * rng.lognormal(0, 0.6, X.shape[1]), rng)).round(1), "auto"

    found = {"as it is": lambda X, genes, rng: (reads(X, rng), "auto")}
    found |= {f"gene factors, sd {sd}": factor(sd) for sd in (0.3, 0.6, 1.0)}
    found |= {"x length (full length)": of_length(1.0), "/ length (3' as TPM)": of_length(-1.0)}
    found |= {"TPM, one decimal": rounded, "log2(TPM + 1)": logged}
    found["array"] = lambda X, genes, rng: (array(reads(X, rng), rng), "log2")
    found |= {
        f"{depth:.0e} reads".replace("e+0", "e"): lambda X, genes, rng, depth=depth: (reads(X, rng, depth), "auto")
        for depth in (1e4, 1e5)
    }
    return found


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
        wrong = adata.copy()
        swapped = rng.random(adata.n_obs) < 0.1
        pairs = adata.obs[["cell_type", "type"]].to_numpy()
        wrong.obs.loc[swapped, ["cell_type", "type"]] = pairs[rng.integers(adata.n_obs, size=swapped.sum())]
        most = adata.obs["cell_type"].value_counts().index[0]
        references = {
            "whole": adata,
            "10 cells a type": few_cells(adata, adata.obs["cell_type"].unique(), 10, seed),
            "10 cells of all but one": few_cells(
                adata, [t for t in adata.obs["cell_type"].unique() if t != most], 10, seed
            ),
            "10 % wrong labels": wrong,
        }
        for kind in {"blood": ["CD4 T", "CD8 T", "NK"], "breast": ["T-cells"], "lines": ["H1975"]}[base]:
            labels = adata.obs.loc[adata.obs["type"] == kind, "cell_type"].unique()
            references[f"30 cells of {kind}"] = few_cells(adata, labels, 30, seed)
        for name, changed in references.items():
            yield Case("reference", f"{base}, {name}", changed, bulk, mapping)


def few_cells(adata: ad.AnnData, labels, n: int, seed: int) -> ad.AnnData:
    """The reference with at most `n` cells of each of some types."""
    rng, kept = rng_of(seed, "few"), np.ones(adata.n_obs, dtype=bool)
    for label in labels:
        cells = np.flatnonzero(adata.obs["cell_type"] == label)
        kept[rng.permutation(cells)[n:]] = False
    return adata[kept].copy()


def real(folder: Path, seed: int) -> Iterator[Case]:
    """Cohorts with measured composition, as they are and as other platforms would have shown them."""
    for row in rows(folder):
        if row.cohort not in ("hoek", "finotello", "newman_full", "rnamix") or "hao" in row.reference:
            continue
        adata = row.adata.copy()
        adata.obs["type"] = adata.obs["cell_type"].astype(str).map(row.mapping)
        options = {"input_type": row.input_type}
        title = row.name.replace(" | ", ", ")
        whole = Case("real", title, adata, row.bulk, row.mapping, options, row.truth_key, in_rna=row.truth_in_rna)
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
            yield Case("real", f"{title}, {name}", adata, bulk, row.mapping, {"input_type": units})


PARTS = {"studies": studies, "platform": platform, "cohort": cohort, "composition": compositions,
         "reference": reference, "real": real}  # fmt: skip
