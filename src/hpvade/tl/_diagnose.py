"""Can this result be trusted? Checks of bulk, model and fit, and what they say in plain words."""

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys, check_key
from .._text import whole_number
from ..evaluation._align import mapping_of, table
from ..evaluation._evaluate import evaluate
from ..io._frames import as_bulk
from ._missing_types import asked_markers, missing_message, missing_names, missing_types
from ._resolution import resolution
from ._verdict import MANY, cohort_messages, sample_verdicts

COLUMNS = ("residual", "percentile", "unexplained", "unknown", "disagreement", "zeros", "missing", "flagged", "verdict")
_FLOOR = 5e-5  # share of the total below which log ratios say little, as in `solvers.robust`
_MAX_SAMPLES = 64  # of the bulk, that a pseudo-cohort imitates
_N_GENES = 50
_BLOCK = 256


def diagnose(
    bulk: AnnData | pd.DataFrame,
    model,
    *,
    truth_key: str | None = None,
    mapping: Mapping[str, str] | None = None,
    markers: str | Mapping[str, list[str]] | None = "blood",
    layer: str | None = None,
    input_type: str = "auto",
    missing: str = "mean",
    gene_length_key: str | None = None,
    on_bad_sample: str = "raise",
    n_simulated: int = 100,
    seed: int = 0,
    key_added: str = Keys.DIAGNOSIS,
    copy: bool = False,
) -> AnnData | None:
    """Say of every sample whether the model explains it, and of the cohort what stands in the way of an answer.

    The yardstick is simulated: pseudo-cohorts with the compositions that the model finds in the bulk, its genes, depth
    and platform distance, made from the model's own reference and deconvolved like it. Bulk that holds nothing but the
    reference's types, measured on another platform, looks like these.

    Parameters
    ----------
    bulk
        Samples x genes, as for :meth:`hpvade.HPVADE.deconvolve`; an AnnData or a DataFrame. It need not have been
        deconvolved before.
    model
        A trained :class:`hpvade.HPVADE`.
    truth_key, mapping
        Measured proportions in ``bulk.obsm`` and how types add up to its columns, as in :func:`hpvade.tl.evaluate`;
        adds the table of errors beside NNLS and the constant predictor.
    markers
        Genes by which a type shows that no label of the reference means: ``{type: [genes]}``, of which types of the
        model are left out, or ``"blood"`` for the shipped ones of B, T, CD8 T and NK cells, monocytes and neutrophils,
        asked where two labels or more name blood cells. None: not asked.
    layer, input_type, missing, gene_length_key, on_bad_sample
        As in :meth:`hpvade.HPVADE.deconvolve`. Samples that were skipped have NaN and a verdict that says why; batches
        that lack different genes are judged on those that all have.
    n_simulated
        Simulated samples to compare with, at least; whole pseudo-cohorts are drawn. From fewer than 99 no sample can
        stand out, since `percentile` counts the sample itself.
    seed
        Of the simulation.
    key_added
        Start of the names of the columns in ``bulk.obs``, and the ``bulk.uns`` key of the summary.
    copy
        Return a copy of `bulk` with the results and leave `bulk` unchanged; a DataFrame always is.

    Returns
    -------
    None, or the copy, an AnnData. Columns of ``bulk.obs``, each after ``f"{key_added}_"``:

    - ``residual``: robust standard deviation of the log residuals over the genes of the fit;
    - ``percentile``: share of the simulated samples with a smaller residual, 0 to 100; the out-of-distribution score;
    - ``unexplained``: share of the sample's expression above the fit (sum of positive residuals over the total),
      less the median of simulated samples, which show noise and platform alone (below zero: fits better). A type that
      the reference lacks raises it, by less than its own share, because what it has in common with the known types is
      given to them; so does a platform unlike the reference's, and the number does not tell which;
    - ``unknown``: fraction of RNA of what varies between samples beyond the known types, as with
      ``deconvolve(unknown=True)``; missing below six samples or 20 expressed genes that are no markers;
    - ``disagreement``: half the summed absolute difference of the network's and the regression's fractions of RNA;
    - ``zeros``: share of the genes without reads;
    - ``missing``: types of `markers` whose genes stand above the fit by more than other genes of their level do;
    - ``flagged``: whether one of them is beyond its limit; ``verdict``: the same in words.

    ``bulk.uns[key_added]`` holds the cohort's ``messages`` (in words, each with a remedy); units, genes and
    ``expression_overlap`` (share of the reference's expression on the genes that the bulk has); ``platform_distance``;
    ``condition_number`` and ``max_cosine`` of the weighted signature with the ``most_similar`` types; ``factor_sd``,
    ``factor_r2`` (share of the gene factor that types could explain, adjusted) and ``n_extreme_factors`` (beyond
    e^2-fold); ``drift``, half the summed difference between the cohort's and the reference's mean composition; the
    tables ``intervals`` (types x typical ``lower``, ``upper``, ``width``, and whether that leaves the type ``open``),
    ``merges`` (pairs of types that cannot be told apart here, with the interval of their sum), ``types``,
    ``residual_genes`` (what the fit misses most, by mean share of expression, ``excess``; genes that
    are not ``informative``, such as ribosomal ones and haemoglobins, differ by protocol and are in no fit),
    ``missing_types`` (types asked for x their ``genes``; median ``score``, standard normal where the type is not there;
    ``share`` of the samples beyond the limit; ``fold``) and, with a truth, ``evaluation``; and ``simulated_residual``,
    ``simulated_unexplained``, medians of the yardstick.

    Raises
    ------
    TypeError
        `model` is no HPVADE.
    RuntimeError
        The model is not trained.
    KeyError, ValueError
        The truth or a layer is absent, the bulk cannot be used, an option is out of range, or the model has
        ``preset="spec"``, which has no regression to diagnose. `bulk` is then unchanged.

    References
    ----------
    The unexplained share follows the unknown content of Rectangle (sum of what is above the fit over the total), made
    relative to simulated bulk.

    Examples
    --------
    >>> import hpvade as hp
    >>> bulk = hp.datasets.pbmc_bulk()
    >>> model = hp.HPVADE.load("pbmc_model/")  # doctest: +SKIP
    >>> hp.tl.diagnose(bulk, model)  # doctest: +SKIP
    >>> bulk.obs["hpvade_qc_verdict"], bulk.uns["hpvade_qc"]["messages"]  # doctest: +SKIP
    """
    check_key(key_added)
    bulk, copy = bulk_for(model, bulk), copy or isinstance(bulk, pd.DataFrame)
    reading = {"layer": layer, "input_type": input_type, "missing": missing, "gene_length_key": gene_length_key}
    asked_markers(markers, [])  # refuse what cannot be read before the work
    found = _estimate(model, bulk, n_simulated, on_bad_sample=on_bad_sample, **reading)
    evaluation = None
    if truth_key is not None:
        evaluation = _evaluation(bulk, model, found, truth_key, mapping)
    module = model.module
    rows, genes = _explain(module, found)
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
        **_genes_found(model, found),
        "platform_distance": float(found.platform_distance),
        **_conditioning(model, found),
        **_gene_factor(module, found),
        **_composition(model, found),
        "residual_genes": genes.set_axis(pd.Index(model.get_var_names(), name="gene")).nlargest(_N_GENES, "excess"),
        "simulated_residual": float(yardstick["residual"].median()),
        "simulated_unexplained": expected,
        "n_simulated": len(yardstick),
        "missing_types": missing_table,
    }
    if found.studies:
        from ..models.hpvade._consensus import disagreement_table

        summary["studies"] = disagreement_table(found.studies)
    if evaluation is not None:
        summary["evaluation"] = evaluation
    rows["verdict"], rows["flagged"] = sample_verdicts(rows)
    reading = {"layer": layer, "input_type": input_type, "missing": missing, "gene_length_key": gene_length_key}
    summary["intervals"], summary["merges"], unresolved = resolution(
        model, bulk, on_bad_sample=on_bad_sample, **reading
    )
    summary["messages"] = np.array(
        [*missing_message(missing_table, MANY), *cohort_messages(summary, rows), *unresolved], dtype=object
    )
    result = bulk if not copy else bulk.to_memory() if bulk.isbacked else bulk.copy()
    rows = _with_skipped(rows, found.bulk)
    for name in COLUMNS:
        result.obs[Keys.diagnosis(key_added, name)] = rows[name].to_numpy()
    result.uns[key_added] = summary
    return result if copy else None


def bulk_for(model, bulk) -> AnnData:
    """The bulk as AnnData; TypeError where it or the model is something else, such as one for the other."""
    from ..models.hpvade._model import HPVADE  # here: importing `tl` must not load torch

    bulk = as_bulk(bulk)
    if not isinstance(model, HPVADE):
        raise TypeError(f"model is a {type(model).__name__}; expected a trained hpvade.HPVADE.")
    return bulk


def _estimate(model, bulk: AnnData, n_simulated: int, **reading):
    from ..models.hpvade._estimate import estimate  # here: importing `tl` must not load torch

    model._require_trained("diagnose")
    whole_number("n_simulated", n_simulated)
    if model.preset == "spec":
        raise ValueError("preset='spec' has no regression whose residuals could be judged; use preset='default'.")
    return estimate(model, bulk, network=True, **reading)


def _with_skipped(rows: pd.DataFrame, bulk) -> pd.DataFrame:
    """Rows for all samples of the bulk: those that were skipped are flagged, and their verdict says why."""
    if bulk.usable.all():
        return rows
    rows = rows.set_axis(np.flatnonzero(bulk.usable)).reindex(range(len(bulk.usable)))
    rows.loc[~bulk.usable, "verdict"] = [f"Skipped: {reason}." for reason in bulk.skipped.values()]
    rows["missing"] = rows["missing"].fillna("")
    rows["flagged"] = np.where(bulk.usable, rows["flagged"], True).astype(bool)
    return rows


def _evaluation(bulk: AnnData, model, found, truth_key: str, mapping) -> pd.DataFrame:
    """Errors against the truth, beside NNLS and the constant predictor."""
    from ..solvers import nnls

    scratch = AnnData(obs=pd.DataFrame(index=found.bulk.obs_names))
    scratch.obsm[truth_key] = table(bulk, truth_key)[found.bulk.usable]
    baseline = nnls(found.shares, model.module.mean_counts * found.present[:, None])
    for key, values in (("hpvade", found.cells), (Keys.nnls("hpvade"), baseline)):
        scratch.obsm[key] = pd.DataFrame(_closed(_array(values)), index=scratch.obs_names, columns=model.cell_types)
    return evaluate(scratch, truth_key, prediction_key="hpvade", mapping=mapping_of(bulk, truth_key, mapping))


def _simulate(model, found, n_simulated: int, seed: int) -> pd.DataFrame:
    """Residual and unexplained share of simulated samples like those of the bulk."""
    from ..models.hpvade._detection import matching_noise, simulated_estimate

    cells = _closed(_array(found.cells))
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
    signature = _array(module.signature())
    signature /= signature.sum(axis=0)
    fitted, rna = _array(found.genes).astype(int), _array(found.rna)
    present = _array(found.present).astype(bool)
    informative = present & (_array(module.gene_score) > 0)
    unexplained, excess, log_ratio = [], np.zeros(len(signature)), np.zeros(len(signature))
    for at in range(0, len(rna), _BLOCK):
        bulk, mean = _array(found.shares[at : at + _BLOCK]), rna[at : at + _BLOCK] @ signature.T
        ratio = np.log((bulk + _FLOOR) / (mean + _FLOOR))
        scale = np.median(ratio[:, fitted], axis=1, keepdims=True)
        above = np.maximum(bulk - mean * np.exp(scale), 0) * present
        unexplained.append(above[:, informative].sum(axis=1) / bulk[:, informative].sum(axis=1).clip(min=1e-30))
        excess += above.sum(axis=0) / len(rna)
        log_ratio += (ratio - scale).sum(axis=0) / len(rna)
    rows = pd.DataFrame({"residual": _array(found.fit.residual), "unexplained": np.concatenate(unexplained)})
    rows["disagreement"] = np.nan
    if found.network is not None and module.network_trained:
        by_network = _array(module.cells_to_rna(found.network, module.mean_counts.sum(dim=0)))
        rows["disagreement"] = np.abs(by_network - rna).sum(axis=1) / 2
    genes = {"excess": excess, "log2_ratio": log_ratio / np.log(2), "informative": informative}
    return rows, pd.DataFrame(genes)


def _unknown(module, found) -> np.ndarray:
    """Fraction of RNA that varies between samples and belongs to no type; NaN where samples or genes are too few."""
    from ..models.hpvade._unknown import find_unknown

    try:
        return _array(find_unknown(module, found).unknown)
    except ValueError:
        return np.full(len(found.rna), np.nan)


def _missing(model, found, markers) -> tuple[list[str], pd.DataFrame]:
    """Types that each sample shows and no label means, and the table of all that were asked for."""
    present = _array(found.present).astype(bool)
    signature = _array(model.module.signature())
    genes = pd.Index(np.asarray(model.get_var_names()))[present]
    scores, table = missing_types(
        _array(found.shares)[:, present],
        _array(found.rna),
        (signature / signature.sum(axis=0))[present],
        genes,
        asked_markers(markers, model.cell_types),
    )
    return missing_names(scores), table


def _share_of_zeros(found) -> np.ndarray:
    present = _array(found.present).astype(bool)
    blocks = (_array(found.shares[at : at + _BLOCK]) for at in range(0, len(found.shares), _BLOCK))
    return np.concatenate([(block[:, present] == 0).mean(axis=1) for block in blocks])


def _genes_found(model, found) -> dict:
    """How many genes the bulk has, and how much of the reference's expression lies on them."""
    module = model.module
    expression = _array(module.mean_counts @ module.composition.to(module.mean_counts.dtype))
    measured = found.bulk.present & _array(found.present).astype(bool)
    return {
        "n_genes": int(measured.sum()),
        "n_genes_missing": int((~measured).sum()),
        "gene_overlap": float(measured.mean()),
        "expression_overlap": float(expression[measured].sum() / expression.sum()),
        "n_genes_fitted": len(found.genes),
    }


def _conditioning(model, found) -> dict:
    """Similarity of the columns of the signature, weighted as in the regression."""
    genes = _array(found.genes).astype(int)
    signature = _array(model.module.signature())
    signature = (signature / signature.sum(axis=0))[genes]
    mean = signature @ _array(found.rna).mean(axis=0) + _FLOOR
    weighted = signature * (np.sqrt(_array(found.fit.gene_weight)) / mean)[:, None]
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
    factor = _array(found.fit.gene_factor)
    log_profile = np.log(_array(module.signature()) + 1e-3)[_array(found.genes).astype(int)]
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


def _composition(model, found) -> dict:
    """Mean and spread of the fractions over the cohort, beside the reference's composition."""
    cells = _closed(_array(found.cells))
    types = pd.DataFrame(
        {
            "mean": cells.mean(axis=0),
            "sd": cells.std(axis=0, ddof=1) if len(cells) > 1 else np.nan,
            "reference": _array(model.module.composition),
        },
        index=pd.Index(model.cell_types, name="type"),
    )
    return {"drift": float((types["mean"] - types["reference"]).abs().sum() / 2), "types": types}


def _array(tensor) -> np.ndarray:
    return np.array(tensor.detach().double().cpu().numpy())


def _closed(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300)
