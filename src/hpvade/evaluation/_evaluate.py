"""Tables that set predicted proportions beside the truth, NNLS and the constant predictor."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from .._keys import Keys
from .._text import listed
from ..io._rows import pick_matrix
from . import _metrics as metrics
from ._align import closed, compare, mapping_of, predicted, table


def evaluate(
    bulk: AnnData,
    truth_key: str = Keys.TRUE_PROPORTIONS,
    *,
    prediction_key: str | Sequence[str] = Keys.PROPORTIONS,
    mapping: Mapping[str, str] | None = None,
    signature: pd.DataFrame | None = None,
    renormalize: bool = True,
    layer: str | None = None,
) -> pd.DataFrame:
    """Score predicted proportions against the truth, beside non-negative least squares and the constant predictor.

    Parameters
    ----------
    bulk
        Bulk samples with predictions and truth as DataFrames in `.obsm`. Nothing is written into it.
    truth_key
        The true proportions in ``bulk.obsm``.
    prediction_key
        The predictions in ``bulk.obsm`` to score, one row each.
    mapping
        Which truth column each reference type counts towards, ``{type: column}``; types with the same column are added
        up, what is not named is left out. By default ``bulk.uns[f"{truth_key}_mapping"]`` where it exists, else types
        and columns of the same name belong together.
    signature
        Mean counts per cell, genes x types, for the row "nnls". Only used when ``bulk.obsm`` holds no NNLS proportions
        from :meth:`hpvade.HPVADE.deconvolve`.
    renormalize
        Scale both sides to sum to one over the columns that are compared.
    layer
        The expression that goes with `signature`, linear values (counts, CPM, TPM); ``bulk.X`` by default.

    Returns
    -------
    One row per prediction, then "nnls", then "constant", which predicts the cohort mean of the truth for every sample:
    a yardstick that uses the truth. Columns:

    - ``per_type_r``: Pearson correlation across samples, averaged over types in Fisher's z, an undefined one as 0;
    - ``rmse``, ``mae``: errors in units of proportions;
    - ``rmse_skill``: ``1 - rmse / rmse(constant)``;
    - ``ccc``: Lin's concordance correlation over all entries;
    - ``sample_r``: mean over samples of the correlation across types;
    - ``pooled_r``: correlation over all entries; a constant scores high here when types differ in size.

    A correlation that no type or sample defines is NaN. ``.attrs["left_out_types"]`` and ``.attrs["left_out_columns"]``
    list what is not compared.

    Raises
    ------
    KeyError
        When a table is missing, or there is neither an NNLS table nor a `signature`.
    ValueError
        When the names of `mapping` do not exist, or a value is not finite; see :func:`hpvade.tl.compare`.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> bulk = ad.AnnData(np.ones((20, 1)))
    >>> truth = pd.DataFrame(rng.dirichlet([4, 2, 1], 20), index=bulk.obs_names, columns=["T", "Mono", "B"])
    >>> bulk.obsm["proportions"] = truth
    >>> bulk.obsm["hpvade_proportions"] = 0.9 * truth + 0.1 / 3
    >>> bulk.obsm["hpvade_proportions_nnls"] = 0.5 * truth + 0.5 / 3
    >>> evaluate(bulk)["rmse_skill"].round(1).to_dict()
    {'hpvade_proportions': 0.9, 'nnls': 0.3, 'constant': 0.0}
    """
    predictions, truth = _aligned(bulk, truth_key, prediction_key, mapping, signature, renormalize, layer)
    true = truth.to_numpy()
    rows = [
        {
            "per_type_r": metrics.per_type_r(one, true),
            "rmse": metrics.rmse(one, true),
            "rmse_skill": metrics.rmse_skill(one, true),
            "ccc": metrics.ccc(one, true),
            "mae": metrics.mae(one, true),
            "sample_r": metrics.sample_r(one, true),
            "pooled_r": metrics.pooled_r(one, true),
        }
        for one in (prediction.to_numpy() for _, prediction in predictions)
    ]
    scores = pd.DataFrame(rows, index=pd.Index([name for name, _ in predictions], name="model"))
    scores.attrs = truth.attrs
    return scores


def evaluate_per_type(
    bulk: AnnData,
    truth_key: str = Keys.TRUE_PROPORTIONS,
    *,
    prediction_key: str | Sequence[str] = Keys.PROPORTIONS,
    mapping: Mapping[str, str] | None = None,
    signature: pd.DataFrame | None = None,
    renormalize: bool = True,
    layer: str | None = None,
) -> pd.DataFrame:
    """Score every type on its own; parameters and errors are those of :func:`hpvade.tl.evaluate`.

    Returns
    -------
    Rows (model, type), with "nnls" and "constant" last; columns ``r``, ``rmse``, ``ccc``, ``bias`` (mean of prediction
    minus truth), ``mean_truth`` and ``mean_predicted``. A correlation with a constant is NaN.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> bulk = ad.AnnData(np.ones((3, 1)))
    >>> truth = pd.DataFrame({"T": [0.2, 0.4, 0.6], "B": [0.8, 0.6, 0.4]}, index=bulk.obs_names)
    >>> bulk.obsm["proportions"] = bulk.obsm["hpvade_proportions"] = bulk.obsm["hpvade_proportions_nnls"] = truth
    >>> float(evaluate_per_type(bulk).loc[("hpvade_proportions", "T"), "mean_truth"].round(2))
    0.4
    """
    predictions, truth = _aligned(bulk, truth_key, prediction_key, mapping, signature, renormalize, layer)
    true = truth.to_numpy()
    tables = [
        pd.DataFrame(
            {
                "r": metrics.pearson(one, true, axis=0),
                "rmse": metrics.rmse(one, true, axis=0),
                "ccc": metrics.ccc(one, true, axis=0),
                "bias": metrics.bias(one, true, axis=0),
                "mean_truth": true.mean(axis=0),
                "mean_predicted": one.mean(axis=0),
            },
            index=pd.MultiIndex.from_product([[name], truth.columns], names=["model", "type"]),
        )
        for name, one in ((name, prediction.to_numpy()) for name, prediction in predictions)
    ]
    scores = pd.concat(tables)
    scores.attrs = truth.attrs
    return scores


def _aligned(
    bulk: AnnData,
    truth_key: str,
    prediction_key: str | Sequence[str],
    mapping: Mapping[str, str] | None,
    signature: pd.DataFrame | None,
    renormalize: bool,
    layer: str | None,
) -> tuple[list[tuple[str, pd.DataFrame]], pd.DataFrame]:
    """All predictions with "nnls" and "constant" behind them, and the truth, on one set of columns."""
    keys = [prediction_key] if isinstance(prediction_key, str) else list(prediction_key)
    measured = table(bulk, truth_key)
    mapping = mapping_of(bulk, truth_key, mapping)
    names, tables = [*keys, "nnls"], [*(table(bulk, key) for key in keys), _nnls(bulk, keys, signature, layer)]
    kept, predictions, truth = predicted(*tables), [], None
    measured = measured[measured.index.isin(kept[0].index) | ~measured.index.isin(tables[0].index)]  # named already
    for name, one in zip(names, kept, strict=True):
        one, aligned = compare(one, measured, mapping, renormalize)
        if truth is not None and not aligned.columns.equals(truth.columns):
            raise ValueError(
                f"The predictions cover different truth columns: {keys[0]!r} {listed(truth.columns, 30)}; "
                f"{name!r} {listed(aligned.columns, 30)}. Pass a mapping, or evaluate them one at a time."
            )
        predictions.append((name, one))
        truth = aligned if truth is None else truth
    constant = pd.DataFrame(metrics.constant(truth.to_numpy()), truth.index, truth.columns)
    return [*predictions, ("constant", constant)], truth


def _nnls(bulk: AnnData, keys: list[str], signature: pd.DataFrame | None, layer: str | None) -> pd.DataFrame:
    """NNLS proportions: those of `deconvolve` where there are any, else computed from `signature`."""
    stored = [Keys.nnls(key) for key in keys if Keys.nnls(key) in bulk.obsm]
    if stored:
        return table(bulk, stored[0])
    if signature is None:
        raise KeyError(
            f"The row 'nnls' needs bulk.obsm[{Keys.nnls(keys[0])!r}] or a signature. Run model.deconvolve(bulk), which "
            "writes it, or pass signature=model.get_signature_matrix()."
        )
    return _solve_nnls(bulk, signature, layer)


def _solve_nnls(bulk: AnnData, signature: pd.DataFrame, layer: str | None) -> pd.DataFrame:
    """Fractions of cells by NNLS of CPM on CPM; a coefficient over its type's counts per cell is a number of cells."""
    for names, what in ((bulk.var_names, "bulk"), (signature.index, "signature")):
        if names.has_duplicates:
            raise ValueError(
                f"The {what} has duplicated gene names: {listed(names[names.duplicated()].unique(), 3)}; expected each "
                "once. Sum them up with `hpvade.pp.map_genes`, or drop them."
            )
    genes = signature.index[signature.index.isin(bulk.var_names)]
    if len(genes) < signature.shape[1]:
        raise ValueError(
            f"Bulk and signature share {len(genes)} genes, fewer than the {signature.shape[1]} types. Do both use the "
            f"same gene names? Bulk: {listed(bulk.var_names, 3)}. Signature: {listed(signature.index, 3)}."
        )
    pick_matrix(bulk, layer, "bulk")  # says so where there is none
    expression, profiles = bulk[:, genes].to_df(layer).astype(float), signature.loc[genes].astype(float)
    if not ((expression >= 0) & np.isfinite(expression)).all(axis=None):
        where = "bulk.X" if layer is None else f"bulk.layers[{layer!r}]"
        raise ValueError(
            f"{where} has negative, NaN or infinite values; NNLS needs linear expression (counts, CPM, TPM)."
        )
    counts_per_cell = profiles.sum()
    if not (counts_per_cell > 0).all():
        raise ValueError(f"No shared gene is expressed in {listed(counts_per_cell.index[~(counts_per_cell > 0)])}.")
    import torch  # here, not at the top: evaluating stored proportions needs neither torch nor its import time

    from ..solvers import nnls

    coefficients = nnls(
        torch.tensor(1e6 * closed(expression).to_numpy()), torch.tensor(1e6 * (profiles / counts_per_cell).to_numpy())
    )
    return closed(pd.DataFrame(coefficients.numpy(), bulk.obs_names, signature.columns) / counts_per_cell)
