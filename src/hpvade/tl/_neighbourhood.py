"""How well cells match their neighbours on marker genes, within and across technical units; no labels needed."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from .._keys import Keys
from .._text import check_adata
from ..io._gene_names import refuse_duplicates
from ..io._rows import iter_rows, pick_matrix, refuse_bad_values
from ..models.ambient._covariates import check_nesting
from ._neighbourhood_core import (
    average_correlation,
    isolation,
    neighbour_masks,
    overlap,
    pairwise_summary,
    qualifying_share,
    random_graph,
    weighted_mean,
)

_MIN_MEAN, _MIN_SPECIFICITY, _MOST_PER_LABEL = 1.0, 0.1, 500
_CSV_COLUMNS = ("gene", "cell_type", "lineage", "category")


def marker_genes(adata: AnnData, groupby: str, *, layer: str | None = None) -> list[str]:
    """Genes that mark groups of cells: mean count above 1 and a share above 0.1 of the means over groups.

    At most 500 per group, by specificity.

    Parameters
    ----------
    adata
        Cells x genes with counts.
    groupby
        Column of `adata.obs` with groups: labels or clusters.
    layer
        Layer with the counts; `adata.X` when None.

    Returns
    -------
    Names of genes, in the order of `adata`.

    Raises
    ------
    KeyError
        A column or layer is absent.
    ValueError
        No gene qualifies.

    Examples
    --------
    >>> import anndata, numpy as np
    >>> adata = anndata.AnnData(np.array([[5.0, 0.0], [4.0, 0.5]]), obs={"cluster": ["a", "b"]})
    >>> marker_genes(adata, "cluster")
    ['0']
    """
    check_adata(adata, "adata")
    if groupby not in adata.obs.columns:
        raise KeyError(f"groupby={groupby!r} is not a column of adata.obs; found {list(adata.obs.columns)}.")
    groups = pd.Categorical(adata.obs[groupby])
    X, name = pick_matrix(adata, layer, "adata")
    sums = np.zeros((len(groups.categories), adata.n_vars))
    for rows, block in iter_rows(X):
        refuse_bad_values(block, rows, name, adata.obs_names, adata.var_names)
        codes = groups.codes[rows]
        kept = np.flatnonzero(codes >= 0)
        member = sparse.csr_matrix((np.ones(len(kept)), (codes[kept], kept)), shape=(len(sums), block.shape[0]))
        sums += (member @ block).toarray()
    means = sums / np.maximum(np.bincount(groups.codes[groups.codes >= 0], minlength=len(sums)), 1)[:, None]
    specificity = means / np.maximum(means.sum(axis=0), 1e-30)
    chosen = np.zeros(adata.n_vars, dtype=bool)
    for mean, specific in zip(means, specificity, strict=True):
        fits = np.flatnonzero((mean > _MIN_MEAN) & (specific > _MIN_SPECIFICITY))
        chosen[fits[np.argsort(-specific[fits], kind="stable")][:_MOST_PER_LABEL]] = True
    if not chosen.any():
        raise ValueError(
            f"no gene has a mean count above {_MIN_MEAN} and a share above {_MIN_SPECIFICITY} in a group of "
            f"{groupby!r}. Pass markers of your own."
        )
    return adata.var_names[chosen].tolist()


def neighbourhood_correlation(
    adata: AnnData,
    *,
    markers: Sequence[str] | str | Path,
    connectivities_key: str = "connectivities",
    layer: str | None = None,
    library_key: str | None = None,
    dataset_key: str | None = None,
    technical_covariate_keys: Sequence[str] | None = None,
    pairwise: bool = True,
) -> pd.DataFrame:
    r"""Correlation of each cell with its neighbours on marker genes, by where the neighbours come from.

    Counts are scaled to the number of genes, :math:`x_n = \text{counts}_n\, G / \text{total}_n`, and restricted to
    markers. A mask M is a part of the edges: ``same_library``, ``between_libraries``; with data sets ``cross_library``
    (other library of the same data set) and ``cross_dataset``; for every technical covariate t ``within_t`` and
    ``between_t``, and ``cross_technical`` where any differs.

    Parameters
    ----------
    adata
        Cells with counts and a neighbour graph in `obsp`.
    markers
        Names of genes, or a CSV file with the columns gene, cell_type, lineage and category.
    connectivities_key
        Graph in `adata.obsp`; its diagonal is dropped.
    layer
        Layer with the counts; `adata.X` when None.
    library_key, dataset_key, technical_covariate_keys
        Columns of `adata.obs`; those named in the model's setup when None. Only the library is needed: without the
        others, the columns that need them are absent.
    pairwise
        Also summarise the correlations with each neighbour.

    Returns
    -------
    One row per cell. For every mask M: ``corr_avg_M`` (with the weighted mean of the neighbours), ``n_neighbours_M``,
    ``frac_neighbours_M``, ``corr_norm_by_library_M`` and ``corr_norm_by_all_M`` (ratios to ``corr_avg_same_library``
    and ``corr_avg_all_neighbours``), and with `pairwise` ``corr_mean_M``, ``_median_``, ``_weighted_mean_``,
    ``_weighted_median_``, ``_std_``, ``_cv_`` and ``corr_discrepancy_M``. NaN without neighbours, without variation, or
    where a key is missing. The technical columns are repeated, and ``.attrs["isolation"]`` holds the observed share of
    cells without a neighbour in each mask, the expected one, and their ratio.

    Raises
    ------
    KeyError
        A column, graph or layer is absent.
    ValueError
        Markers are absent from `var_names`; a library spans data sets; no library is named.
    """
    check_adata(adata, "adata")
    keys = _technical_keys(adata, library_key, dataset_key, technical_covariate_keys)
    if connectivities_key not in adata.obsp:
        raise KeyError(_no_graph(adata, connectivities_key))
    profiles = _profiles(adata, _markers(adata, markers), layer)
    library, dataset, technical = _codes(adata, keys)
    masks = neighbour_masks(adata.obsp[connectivities_key], library, dataset, technical)
    every = masks.pop("all_neighbours")
    degree = np.diff(every.indptr)
    table = {"corr_avg_all_neighbours": average_correlation(profiles, every), "n_neighbours_all": degree}
    for name, mask in masks.items():
        table[f"corr_avg_{name}"] = average_correlation(profiles, mask)
        table[f"n_neighbours_{name}"] = np.diff(mask.indptr)
        table[f"frac_neighbours_{name}"] = np.diff(mask.indptr) / np.where(degree > 0, degree, np.nan)
        if pairwise:
            summary = pairwise_summary(profiles, mask)
            table |= {f"corr_{key}_{name}": values for key, values in summary.items()}
            table[f"corr_discrepancy_{name}"] = table[f"corr_avg_{name}"] - summary["mean"]
    for name in masks:
        for key, base in (("library", "same_library"), ("all", "all_neighbours")):
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = table[f"corr_avg_{name}"] / table[f"corr_avg_{base}"]
            table[f"corr_norm_by_{key}_{name}"] = np.where(np.isfinite(ratio), ratio, np.nan)
    found = pd.DataFrame(table, index=adata.obs_names)
    for column in _columns(keys):
        found[column] = adata.obs[column]
    found.attrs["isolation"] = _isolation(masks, degree, library, dataset, technical)
    found.attrs["keys"] = keys
    return found


def random_baseline(
    adata: AnnData, *, connectivities_key: str = "connectivities", seed: int = 0, **kwargs
) -> pd.DataFrame:
    """:func:`~hpvade.tl.neighbourhood_correlation` on a random graph with the same number of neighbours each."""
    check_adata(adata, "adata")
    if connectivities_key not in adata.obsp:
        raise KeyError(_no_graph(adata, connectivities_key))
    W = sparse.csr_matrix(adata.obsp[connectivities_key], copy=True)
    W.setdiag(0)
    W.eliminate_zeros()
    scratch = AnnData(adata.X, obs=adata.obs, var=pd.DataFrame(index=adata.var_names), layers=dict(adata.layers))
    scratch.uns = {key: adata.uns[key] for key in (Keys.TECHNICAL,) if key in adata.uns}
    scratch.obsp["connectivities"] = random_graph(W, np.random.default_rng(seed))
    return neighbourhood_correlation(scratch, **kwargs)


def summarize_neighbourhoods(table: pd.DataFrame) -> pd.Series:
    """Headline metrics and composite scores of a table of :func:`~hpvade.tl.neighbourhood_correlation`.

    Medians ``corr_within_library``, ``corr_cross_library``, ``corr_cross_dataset``, ``cross_technical_correlation``,
    their gaps to within, and ``distrib_overlap`` of cross against within. Without data sets, cross library is between
    libraries. ``library`` = 0.4 corr_cross_library + 0.3 (1 - isolation ratio clipped to [0, 2]) + 0.3 overlap,
    ``dataset`` likewise, ``batch`` their mean, ``total`` = 0.6 corr_within_library + 0.4 batch; parts that are NaN are
    left out and weights renormalised.

    Parameters
    ----------
    table
        What :func:`~hpvade.tl.neighbourhood_correlation` returned.
    """
    isolated = table.attrs.get("isolation", {})
    mask = {"library": "cross_library" if "corr_avg_cross_library" in table else "between_libraries"}
    mask["dataset"] = "cross_dataset"

    def column(name: str) -> np.ndarray:
        return table[f"corr_avg_{name}"].to_numpy() if f"corr_avg_{name}" in table else np.array([np.nan])

    def median(name: str) -> float:
        values = column(name)
        return float(np.nanmedian(values)) if np.isfinite(values).any() else np.nan

    within = median("same_library")
    out = {"corr_within_library": within}
    out["corr_cross_library"], out["corr_cross_dataset"] = median(mask["library"]), median("cross_dataset")
    out["cross_technical_correlation"] = median("cross_technical")
    for name in ("corr_cross_library", "corr_cross_dataset", "cross_technical_correlation"):
        out[f"gap_{name.removeprefix('corr_')}"] = within - out[name]
    for unit in ("library", "dataset"):
        name = mask[unit]
        ratio = isolated.get(name, {}).get("isolation_norm", np.nan)
        out[f"distrib_overlap_{unit}"] = overlap(column("same_library"), column(name))
        out[f"isolation_norm_{unit}"] = ratio
        spread = 1 - np.clip(ratio, 0, 2)
        parts = [(0.4, out[f"corr_cross_{unit}"]), (0.3, spread), (0.3, out[f"distrib_overlap_{unit}"])]
        out[unit] = weighted_mean(parts) if np.isfinite(out[f"corr_cross_{unit}"]) else np.nan
    out["bio"] = within
    out["batch"] = weighted_mean([(1, out["library"]), (1, out["dataset"])])
    out["total"] = weighted_mean([(0.6, out["bio"]), (0.4, out["batch"])])
    return pd.Series(out)


def stratified_summary(table: pd.DataFrame, by: str | Sequence[str]) -> pd.DataFrame:
    """Median and 10, 25, 75 and 90 percentiles of every correlation, in groups of cells.

    Parameters
    ----------
    table
        What :func:`~hpvade.tl.neighbourhood_correlation` returned, with more columns if need be.
    by
        Columns to group by; cells with a missing value are left out.

    Returns
    -------
    Groups x (metric, statistic).

    Raises
    ------
    KeyError
        A column is absent.
    """
    by = [by] if isinstance(by, str) else list(by)
    if missing := [name for name in by if name not in table.columns]:
        raise KeyError(f"by={missing} are not columns of the table; found {list(table.columns)[:20]}.")
    metrics = [c for c in table.columns if str(c).startswith("corr_") and c not in by]
    grouped = table.groupby(by, observed=True)[metrics]
    quantiles = {"median": 0.5, "p10": 0.1, "p25": 0.25, "p75": 0.75, "p90": 0.9}
    parts = {name: grouped.quantile(q) for name, q in quantiles.items()}
    return pd.concat(parts, axis=1).swaplevel(axis=1).sort_index(axis=1)


def _technical_keys(adata: AnnData, library, dataset, technical) -> dict:
    stored = dict(adata.uns.get(Keys.TECHNICAL, {}))
    library = stored.get("library_key") if library is None else library
    dataset = stored.get("dataset_key") if dataset is None else dataset
    technical = stored.get("technical_covariate_keys", ()) if technical is None else technical
    if library is None:
        raise ValueError("no library is named: pass library_key, the column with the finest technical unit.")
    check_nesting(adata.obs, library, dataset, list(technical))
    return {"library_key": library, "dataset_key": dataset, "technical_covariate_keys": list(technical)}


def _columns(keys: dict) -> list[str]:
    named = [keys["library_key"], keys["dataset_key"], *keys["technical_covariate_keys"]]
    return list(dict.fromkeys(name for name in named if name is not None))


def _codes(adata: AnnData, keys: dict) -> tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]:
    codes = {name: pd.Categorical(adata.obs[name]).codes.astype(np.int64) for name in _columns(keys)}
    dataset = None if keys["dataset_key"] is None else codes[keys["dataset_key"]]
    return codes[keys["library_key"]], dataset, {name: codes[name] for name in keys["technical_covariate_keys"]}


def _markers(adata: AnnData, markers) -> np.ndarray:
    refuse_duplicates(adata.var_names, "adata")
    if isinstance(markers, str | Path):
        table = pd.read_csv(markers)
        if missing := [name for name in _CSV_COLUMNS if name not in table.columns]:
            raise ValueError(f"{markers} has no columns {missing}; expected {list(_CSV_COLUMNS)}.")
        markers = table["gene"].astype(str)
    markers = pd.Index(markers).unique()
    absent = [gene for gene in markers if gene not in adata.var_names]
    if absent or len(markers) < 2:
        raise ValueError(
            f"{len(absent)} of {len(markers)} markers are not in adata.var_names: {absent[:5]}; expected at least two "
            "that are. Leave the others out: `[g for g in markers if g in adata.var_names]`."
        )
    return adata.var_names.get_indexer(markers)


def _profiles(adata: AnnData, genes: np.ndarray, layer: str | None) -> np.ndarray:
    X, name = pick_matrix(adata, layer, "adata")
    rows = []
    for where, block in iter_rows(X):
        refuse_bad_values(block, where, name, adata.obs_names, adata.var_names)
        total = block.sum(axis=1, dtype=float).A1
        rows.append(block[:, genes].toarray() * (adata.n_vars / np.maximum(total, 1e-30))[:, None])
    return np.concatenate(rows).astype(float)


def _isolation(masks: dict, degree: np.ndarray, library, dataset, technical) -> dict[str, dict[str, float]]:
    found = {}
    for name, share in qualifying_share(library, dataset, technical).items():
        observed, expected = isolation(share, degree, np.diff(masks[name].indptr))
        ratio = observed / expected if expected > 0 else np.nan
        found[name] = {"observed": observed, "expected": expected, "isolation_norm": ratio}
    return found


def _no_graph(adata: AnnData, key: str) -> str:
    return f"adata.obsp has no {key!r}: run `sc.pp.neighbors(adata)`. It has {list(adata.obsp)}."
