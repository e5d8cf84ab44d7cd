"""`HPVADE`: proportions of cell types in bulk samples, from a labelled single-cell reference.

Longer than other files for the docstrings of the public methods; the work is in the modules it calls.
"""

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import CategoricalObsField, LayerField, NumericalObsField
from scvi.model.base import UnsupervisedTrainingMixin

from ..._keys import Keys
from ...io._bulk import InputType, Missing, OnBadSample
from ...io._frames import as_bulk
from ...io._modalities import one_modality
from ...io._names import rows_of, writable
from ...io._rows import load_obs, use_sparse_matrix
from ...reference._cell_size import cell_sizes
from ...reference._checks import check_reference
from ...reference._labels import warn_of_labels
from ...reference._simulate import simulate_from_cells
from ...solvers import robust
from ...train._runner import ResumableTrainRunner
from .._base import BaseModel
from .._vae import VAEMethods
from ._calibration import CalibrationMethods
from ._cell_expression import CellExpressionMethods
from ._dask import deconvolve
from ._detection import DetectionMethods
from ._estimate import PRIOR_WEIGHT
from ._expression import ExpressionMethods
from ._hierarchy import HierarchyMethods
from ._intervals import IntervalMethods
from ._literal_module import LiteralModule
from ._options import module_options
from ._plan import TwoStreamPlan
from ._platform import PlatformMethods
from ._scvi_module import HPVADEModule
from ._splitter import TwoStreamSplitter
from ._study_methods import StudyMethods
from ._training import N_CELLS, STUDY, TrainMethods
from ._variable_profiles import VariableMethods


class HPVADE(
    VAEMethods,
    IntervalMethods,
    ExpressionMethods,
    CellExpressionMethods,
    HierarchyMethods,
    CalibrationMethods,
    DetectionMethods,
    PlatformMethods,
    StudyMethods,
    TrainMethods,
    VariableMethods,
    UnsupervisedTrainingMixin,
    BaseModel,
):
    """Cell-type proportions of bulk RNA-seq from a labelled single-cell reference.

    Two streams are learned together: a variational autoencoder of the cells, and a network that reads proportions
    from bulk simulated from them. A signature matrix ties the two. `deconvolve` then combines the network with a
    robust regression of the bulk on the learned signature. See the user guide for the model.

    Parameters
    ----------
    adata
        Reference, cells x genes, after :meth:`setup_anndata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    preset
        ``"default"``: the best configuration measured; ``"spec"``: the literal specification (`HP_VADE` on log1p
        cp10k, answers by its network alone), for comparison.
    n_genes
        Genes that the networks see, the ones that tell the types apart best. The signature covers all genes.
    cell_size
        RNA content per cell of each type, which turns fractions of RNA into fractions of cells: ``"pooled"`` (UMI
        counts of the reference; for bulk of another platform pooled with the published tables of EPIC, quanTIseq and
        ABIS). The others are used for any bulk: ``"umi"``, one of the tables ``"epic"``, ``"quantiseq"``, ``"abis"``,
        None (equal), or a dict ``{type: size}``.
    **options
        Sizes (`n_hidden`, `n_latent`, `n_layers`), `dropout_rate`, `gene_dropout` and loss weights (`lambda_*`) of
        the module; the ones of :class:`hpvade.HP_VADE` with ``preset="spec"``.

    Raises
    ------
    ValueError, TypeError
        An option is unknown or out of range; the error lists the choices.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata, bulk = hp.datasets.pbmc_reference(), hp.datasets.pbmc_bulk()
    >>> hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
    >>> model = hp.HPVADE(adata)
    >>> model.train(accelerator="cpu")  # doctest: +SKIP
    >>> model.deconvolve(bulk)  # doctest: +SKIP
    """

    _data_splitter_cls = TwoStreamSplitter
    _training_plan_cls = TwoStreamPlan
    _train_runner_cls = ResumableTrainRunner

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        preset: Literal["default", "spec"] = "default",
        n_genes: int = 2000,
        cell_size: str | dict[str, float] | None = "pooled",
        **options,
    ):
        super().__init__(adata, registry)
        settings = module_options(preset, options)
        if not isinstance(n_genes, int) or n_genes < 2:
            raise ValueError(f"n_genes={n_genes!r}; expected a whole number of at least 2.")
        cell_sizes(self.cell_types, np.ones(len(self.cell_types)), cell_size)  # refuses bad sizes before training
        stats = self.summary_stats
        module_cls = HPVADEModule if preset == "default" else LiteralModule
        sizes = stats.n_vars, min(n_genes, stats.n_vars), stats.n_labels, stats.n_batch, max(len(self.studies), 1)
        self.module = module_cls(*sizes, **settings)
        self.preset, self.cell_size = preset, cell_size
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str,
        *,
        layer: str | None = None,
        batch_key: str | None = None,
        sample_key: str | None = None,
        study_key: str | None = None,
        n_cells_key: str | None = None,
        modality: str | None = None,
        **kwargs,
    ) -> None:
        """Register the reference. Checks everything first; on an error `adata` is unchanged.

        Parameters
        ----------
        adata
            Cells x genes with raw counts and unique gene names; in memory, backed, lazily read or of Dask arrays. A
            MuData with `modality`.
        labels_key
            Column of `adata.obs` with the cell type of each cell.
        layer
            Layer with the counts; `adata.X` when None.
        batch_key
            Column with batches, which the decoder of the cells is told.
        sample_key
            Column with donors: signatures are averaged over them, and with three or more whole donors are held out.
            The batches when None.
        study_key
            Column with studies, where cells come from several. Each has a signature of its own: genes that it lacks
            (all zero, as an outer join leaves them) are masked, types that it lacks come from the others. Bulk is
            solved once with each, and the answers are averaged; see :meth:`get_study_proportions`.
        n_cells_key
            Column with the number of cells that each row sums up, where rows are sums (:func:`hpvade.pp.summarize`).
            Everything but the networks works with sums.
        modality
            Of a MuData: the modality to use. ``model.adata`` is this AnnData; columns that it lacks are taken from
            ``mdata.obs``, into its obs. The model is then made, and loaded, with the MuData or with the modality.
        **kwargs
            `source_registry`, when :meth:`load` repeats a setup.

        Raises
        ------
        KeyError
            A column or layer is absent.
        ValueError
            Labels are missing, of one type only, or ambiguous; a type has fewer than two cells; values are negative,
            not finite, logged or all zero; genes are duplicated; `adata` is a view or empty; a study has one type;
            numbers of cells are no whole numbers above zero, or mostly one.

        Examples
        --------
        >>> import hpvade as hp
        >>> adata = hp.datasets.pbmc_reference()
        >>> hp.HPVADE.setup_anndata(adata, labels_key="cell_type", sample_key="donor")
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        columns = (labels_key, batch_key, sample_key, study_key, n_cells_key)
        with one_modality(adata, modality, columns) as adata:
            check_reference(
                adata,
                labels_key,
                layer=layer,
                batch_key=batch_key,
                sample_key=sample_key,
                study_key=study_key,
                n_cells_key=n_cells_key,
            )
            if "source_registry" not in kwargs and n_cells_key is None:  # load repeats a setup; sums are no cells
                warn_of_labels(adata, labels_key, layer)
            use_sparse_matrix(adata, layer)
            load_obs(adata)
            fields = [
                LayerField(REGISTRY_KEYS.X_KEY, layer, is_count_data=True),
                CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, batch_key),
                CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, labels_key),
                CategoricalObsField(REGISTRY_KEYS.SAMPLE_KEY, batch_key if sample_key is None else sample_key),
            ]
            if study_key is not None:
                fields.append(CategoricalObsField(STUDY, study_key))
            if n_cells_key is not None:
                fields.append(NumericalObsField(N_CELLS, n_cells_key))
            with warnings.catch_warnings():
                if n_cells_key is not None:  # of rows, of which a type may have one
                    warnings.filterwarnings("ignore", message=r"Category \S+ in .* has fewer than 3 cells")
                cls._register(adata, fields, setup_method_args, **kwargs)

    @property
    def cell_types(self) -> list[str]:
        """Names of the cell types, in the order of every result."""
        states = self.registry["field_registries"][REGISTRY_KEYS.LABELS_KEY]["state_registry"]
        return [str(name) for name in states["categorical_mapping"]]

    @property
    def studies(self) -> list[str]:
        """Names of the studies of the reference; none where `study_key` was not given or named one study."""
        field = self.registry["field_registries"].get(STUDY)
        names = [] if field is None else [str(name) for name in field["state_registry"]["categorical_mapping"]]
        return names if len(names) > 1 else []

    def deconvolve(
        self,
        bulk_adata: AnnData,
        *,
        layer: str | None = None,
        input_type: InputType = "auto",
        missing: Missing = "mean",
        fractions: Literal["cell", "rna"] = "cell",
        key_added: str = Keys.PROPORTIONS,
        refine: bool = True,
        unknown: bool = False,
        prior: str | Mapping[str, float] | pd.DataFrame = "equal",
        prior_weight: float = PRIOR_WEIGHT,
        solver_kwargs: dict | None = None,
        batch_size: int | None = None,
        gene_length_key: str | None = None,
        baseline: bool = True,
        batch_key: str | None = None,
        on_bad_sample: OnBadSample = "raise",
        gene_factor: Literal["cohort", "stored"] = "cohort",
        map_genes: bool = False,
        variable_types: Sequence[str] | None = None,
        modality: str | None = None,
    ) -> pd.DataFrame:
        """Estimate the proportions of the cell types in bulk samples.

        Robust regression on the learned signature, over the genes that tell each pair of types apart. The cohort shares
        a gene factor and gene weights (two samples or more have them). Genes are aligned by name.

        Parameters
        ----------
        bulk_adata
            Samples x genes, linear scale: counts, CPM, TPM or FPKM, in any gene order; an AnnData, a MuData with
            `modality`, or a DataFrame, to which nothing is written. A cohort in a Dask array is
            solved block by block on the scheduler that is connected, with the same answers; see the guide to scale.
        layer
            Layer with the values; `bulk_adata.X` when None.
        input_type
            ``"auto"`` tells counts from linear normalised values and refuses logged ones; ``"counts"``, ``"cpm"``,
            ``"tpm"``, ``"fpkm"`` are taken as linear; ``"log1p"`` and ``"log2"`` are undone.
        missing
            Genes of the model that the bulk lacks: left out with a warning that names the pairs of types that suffer
            (``"mean"``), taken as zero expression (``"zero"``) or refused (``"error"``). It is an error in any case
            when most pairs of types have less than three genes' worth of information left. With ``"mean"``, genes
            without a read in any sample, though every type of the reference expects many, count as missing, too.
        fractions
            ``"cell"``: fractions of cells; ``"rna"``: fractions of RNA.
        key_added
            `bulk_adata.obsm` key of the result.
        refine
            False returns the network's answer alone, several times faster; benchmarks/RESULTS.md has the figures.
        unknown
            Also estimate the share of RNA that no type of the reference explains, from how the samples differ (six or
            more); see :func:`hpvade.solvers.unknown_component`. It becomes the column ``"unknown"``, of cells as if
            they held as much RNA as the sample's others, and its profile (counts per million) goes to
            ``bulk_adata.varm[key_added + "_unknown"]``. What makes up the same part of all samples is not seen.
        prior
            Fractions of cells that the regression is drawn to: ``"equal"`` ones, the answer of the ``"network"``, a
            dict ``{type: fraction}``, or a table (samples x types).
        prior_weight
            How strongly: a normal prior on each fraction with standard deviation 1 / sqrt(weight * number of genes
            fitted), 0.16 by default with 400 genes. It decides what the genes leave open beside their own scatter.
        solver_kwargs
            Options of the regression, see :func:`hpvade.solvers.robust`, such as ``{"gene_factor": False}``.
        batch_size
            Samples per pass of the network; 256 when None.
        gene_length_key
            Column of `bulk_adata.var` with gene lengths in bases, to divide full-length counts by.
        baseline
            Also solve by plain NNLS, which :func:`hpvade.tl.evaluate` prints beside the answer.
        batch_key
            Column of `bulk_adata.obs`: each batch is a cohort of its own, with its genes, gene factor and weights.
            Without it, groups of samples that lack the same genes are found, as a join of two cohorts leaves them.
        on_bad_sample
            Samples without expression, or with NaN, infinite or negative values: an error that names them all
            (``"raise"``), or rows of NaN and a warning (``"skip"``). Samples that look logged among linear ones are
            skipped with a warning either way; a linear `input_type` overrules that.
        gene_factor
            ``"cohort"``: what these samples share; ``"stored"``: what :meth:`fit_platform` learned from another cohort
            of the platform, for one sample or a few.
        variable_types
            Types whose cells differ from sample to sample more than the reference can show, such as malignant cells:
            each sample has a profile of its own for them, so that the other types do not pay for the difference. How
            much they differ is found in the cohort and kept in ``uns[key_added]["variation"]``; nothing changes where
            they do not. See :func:`hpvade.solvers.robust_variable`, and :meth:`get_variable_profiles` for the profiles.
        map_genes
            Read the bulk under the reference's names of genes, as :func:`hpvade.pp.map_genes` translates them (Ensembl
            ids, previous symbols, dates of Excel; names of one gene are added up). What was translated is in
            ``bulk_adata.uns["hpvade_gene_map"]``; its own names stay.
        modality
            Of a MuData: the modality to read, to which the results are written. All other functions take
            ``mdata[modality]``.

        Returns
        -------
        Samples x types, rows sum to one; NaN for samples that were skipped. The same table is written to
        ``bulk_adata.obsm[key_added]``, fractions of RNA to ``obsm[key_added + "_rna"]``, the NNLS baseline to
        ``obsm[key_added + "_nnls"]``, and how they were made to ``bulk_adata.uns[key_added]``, with a table
        ``"skipped"`` of samples and tables ``"batches"`` and ``"batch_of"`` where there are any.

        Raises
        ------
        RuntimeError
            The model is not trained.
        TypeError
            `variable_types` is a text.
        ValueError, KeyError
            `variable_types` names all types or one that is not there, or is given with ``unknown=True`` or without the
            regression. The bulk is logged, transposed, empty, tells too few types apart, or has bad samples; an option
            is unknown. `bulk_adata` is then unchanged.

        Warns
        -----
        UserWarning
            Genes are missing or were filled with zeros; samples are skipped; samples have too few reads to say more
            than equal parts of all types would.
        """
        with one_modality(bulk_adata, modality, [batch_key], "The bulk", frame=True) as bulk_adata:
            return deconvolve(
                self,
                bulk_adata,
                layer=layer,
                input_type=input_type,
                missing=missing,
                fractions=fractions,
                key_added=key_added,
                refine=refine,
                unknown=unknown,
                prior=prior,
                prior_weight=prior_weight,
                solver_kwargs=_solver_options(solver_kwargs),
                batch_size=batch_size or 256,
                gene_length_key=gene_length_key,
                baseline=baseline,
                batch_key=batch_key,
                on_bad_sample=on_bad_sample,
                gene_factor=gene_factor,
                variable_types=variable_types,
                map_genes=map_genes,
            )

    def evaluate(
        self, bulk_adata: AnnData, truth: str | pd.DataFrame = Keys.TRUE_PROPORTIONS, **kwargs
    ) -> pd.DataFrame:
        """Compare :meth:`deconvolve` with the truth, beside NNLS and the constant predictor; `bulk_adata` is unchanged.

        Parameters
        ----------
        bulk_adata
            Bulk samples.
        truth
            Fractions of cells (samples x types), or their key in `bulk_adata.obsm`.
        **kwargs
            For :meth:`deconvolve`.

        Returns
        -------
        One row per predictor, as `hpvade.tl.evaluate`.
        """
        from ...evaluation._evaluate import evaluate

        scratch = as_bulk(bulk_adata).copy()
        key = truth if isinstance(truth, str) else Keys.TRUE_PROPORTIONS
        if not isinstance(truth, str):
            scratch.obsm[key] = truth.iloc[rows_of(truth, scratch.obs_names, "truth")]
        self.deconvolve(scratch, **kwargs)
        return evaluate(scratch, key, prediction_key=kwargs.get("key_added", Keys.PROPORTIONS))

    def get_signature_matrix(self, *, normalize: Literal["cpm"] | None = None) -> pd.DataFrame:
        """Learned signatures (genes x types): mean counts per cell, or counts per million with ``normalize="cpm"``.

        With ``preset="spec"`` the literal matrix in log1p cp10k, NaN for genes that the model does not use.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            `normalize` is unknown, or asked for with ``preset="spec"``.
        """
        self._require_trained("get_signature_matrix")
        if normalize not in (None, "cpm"):
            raise ValueError(f"normalize={normalize!r} is unknown; expected None or 'cpm'.")
        if normalize and self.preset == "spec":
            raise ValueError("the literal signature is in log1p cp10k; expected normalize=None.")
        matrix = self.module.signature().detach().cpu().numpy()
        if normalize == "cpm":
            matrix = matrix / matrix.sum(axis=0) * 1e6
        return pd.DataFrame(matrix, index=pd.Index(self.get_var_names()), columns=self.cell_types)

    def simulate_bulk(
        self,
        n_samples: int,
        *,
        n_cells: int = 1000,
        alpha: float = 1.0,
        sparse: float = 0.0,
        seed: int | None = None,
        indices: np.ndarray | None = None,
    ) -> AnnData:
        """Simulate bulk from the reference, or from some of its cells; see `hpvade.pp.simulate_bulk`.

        Parameters
        ----------
        n_samples, n_cells, alpha, sparse, seed
            See `hpvade.pp.simulate_bulk`.
        indices
            Cells to draw from, such as `model.validation_indices`; all when None.

        Raises
        ------
        ValueError
            The model was loaded without data; a number is out of range.
        """
        self._require_data()
        return simulate_from_cells(
            self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY),
            self._codes(REGISTRY_KEYS.LABELS_KEY),
            self._codes(REGISTRY_KEYS.SAMPLE_KEY),
            self.cell_types,
            self.adata.var_names,
            n_samples,
            n_cells=n_cells,
            alpha=alpha,
            sparse_share=sparse,
            seed=seed,
            indices=indices,
        )

    def _write_signatures(self) -> None:
        """Keep the signatures beside the genes of the reference, as after training, so after loading."""
        if self.adata is not None and self.is_trained_:
            self.adata.varm[Keys.SIGNATURES] = writable(self.get_signature_matrix().set_axis(self.adata.var_names))

    _loaded = _write_signatures

    def _make_data_loader(self, *args, **kwargs):
        """Minibatches of cells, which only the networks read."""
        if self.is_trained_:
            self._require_networks("what is read from cells, such as the latent space,")
        return super()._make_data_loader(*args, **kwargs)

    def _require_networks(self, what: str) -> None:
        """Raise RuntimeError when training had no step."""
        self._require_trained(what)
        if not self.module.network_trained and N_CELLS in self.registry["field_registries"]:
            raise RuntimeError(
                f"{what} needs the networks, which learn from single cells; the rows of this reference are sums of "
                "cells (n_cells_key)."
            )
        if not self.module.network_trained:
            raise RuntimeError(
                f"{what} needs the networks, which train(max_epochs=0) left as they were. Call `model.train()` first."
            )

    def _codes(self, key: str) -> np.ndarray:
        return self.adata_manager.get_from_registry(key).ravel().astype(np.int64)

    def _batch_code(self, name: str) -> int:
        states = self.registry["field_registries"][REGISTRY_KEYS.BATCH_KEY]["state_registry"]
        names = [str(value) for value in states["categorical_mapping"]]
        if str(name) not in names:
            raise ValueError(f"transform_batch={name!r} is not a batch; expected one of {names}.")
        return names.index(str(name))


_SOLVER_OPTIONS = [
    name
    for name in signature(robust).parameters
    if name not in ("bulk", "signature", "depth", "anchor", "anchor_weight", "covariance")
]


def _solver_options(given: dict | None) -> dict:
    if unknown := sorted((given or {}).keys() - set(_SOLVER_OPTIONS)):
        raise TypeError(f"solver_kwargs has unknown options {unknown}; expected some of {_SOLVER_OPTIONS}.")
    return given or {}
