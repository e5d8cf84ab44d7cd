"""Differential expression of one modality: scvi-tools' test, on columns of its own that it may write to."""

from functools import cache
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pandas as pd
from mudata import MuData
from scvi.model.base import RNASeqMixin

from ...io._rows import iter_rows, read_rows
from .._differential import LEFT_BEHIND, DifferentialExpression, selected

_MODES = ("change", "vanilla")


class ModalityDifferential:
    """Differential expression of two groups of cells in one modality of the multimodal model."""

    def differential_expression(
        self,
        adata: MuData | None = None,
        groupby: str | None = None,
        group1=None,
        group2: str | None = None,
        idx1=None,
        idx2=None,
        *,
        modality: str | None = None,
        mode: Literal["change", "vanilla"] = "change",
        delta: float | None = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1=None,
        batchid2=None,
        fdr_target: float = 0.05,
        silent: bool = False,
        weights: Literal["uniform"] | None = "uniform",
        filter_outlier_cells: bool = False,
        **kwargs,
    ) -> pd.DataFrame:
        """Features of one modality that differ between two groups of cells: scvi-tools' Bayesian test.

        It compares samples of :meth:`get_normalized_expression`, which have neither ambient part nor technical factors,
        as `differential_expression` of :class:`hpvade.AmbientRegularizedSCVI` does; the same at every call. Cells
        that lack the modality are left out of both groups.

        Parameters
        ----------
        adata
            MuData with the cells; those of the model when None. It is not changed.
        groupby
            Column with the groups: of ``mdata.obs``, or of the modality's `obs` where that has none of this name.
        group1
            Groups to compare, a name or several; each one in turn when None.
        group2
            Group to compare them with; all other cells when None.
        idx1, idx2
            The cells in place of groups: positions, a mask, or a query of the columns; `idx2` all others when None.
        modality
            Which one; may be left out when the model has one only.
        mode
            "change": probability that the log2 fold change exceeds `delta`; "vanilla": that one group is higher.
        delta
            Least log2 fold change that counts as a difference; found from the data when None.
        batch_size
            Cells per pass.
        all_stats
            Also means and shares of non-zero counts of both groups.
        batch_correction
            Compare as if all cells came from the same batches; it matters with ``use_batch_in_decoder=True`` only.
        batchid1, batchid2
            With `batch_correction`: these batches; all when None.
        fdr_target
            Expected share of false discoveries among the features that ``is_de_fdr_{fdr_target}`` marks.
        silent
            No progress bar.
        weights
            Only ``"uniform"``.
        filter_outlier_cells
            Leave out cells far from their group in latent space. This, and `use_permutation`, draw from NumPy's global
            generator.
        **kwargs
            For :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`, such as `n_samples_overall`,
            `pseudocounts` and `test_mode`.

        Returns
        -------
        A row per feature and comparison, the most certain first. With ``mode="change"``: `proba_de`, `proba_not_de`,
        `bayes_factor`, `scale1` and `scale2` (mean shares in the groups), `lfc_mean`, `lfc_median`, `lfc_std` (log2
        of group 1 over group 2), ...; names of the groups in `comparison`, `group1`, `group2`.

        Raises
        ------
        KeyError
            `groupby` is a column of neither `obs`.
        ValueError
            The modality is unknown, or left out of several; nothing to compare; a group is unknown or has no cells
            with this modality; `mode` is unknown; batches are unknown, or given without `batch_correction`.
        NotImplementedError
            Other `weights`.

        Examples
        --------
        >>> table = model.differential_expression(
        ...     groupby="cell_type", group1="B", modality="atac"
        ... )  # doctest: +SKIP
        """
        name = self._modality(modality)
        if mode not in _MODES:
            raise ValueError(f"{mode=} is unknown; expected one of {list(_MODES)}.")
        if weights not in (None, "uniform"):
            raise NotImplementedError(f"weights={weights!r} is not offered; use weights='uniform'.")
        if not batch_correction and (batchid1 is not None or batchid2 is not None):
            raise ValueError(
                "batchid1 and batchid2 are read with batch_correction=True only. Add it, or leave them out."
            )
        mdata = self._validate_anndata(adata)
        self._check_if_trained(warn=False)
        one = _OneModality(self, name, mdata)
        return one.differential_expression(
            None,
            groupby,
            group1,
            group2,
            *(None if idx is None else selected(one.columns, idx)[one.cells] for idx in (idx1, idx2)),
            mode=mode,
            delta=delta,
            batch_size=batch_size,
            all_stats=all_stats,
            batch_correction=batch_correction,
            batchid1=_as_list(batchid1),
            batchid2=_as_list(batchid2),
            fdr_target=fdr_target,
            silent=silent,
            filter_outlier_cells=filter_outlier_cells,
            **kwargs,
        )


class _OneModality(DifferentialExpression, RNASeqMixin):
    """The cells that have a modality, as a model of it alone: what scvi-tools' test asks a model for, and no more.

    `cells` are their positions, `columns` the `obs` of all cells.
    """

    def __init__(self, model, name: str, mdata: MuData):
        self.model, self.name, self.mdata = model, name, mdata
        matrix, part = model._matrix(name, mdata), model._cells(name, mdata)
        totals = np.concatenate([np.ravel(block.sum(axis=1)) for _, block in iter_rows(matrix)])
        self.cells = np.flatnonzero(totals)
        own = [column for column in part.obs if column not in mdata.obs]
        self.columns = pd.concat([mdata.obs, part.obs[own]], axis=1).drop(columns=LEFT_BEHIND, errors="ignore")
        self._where = f"the obs of mdata and of {name!r}"
        self._where += ", cells with its counts" if len(self.cells) < mdata.n_obs else ""
        counts = cache(lambda: read_rows(matrix, self.cells))
        self.data = SimpleNamespace(
            obs=self.columns.iloc[self.cells].copy(),
            uns={},
            n_obs=len(self.cells),
            shape=(len(self.cells), part.n_vars),
            var_names=model._features(name),
        )
        self.manager = SimpleNamespace(
            adata=self.data,
            get_from_registry=lambda _: counts(),
            get_state_registry=model.get_anndata_manager(mdata, required=True).get_state_registry,
        )

    def _validate_anndata(self, adata=None):
        return self.data

    def get_anndata_manager(self, adata, required: bool = False):
        """The counts of the modality and the batches of the model."""
        return self.manager

    def get_normalized_expression(self, _, indices, transform_batch, n_samples_overall, batch_size=None, **kwargs):
        """Samples of the expression over cells (samples x features)."""
        options = {"batches": self.model._batch_codes(transform_batch), "batch_size": batch_size}
        return self.model._drawn_expression(self.name, self.mdata, self.cells[indices], n_samples_overall, **options)

    def get_latent_representation(self, _, indices):
        """Joint latent representation of cells (cells x latent)."""
        return self.model.get_latent_representation(self.mdata, self.cells[indices])


def _as_list(batches) -> list | None:
    return None if batches is None else [batches] if np.isscalar(batches) else list(batches)
