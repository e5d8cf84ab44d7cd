"""Can this result be trusted? Checks of bulk, model and fit, and what they say in plain words."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys, check_key
from .._text import whole_number
from ..evaluation._align import mapping_of, table
from ..evaluation._evaluate import evaluate
from ..io._frames import as_bulk
from ._cohort import array, closed, judged
from ._missing_types import asked_markers
from ._resolution import resolution
from ._verdict import evaluation_messages, sample_verdicts

COLUMNS = ("residual", "percentile", "unexplained", "unknown", "disagreement", "zeros", "missing", "flagged", "verdict")


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
    batch_key: str | None = None,
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
    layer, input_type, missing, gene_length_key, batch_key, on_bad_sample
        As in :meth:`hpvade.HPVADE.deconvolve`. Each batch is judged by its own fit, as if it were alone: those of
        `batch_key`, or those that are found by the genes they lack. Samples that were skipped have NaN and a verdict
        that says why.
    n_simulated
        Simulated samples to compare a batch with, at least; whole pseudo-cohorts are drawn. From fewer than 99 no
        sample can stand out, since `percentile` counts the sample itself.
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
    ``merges`` (pairs of types that cannot be told apart here, with the interval of their sum), ``types``
    (types x ``mean``, ``sd``, the ``reference``'s composition, and the ``recovery`` of its own cells: the share of a
    type's RNA that is found as its own when they are held out and mixed), ``residual_genes`` (what the fit misses
    most, by mean share of expression, ``excess``; genes that are not ``informative``, such as ribosomal ones and
    haemoglobins, differ by protocol and are in no fit),
    ``missing_types`` (types asked for x their ``genes``; median ``score``, standard normal where the type is not there;
    ``share`` of the samples beyond the limit; ``fold``) and, with a truth, ``evaluation``; and ``simulated_residual``,
    ``simulated_unexplained``, medians of the yardstick. Of several batches there is a table ``batches`` with the
    numbers of each; the others are then of the genes that all measure, means over samples, and of the batch that tells
    two types apart least.

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
    reading |= {"batch_key": batch_key, "on_bad_sample": on_bad_sample}
    asked_markers(markers, [])  # refuse what cannot be read before the work
    cohorts = _estimates(model, bulk, n_simulated, **reading)
    evaluation = None
    if truth_key is not None:
        evaluation = _evaluation(bulk, model, cohorts, truth_key, mapping)
    rows, summary, messages = judged(model, cohorts, markers, n_simulated, seed)
    rows["verdict"], rows["flagged"] = sample_verdicts(rows)
    if evaluation is not None:
        summary["evaluation"] = evaluation
        messages += evaluation_messages(evaluation)
    summary["intervals"], summary["merges"], unresolved = resolution(model, bulk, **reading)
    summary["messages"] = np.array([*messages, *unresolved], dtype=object)
    result = bulk if not copy else bulk.to_memory() if bulk.isbacked else bulk.copy()
    rows = _with_skipped(rows, cohorts[0][0].bulk)
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


def _estimates(model, bulk: AnnData, n_simulated: int, **reading):
    from ..models.hpvade._estimate import estimates  # here: importing `tl` must not load torch

    model._require_trained("diagnose")
    whole_number("n_simulated", n_simulated)
    if model.preset == "spec":
        raise ValueError("preset='spec' has no regression whose residuals could be judged; use preset='default'.")
    return estimates(model, bulk, network=True, **reading)


def _with_skipped(rows: pd.DataFrame, bulk) -> pd.DataFrame:
    """Rows for all samples of the bulk: those that were skipped are flagged, and their verdict says why."""
    if bulk.usable.all():
        return rows
    rows = rows.reindex(range(len(bulk.usable)))
    rows.loc[~bulk.usable, "verdict"] = [f"Skipped: {reason}." for reason in bulk.skipped.values()]
    rows["missing"] = rows["missing"].fillna("")
    rows["flagged"] = np.where(bulk.usable, rows["flagged"], True).astype(bool)
    return rows


def _evaluation(bulk: AnnData, model, cohorts, truth_key: str, mapping) -> pd.DataFrame:
    """Errors against the truth, beside NNLS and the constant predictor."""
    from ..reference._measured import placed
    from ..solvers import nnls

    usable = cohorts[0][0].bulk.usable
    scratch = AnnData(obs=pd.DataFrame(index=bulk.obs_names[usable]))
    scratch.obsm[truth_key] = table(bulk, truth_key)[usable]
    predictors = {
        "hpvade": lambda found: found.cells,
        Keys.nnls("hpvade"): lambda found: nnls(found.shares, model.module.mean_counts * found.present[:, None]),
    }
    for key, predict in predictors.items():
        parts = [(batch.samples, closed(array(predict(found)))) for batch, found in cohorts]
        scratch.obsm[key] = placed(bulk, model.cell_types, parts)[usable]
    return evaluate(scratch, truth_key, prediction_key="hpvade", mapping=mapping_of(bulk, truth_key, mapping))
