"""Correct the level of each cell type with a few samples whose composition was measured."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ...io._frames import as_bulk
from ._estimate import estimate

MIN_SAMPLES = 5
FLOOR = 0.005  # added to fractions before logs: half a per cent is about what a count of cells can tell from none
TOLERANCE = 1e-4  # a fall of the error below it is rounding, not level
PENALTIES = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


@dataclass(frozen=True)
class Offsets:
    """What `fit_offsets` found.

    Attributes
    ----------
    offset
        (columns,): c, the log factor of each column.
    penalty
        The ridge penalty, in samples.
    log_ratio
        (samples x columns): measured over predicted, see `log_ratios`.
    before, after
        (samples x columns): predictions without offsets, and with those of all other samples.
    """

    offset: np.ndarray
    penalty: float
    log_ratio: np.ndarray
    before: np.ndarray
    after: np.ndarray


def log_ratios(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Log of measured over predicted fractions (samples x columns), minus its mean over the columns."""
    ratio = np.log(truth + FLOOR) - np.log(predicted + FLOOR)
    return ratio - ratio.mean(axis=1, keepdims=True)


def fit_offsets(predicted: np.ndarray, truth: np.ndarray) -> Offsets:
    r"""Find offsets c with :math:`p \propto \hat p\, e^{c}` by ridge regression of the log ratios.

    The design is one constant per column, so that ridge regression is the mean times n / (n + penalty). The penalty
    has the smallest leave-one-out error of the fractions; the predictions in `Offsets.after` choose it anew without
    the sample they are for, so that their error is not flattered by the choice.

    Parameters
    ----------
    predicted, truth
        (samples x columns), rows sum to one.

    Examples
    --------
    >>> import numpy as np
    >>> predicted = np.array([[0.5, 0.5], [0.4, 0.6], [0.6, 0.4]])
    >>> truth = predicted * [2, 1] / (predicted * [2, 1]).sum(axis=1, keepdims=True)
    >>> fit_offsets(predicted, truth).offset.round(2)
    array([ 0.34, -0.34])
    """
    ratio = log_ratios(predicted, truth)
    after = np.empty_like(predicted)
    for i in range(len(predicted)):
        others = np.arange(len(predicted)) != i
        penalty = _penalty(predicted[others], truth[others], ratio[others])
        after[i] = _apply(predicted[i], ratio[others].sum(axis=0) / (others.sum() + penalty))
    penalty = _penalty(predicted, truth, ratio)
    return Offsets(ratio.sum(axis=0) / (len(ratio) + penalty), penalty, ratio, predicted, after)


class CalibrationMethods:
    """Few-shot calibration; needs ``cell_types``, ``module.size_offset`` and ``_require_trained`` of `HPVADE`."""

    def calibrate(
        self,
        bulk_adata: AnnData,
        proportions: str | pd.DataFrame,
        *,
        mapping: Mapping[str, str] | None = None,
        **kwargs,
    ) -> pd.DataFrame:
        r"""Correct the level of each type with samples of known composition; later answers use it.

        For sample n and column k of the truth, :math:`d_{nk} = \log(t_{nk} + \epsilon) - \log(\hat p_{nk} + \epsilon)`
        minus its mean over the columns, with :math:`\epsilon` = 0.005. The offsets are
        :math:`c_k = \sum_n d_{nk} / (n + \lambda)`, and every later :meth:`deconvolve` gives fractions of cells
        proportional to :math:`\hat p_k e^{c_k}`: the RNA per cell of type k is divided by :math:`e^{c_k}`. Fractions
        of RNA do not change. The penalty :math:`\lambda` is chosen by leave-one-out, whose error is returned.

        The offsets belong to one protocol and tissue and to one way of measuring the truth. They are saved with the
        model; :meth:`remove_calibration` takes them back, and another call replaces them.

        Parameters
        ----------
        bulk_adata
            Bulk samples, as for :meth:`deconvolve`. Those without a measured composition help to find the platform's
            gene factor. Unchanged.
        proportions
            Measured fractions of cells (samples x columns) of five samples or more, named as in `bulk_adata`; or their
            key in ``bulk_adata.obsm``. Rows are scaled to sum to one over the columns in use.
        mapping
            Which column each type counts towards, ``{type: column}``; types of one column share its offset. Types that
            are not named keep an offset of zero; columns that are not named are left out. None takes
            ``bulk_adata.uns[proportions + "_mapping"]`` where it exists, else equal names, and then every column must
            be the name of a type.
        **kwargs
            How to read the bulk, as in :meth:`deconvolve`: `layer`, `input_type`, `missing`, `gene_length_key`,
            `refine`, `batch_size`, `solver_kwargs`.

        Returns
        -------
        One row per column and a last one, ``"all"``: ``offset`` (c), ``size_factor`` (what the RNA per cell is
        multiplied by), ``same_sign`` (share of samples that ask for an offset of this sign), ``rmse_before`` and
        ``rmse_after`` (leave-one-out: each sample is predicted with the offsets and the penalty of the others).
        ``.attrs`` holds ``penalty`` and ``n_samples``.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, TypeError
            There is no such table, or it is not a DataFrame.
        ValueError
            Fewer than five samples; samples that the bulk does not have; names that do not match; fractions that are
            negative, not finite or all zero; the leave-one-out error does not fall by more than its standard error,
            since samples contradict each other or nothing is wrong. The model then stays as it was. All errors of
            :meth:`deconvolve` about the bulk.

        Examples
        --------
        >>> model.calibrate(bulk, truth.iloc[:6], mapping={"CD4 T": "T", "CD8 T": "T", "B": "B"})  # doctest: +SKIP
        """
        from ...evaluation._align import compare

        self._require_trained("calibrate")
        bulk_adata = as_bulk(bulk_adata)
        measured, mapping = _measured(bulk_adata, proportions, mapping, self.cell_types)
        earlier = self.module.size_offset.clone()
        self.module.size_offset.zero_()  # a new calibration does not build on an earlier one
        try:
            found = estimate(self, bulk_adata, **kwargs)
        finally:
            self.module.size_offset.copy_(earlier)
        cells = self.module.rna_to_cells(found.rna, found.sizes).double().cpu().numpy()
        table = pd.DataFrame(cells, index=found.bulk.obs_names.astype(str), columns=self.cell_types)
        predicted, truth = compare(table[table.index.isin(measured.index)], measured, mapping)
        fitted = fit_offsets(predicted.to_numpy(), truth.to_numpy())
        _refuse_contradiction(fitted, truth)
        column = (
            {name: name for name in truth.columns} if mapping is None else {str(k): str(v) for k, v in mapping.items()}
        )
        offset = dict(zip(truth.columns, fitted.offset, strict=True))
        self.module.size_offset.copy_(torch.tensor([offset.get(column.get(name), 0.0) for name in self.cell_types]))
        return _report(fitted, truth)

    def remove_calibration(self) -> None:
        """Forget the offsets of :meth:`calibrate`: answers are as before it."""
        self.module.size_offset.zero_()


def _measured(bulk: AnnData, proportions, mapping, types: list[str]) -> tuple[pd.DataFrame, Mapping | None]:
    """The measured composition and the mapping, checked as far as it is possible without a prediction."""
    from ..._text import listed
    from ...evaluation._align import mapping_of, table
    from ...io._names import named

    if isinstance(proportions, str):
        mapping, proportions = mapping_of(bulk, proportions, mapping), table(bulk, proportions)
    if not isinstance(proportions, pd.DataFrame):
        raise TypeError(
            f"proportions is a {type(proportions).__name__}; expected a DataFrame (samples x types) or a key of obsm."
        )
    proportions = named(proportions)  # tables of ours that are stored have look-alikes of some names
    measured = proportions.set_axis(proportions.index.astype(str)).set_axis(proportions.columns.astype(str), axis=1)
    absent = measured.index[~measured.index.isin(bulk.obs_names.astype(str))]
    if len(absent):
        raise ValueError(
            f"{len(absent)} samples of the measured proportions are not in the bulk: {listed(absent)}. The bulk has "
            f"{listed(bulk.obs_names)}. Name the rows as in bulk.obs_names."
        )
    if len(measured) < MIN_SAMPLES:
        raise ValueError(
            f"{len(measured)} samples have a measured composition; expected at least {MIN_SAMPLES}. With fewer, an "
            "offset is mostly the error of single samples. Measure more, or leave the model as it is."
        )
    unmapped = [name for name in measured.columns if name not in types]
    if mapping is None and unmapped:
        raise ValueError(
            f"{len(unmapped)} columns of the measured proportions are not names of types: {listed(unmapped, 30)}. "
            f"Types without a column: {listed([name for name in types if name not in measured], 30)}. Pass "
            "mapping={type: column}; several types may share a column, and what it does not name is left out."
        )
    negative = measured.lt(0) if all(map(pd.api.types.is_numeric_dtype, measured.dtypes)) else None
    if negative is None:
        raise ValueError("the measured proportions hold values that are not numbers; expected fractions of cells.")
    if negative.any(axis=None):
        row, column = np.argwhere(negative.to_numpy())[0]
        raise ValueError(
            f"the measured proportion of {measured.columns[column]!r} in sample {measured.index[row]!r} is "
            f"{measured.iat[row, column]:g}; expected fractions of at least 0. Correct or leave out the sample."
        )
    return measured, mapping


def _report(fitted: Offsets, truth: pd.DataFrame) -> pd.DataFrame:
    """The table that `calibrate` returns."""
    before, after = ((x - truth.to_numpy()) ** 2 for x in (fitted.before, fitted.after))
    agree = np.sign(fitted.log_ratio) == np.sign(fitted.offset)
    report = pd.DataFrame(
        {
            "offset": fitted.offset,
            "size_factor": np.exp(-fitted.offset),
            "same_sign": agree.mean(axis=0),
            "rmse_before": np.sqrt(before.mean(axis=0)),
            "rmse_after": np.sqrt(after.mean(axis=0)),
        },
        index=truth.columns,
    )
    total = {"rmse_before": np.sqrt(before.mean()), "rmse_after": np.sqrt(after.mean())}
    report = pd.concat([report, pd.DataFrame(total, index=["all"])])
    report.attrs = {"penalty": fitted.penalty, "n_samples": len(truth)}
    return report


def _refuse_contradiction(fitted: Offsets, truth: pd.DataFrame) -> None:
    """ValueError unless the leave-one-out error falls by more than its standard error over samples."""
    before, after = ((x - truth.to_numpy()) ** 2 for x in (fitted.before, fitted.after))
    gain = (before - after).mean(axis=1)
    fall = np.sqrt(before.mean()) - np.sqrt(after.mean())
    if fall > TOLERANCE and gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)):
        return
    spread = pd.Series(np.ptp(fitted.log_ratio, axis=0), index=truth.columns)
    worst = spread.idxmax()
    values = fitted.log_ratio[:, truth.columns.get_loc(worst)]
    raise ValueError(
        "offsets of the other samples do not bring samples reliably nearer to their measured composition: leave-one-"
        f"out RMSE {np.sqrt(before.mean()):.3f} without and {np.sqrt(after.mean()):.3f} with them, better in "
        f"{(gain > 0).sum()} of {len(gain)} samples. Nothing was stored. Either the levels are right already, or the "
        f"samples contradict each other: those of {worst!r} ask for factors from {np.exp(values.min()):.2f} "
        f"({truth.index[values.argmin()]!r}) to {np.exp(values.max()):.2f} ({truth.index[values.argmax()]!r}). Check "
        "the names of samples and columns, leave out what was measured differently, or measure more samples."
    )


def _apply(predicted: np.ndarray, offset: np.ndarray) -> np.ndarray:
    scaled = predicted * np.exp(offset)
    return scaled / np.maximum(scaled.sum(axis=-1, keepdims=True), 1e-300)


def _penalty(predicted: np.ndarray, truth: np.ndarray, ratio: np.ndarray) -> float:
    """The penalty with the smallest leave-one-out error of the fractions; the larger one where they tie."""
    rest = ratio.sum(axis=0) - ratio
    errors = [
        np.square(_apply(predicted, rest / (len(ratio) - 1 + penalty)) - truth).mean() for penalty in PENALTIES[::-1]
    ]
    return PENALTIES[::-1][int(np.argmin(errors))]
