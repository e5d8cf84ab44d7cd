"""What `tl.diagnose` finds in one cohort, an `Estimate` with its yardstick, and what batches have in common."""

from importlib.metadata import version

import numpy as np
import pandas as pd

from ._missing_types import asked_markers, missing_message, missing_names, missing_types
from ._verdict import MANY, cohort_messages

_FLOOR = 5e-5  # share of the total below which log ratios say little, as in `solvers.robust`
_MAX_SAMPLES = 64  # of the bulk, that a pseudo-cohort imitates
_N_GENES = 50
_BLOCK = 256
_OF_BATCHES = (
    "n_genes",
    "expression_overlap",
    "n_genes_fitted",
    "platform_distance",
    "condition_number",
    "max_cosine",
    "factor_sd",
    "factor_r2",
    "n_extreme_factors",
    "drift",
    "simulated_residual",
    "simulated_unexplained",
)


def judged(model, cohorts, markers, n_simulated: int, seed: int) -> tuple[pd.DataFrame, dict, list[str]]:
    """Rows of all samples by their positions, the summary and its messages, of batches and their estimates.

    Each batch is judged by its own fit and yardstick, as if it were alone.
    """
    parts = [_judged(model, found, markers, n_simulated, seed) for _, found in cohorts]
    rows = pd.concat(
        [one.set_axis(batch.samples) for (batch, _), (one, _, _) in zip(cohorts, parts, strict=True)]
    ).sort_index()
    messages = []
    for (batch, _), (one, summary, _) in zip(cohorts, parts, strict=True):
        of = f"Batch {batch.name!r} ({len(one)} sample{'s' * (len(one) > 1)}): " * (len(cohorts) > 1)
        said = [*missing_message(summary["missing_types"], MANY), *cohort_messages(summary, one)]
        messages += [of + text for text in said]
    summaries, genes = [summary for _, summary, _ in parts], [table for *_, table in parts]
    summary = summaries[0] if len(cohorts) == 1 else _in_common(model, cohorts, summaries, genes)
    return rows, summary, messages


def _judged(model, found, markers, n_simulated: int, seed: int) -> tuple[pd.DataFrame, dict, pd.DataFrame]:
    """Rows, summary and genes of one cohort."""
    module = model.module
    rows, genes = _explain(module, found)
    genes = genes.set_axis(pd.Index(model.get_var_names(), name="gene"))
    yardstick = _simulate(model, found, n_simulated, seed)
    below = np.searchsorted(np.sort(yardstick["residual"]), rows["residual"])
    rows["percentile"] = 100 * below / (len(yardstick) + 1)
    expected = float(yardstick["unexplained"].median())
    rows["unexplained"] -= expected
    rows["unknown"] = _unknown(module, found)
    rows["zeros"] = _share_of_zeros(found)
    rows["missing"], missing_table = _missing(model, found, markers)
    summary = {
        "hpvade_version": version("hpvade"),
        "input_type": found.bulk.input_type,
        **_genes_found(module, _measured(found)),
        "n_genes_fitted": len(found.genes),
        "platform_distance": float(found.platform_distance),
        **_conditioning(model, found),
        **_gene_factor(module, found),
        **_composition(model, array(found.cells)),
        "residual_genes": genes.nlargest(_N_GENES, "excess"),
        "simulated_residual": float(yardstick["residual"].median()),
        "simulated_unexplained": expected,
        "n_simulated": len(yardstick),
        "missing_types": missing_table,
    }
    if found.studies:
        from ..models.hpvade._consensus import disagreement_table

        summary["studies"] = disagreement_table(found.studies)
    return rows, summary, genes


def _in_common(model, cohorts, summaries: list[dict], genes: list[pd.DataFrame]) -> dict:
    """One summary of several batches: genes that all measure, means over samples, the two types least told apart."""
    n_samples = np.array([len(batch.samples) for batch, _ in cohorts])
    weight = n_samples / n_samples.sum()
    measured = np.array([_measured(found) for _, found in cohorts])
    means = [name for name in _OF_BATCHES if name not in ("n_genes", "expression_overlap", "drift")]
    alike = max(summaries, key=lambda summary: summary["max_cosine"])
    excess = sum(share * table["excess"] for share, table in zip(weight, genes, strict=True))
    log_ratio = np.ma.average([table["log2_ratio"] for table in genes], axis=0, weights=measured * weight[:, None])
    table = genes[0].assign(
        excess=excess,
        log2_ratio=np.ma.filled(log_ratio, np.nan),
        informative=np.any([table["informative"] for table in genes], axis=0),
    )
    names = pd.Index([batch.name for batch, _ in cohorts], name="batch")
    batches = pd.DataFrame([{name: summary[name] for name in _OF_BATCHES} for summary in summaries], index=names)
    batches.insert(0, "n_samples", n_samples)
    common = summaries[0] | {name: float(weight @ [summary[name] for summary in summaries]) for name in means}
    common |= {name: alike[name] for name in ("condition_number", "max_cosine", "most_similar")}
    common |= _genes_found(model.module, measured.all(axis=0))
    common |= _composition(model, np.concatenate([array(found.cells) for _, found in cohorts]))
    common |= {
        "n_genes_fitted": min(summary["n_genes_fitted"] for summary in summaries),
        "n_extreme_factors": round(common["n_extreme_factors"]),
        "n_simulated": sum(summary["n_simulated"] for summary in summaries),
        "residual_genes": table.nlargest(_N_GENES, "excess"),
        "missing_types": _missing_in_common([summary["missing_types"] for summary in summaries], n_samples),
        "batches": batches,
    }
    if "studies" in common:
        common["studies"] = sum(share * summary["studies"] for share, summary in zip(weight, summaries, strict=True))
    return common


def _missing_in_common(tables: list[pd.DataFrame], n_samples: np.ndarray) -> pd.DataFrame:
    """Types that were asked for in any batch: means over the samples of the batches that show their genes."""
    shown = {i: table for i, table in enumerate(tables) if len(table)}
    if not shown:
        return tables[0]
    every = pd.concat(shown, names=["batch", "type"]).reset_index()
    rows = {
        name: {
            "genes": ", ".join(dict.fromkeys(", ".join(part["genes"]).split(", "))),
            **{x: np.average(part[x], weights=n_samples[part["batch"]]) for x in ("score", "share", "fold")},
        }
        for name, part in every.groupby("type", sort=False)
    }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="type"), columns=tables[0].columns)


def _simulate(model, found, n_simulated: int, seed: int) -> pd.DataFrame:
    """Residual and unexplained share of simulated samples like those of the bulk."""
    from ..models.hpvade._detection import matching_noise, simulated_estimate

    cells = closed(array(found.cells))
    cells = cells[np.linspace(0, len(cells) - 1, min(len(cells), _MAX_SAMPLES)).round().astype(int)]
    rng, noise = np.random.default_rng(seed), matching_noise(found)
    parts = []
    for _ in range(-(-n_simulated // len(cells))):
        simulated = simulated_estimate(model, cells, rng, present=found.present, noise=noise)
        parts.append(_explain(model.module, simulated)[0])
    return pd.concat(parts, ignore_index=True)


def _explain(module, found) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How well the fit explains each sample, and each gene over the cohort.

    The fitted profile is scaled so that the typical gene of the regression agrees, without the gene factor, which
    would hide what all samples share.
    """
    signature = array(module.signature())
    signature /= signature.sum(axis=0)
    fitted, rna = array(found.genes).astype(int), array(found.rna)
    present = array(found.present).astype(bool)
    informative = present & (array(module.gene_score) > 0)
    unexplained, excess, log_ratio = [], np.zeros(len(signature)), np.zeros(len(signature))
    for at in range(0, len(rna), _BLOCK):
        bulk, mean = array(found.shares[at : at + _BLOCK]), rna[at : at + _BLOCK] @ signature.T
        ratio = np.log((bulk + _FLOOR) / (mean + _FLOOR))
        scale = np.median(ratio[:, fitted], axis=1, keepdims=True)
        above = np.maximum(bulk - mean * np.exp(scale), 0) * present
        unexplained.append(above[:, informative].sum(axis=1) / bulk[:, informative].sum(axis=1).clip(min=1e-30))
        excess += above.sum(axis=0) / len(rna)
        log_ratio += (ratio - scale).sum(axis=0) / len(rna)
    rows = pd.DataFrame({"residual": array(found.fit.residual), "unexplained": np.concatenate(unexplained)})
    rows["disagreement"] = np.nan
    if found.network is not None and module.network_trained:
        by_network = array(module.cells_to_rna(found.network, module.mean_counts.sum(dim=0)))
        rows["disagreement"] = np.abs(by_network - rna).sum(axis=1) / 2
    genes = {"excess": excess, "log2_ratio": log_ratio / np.log(2), "informative": informative}
    return rows, pd.DataFrame(genes)


def _unknown(module, found) -> np.ndarray:
    """Fraction of RNA that varies between samples and belongs to no type; NaN where samples or genes are too few."""
    from ..models.hpvade._unknown import find_unknown

    try:
        return array(find_unknown(module, found).unknown)
    except ValueError:
        return np.full(len(found.rna), np.nan)


def _missing(model, found, markers) -> tuple[list[str], pd.DataFrame]:
    """Types that each sample shows and no label means, and the table of all that were asked for."""
    present = array(found.present).astype(bool)
    signature = array(model.module.signature())
    genes = pd.Index(np.asarray(model.get_var_names()))[present]
    scores, table = missing_types(
        array(found.shares)[:, present],
        array(found.rna),
        (signature / signature.sum(axis=0))[present],
        genes,
        asked_markers(markers, model.cell_types),
    )
    return missing_names(scores), table


def _share_of_zeros(found) -> np.ndarray:
    present = array(found.present).astype(bool)
    blocks = (array(found.shares[at : at + _BLOCK]) for at in range(0, len(found.shares), _BLOCK))
    return np.concatenate([(block[:, present] == 0).mean(axis=1) for block in blocks])


def _measured(found) -> np.ndarray:
    """Genes (bool) that were looked at, and not filled in."""
    return found.bulk.present & array(found.present).astype(bool)


def _genes_found(module, measured: np.ndarray) -> dict:
    """How many genes the bulk has, and how much of the reference's expression lies on them."""
    expression = array(module.mean_counts @ module.composition.to(module.mean_counts.dtype))
    return {
        "n_genes": int(measured.sum()),
        "n_genes_missing": int((~measured).sum()),
        "gene_overlap": float(measured.mean()),
        "expression_overlap": float(expression[measured].sum() / expression.sum()),
    }


def _conditioning(model, found) -> dict:
    """Similarity of the columns of the signature, weighted as in the regression."""
    genes = array(found.genes).astype(int)
    signature = array(model.module.signature())
    signature = (signature / signature.sum(axis=0))[genes]
    mean = signature @ array(found.rna).mean(axis=0) + _FLOOR
    weighted = signature * (np.sqrt(array(found.fit.gene_weight)) / mean)[:, None]
    weighted /= np.maximum(np.linalg.norm(weighted, axis=0), 1e-30)
    cosine = weighted.T @ weighted
    np.fill_diagonal(cosine, -1)
    i, j = np.unravel_index(cosine.argmax(), cosine.shape)
    return {
        "condition_number": float(np.linalg.cond(weighted)),
        "max_cosine": float(cosine[i, j]),
        "most_similar": np.array([model.cell_types[min(i, j)], model.cell_types[max(i, j)]], dtype=object),
    }


def _gene_factor(module, found) -> dict:
    """Spread of the cohort's log gene factor, and the share of it that differences between types explain."""
    factor = array(found.fit.gene_factor)
    log_profile = np.log(array(module.signature()) + 1e-3)[array(found.genes).astype(int)]
    X = np.column_stack([np.ones(len(factor)), log_profile - log_profile.mean(axis=1, keepdims=True)])
    left = factor - X @ np.linalg.lstsq(X, factor, rcond=None)[0]
    free = len(factor) - np.linalg.matrix_rank(X)
    spread = factor.var()
    r2 = 1 - (left @ left / free) / (spread * len(factor) / (len(factor) - 1)) if spread > 0 and free > 0 else 0.0
    return {
        "factor_sd": float(factor.std()),
        "factor_r2": float(max(r2, 0.0)),
        "n_extreme_factors": int((np.abs(factor) > 2).sum()),
    }


def _composition(model, cells: np.ndarray) -> dict:
    """Mean and spread of the fractions over the samples, beside the reference's composition."""
    cells = closed(cells)
    types = pd.DataFrame(
        {
            "mean": cells.mean(axis=0),
            "sd": cells.std(axis=0, ddof=1) if len(cells) > 1 else np.nan,
            "reference": array(model.module.composition),
            "recovery": array(model.module.recovery),
        },
        index=pd.Index(model.cell_types, name="type"),
    )
    return {"drift": float((types["mean"] - types["reference"]).abs().sum() / 2), "types": types}


def array(tensor) -> np.ndarray:
    return np.array(tensor.detach().double().cpu().numpy())


def closed(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300)
