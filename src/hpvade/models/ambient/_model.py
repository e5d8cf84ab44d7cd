"""`AmbientRegularizedSCVI`: single-cell RNA with ambient background, dispersion prior and learned library size."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.model.base import RNASeqMixin

from ...io._modalities import one_modality
from ...io._positions import cell_positions
from ...io._rows import use_sparse_matrix
from .._differential import DifferentialExpression
from ._covariates import resolve_keys
from ._face import RegularizedFace, fixed_draws
from ._module import RegularizedVAE
from ._options import ambient_options, warn_of_large_library_encoder
from ._setup import (
    anndata_fields,
    check_cells,
    check_technical,
    read_layout,
    remember_technical,
)
from ._shared_module import X
from ._umap import write_umap

_NAME = "rna"


class AmbientRegularizedSCVI(DifferentialExpression, RNASeqMixin, RegularizedFace):
    """Single-cell RNA with ambient background, a prior on dispersion, learned library size and a batch-free decoder.

    The expected count of gene g in cell n is ``exp(library_n) * (rho_g(z_n) + s_ng) * y_ng``: what the decoder says of
    the cell, plus the ambient background of its batch, times technical factors. See the user guide for the model.

    Parameters
    ----------
    adata
        Cells x genes, after :meth:`setup_anndata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    **options
        Networks: `n_hidden` (128), `n_latent` (10), `n_layers` (1), `dropout_rate` (0.1), `use_batch_norm` ("none"),
        `use_layer_norm` ("both"), `encoder_input` ("library_normalized", or "log1p"), `use_batch_in_decoder` (False).
        512 and 128 suit atlases.

        Dispersion: `dispersion` ("gene-batch", or "gene"), `regularise_dispersion` (True),
        `dispersion_hyper_prior_mean` (1/3), `dispersion_hyper_prior_alpha` (9), `dispersion_prior_direction`
        ("inverse_sqrt", or "sqrt"), `dispersion_init` ("prior", or "data" with `dispersion_init_bio_frac`,
        `dispersion_init_theta_min`, `dispersion_init_theta_max`), `px_r_init_mean` and `px_r_init_std` (of log theta).

        Ambient: `use_additive_background` (True), `bg_init_gene_fraction` (0.2; None starts at the prior),
        `additive_bg_init_mean` and `additive_bg_init_std` (of the log background), `regularise_background` (False) with
        `additive_bg_prior_alpha` (1) and `additive_bg_prior_beta` (100).

        Library: `residual_library_encoder` (True), `library_n_hidden` (16), `library_log_vars_weight` (0.5),
        `library_log_means_centering_sensitivity` (None), `library_obs_w_prior_rate` (1).

        Scaling and decoder: `use_feature_scaling` (True), `feature_scaling_prior_alpha` and `..._beta` (200),
        `decoder_weight_l2` (0.1), `decoder_cov_weight_l2` (0), `init_decoder_bias` ("mean", "topN" or None),
        `decoder_bias_multiplier` (None), `compute_pearson` (False).

        Optional penalties, all off: `z_sparsity_prior` ("gamma") with `n_active_latent_per_cell` (20),
        `hidden_activation_sparsity` with `n_active_hidden_per_cell` (40), `decoder_hidden_l1`,
        `use_ard_z_sigma_scale`; `use_kl_z` (True).

        `gene_likelihood` is "gamma_poisson" (also called "nb"), `latent_distribution` "normal", `scale_activation`
        "softplus"; others are refused.

    Raises
    ------
    TypeError
        An option is unknown, or text is given for a bool.
    ValueError
        A value is not offered; the error lists the choices.

    Warns
    -----
    UserWarning
        `library_n_hidden` is above 32: a strong library encoder explains expression.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.planted_cohort(n_cells=200, n_genes=100)[0]
    >>> hp.AmbientRegularizedSCVI.setup_anndata(adata, batch_key="batch")
    >>> model = hp.AmbientRegularizedSCVI(adata, n_latent=5)
    >>> model.train(accelerator="cpu")  # doctest: +SKIP
    >>> clean = model.get_clean_reference()  # doctest: +SKIP
    """

    _module_cls = RegularizedVAE

    def __init__(self, adata: AnnData | None = None, registry: dict | None = None, **options):
        super().__init__(adata, registry)
        settings = ambient_options(options)
        warn_of_large_library_encoder(settings)
        states = self.registry["field_registries"][X]["state_registry"]
        layout = read_layout(self.registry, {_NAME: int(states["n_vars"])}, int(states["n_obs"]))
        self.module = RegularizedVAE(layout, settings)
        if adata is not None:
            self._start_from_data(options)
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        nn_conditioning_covariate_keys: Sequence[str] | None = None,
        nn_continuous_covariate_keys: Sequence[str] | None = None,
        ambient_covariate_keys: Sequence[str] | None = None,
        dispersion_key: str | None = None,
        library_size_key: str | None = None,
        feature_scaling_covariate_keys: Sequence[str] | None = None,
        encoder_covariate_keys: Sequence[str] | bool | None = False,
        library_key: str | None = None,
        dataset_key: str | None = None,
        technical_covariate_keys: Sequence[str] | None = None,
        modality: str | None = None,
        **kwargs,
    ) -> None:
        """Register the cells. Checks everything first; on an error `adata` is unchanged.

        Give `batch_key` (or its other name `library_key`) alone, or all of `ambient_covariate_keys`, `dispersion_key`
        and `library_size_key`.

        Parameters
        ----------
        adata
            Cells x genes with raw counts and unique gene names.
        layer
            Layer with the counts; `adata.X` when None.
        batch_key, library_key
            Column with the libraries (samples, lanes): source of ambient RNA, dispersion and library size.
        size_factor_key
            Column with size factors; they replace the learned library size.
        nn_conditioning_covariate_keys
            Categories that every layer of the decoder is told.
        nn_continuous_covariate_keys
            Numbers that encoders and decoder are told.
        ambient_covariate_keys
            Columns whose categories have an ambient profile each; several add up.
        dispersion_key, library_size_key
            Column with groups of dispersion, and of the prior of the library size.
        feature_scaling_covariate_keys
            Columns whose categories scale genes; several multiply. The conditioning ones when None.
        encoder_covariate_keys
            Categories that the encoders are told; anything but False warns.
        dataset_key, technical_covariate_keys
            Columns with data sets, in which libraries must nest, and with other technical units. Kept in
            ``adata.uns["hpvade_technical_keys"]`` for :func:`hpvade.tl.neighbourhood_correlation`; the model ignores
            them.
        modality
            Of a MuData: the modality to use. ``model.adata`` is this AnnData; columns that it lacks are taken from
            ``mdata.obs``, into its obs. The model is then made, and loaded, with the MuData or with the modality.
        **kwargs
            `source_registry` and options of the transfer, when :meth:`load` repeats a setup.

        Raises
        ------
        KeyError
            A column or layer is absent.
        ValueError
            Keys exclude each other or are missing; a library lies in two data sets; a column lacks values; counts are
            negative, not finite or logged; genes are duplicated; `adata` is a view or empty.

        Warns
        -----
        UserWarning
            Cells without counts, with their number per library; encoder covariates.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        keys = resolve_keys(
            batch_key=batch_key,
            library_key=library_key,
            ambient_covariate_keys=ambient_covariate_keys,
            dispersion_key=dispersion_key,
            library_size_key=library_size_key,
            nn_conditioning_covariate_keys=nn_conditioning_covariate_keys,
            nn_continuous_covariate_keys=nn_continuous_covariate_keys,
            feature_scaling_covariate_keys=feature_scaling_covariate_keys,
            encoder_covariate_keys=encoder_covariate_keys,
        )
        columns = [*keys.columns(), *keys.continuous, size_factor_key, dataset_key, *(technical_covariate_keys or ())]
        with one_modality(adata, modality, columns) as adata:
            check_cells(adata, keys, layer=layer, size_factor_key=size_factor_key)
            technical = check_technical(adata.obs, keys.batch or keys.library, dataset_key, technical_covariate_keys)
            use_sparse_matrix(adata, layer)
            fields = anndata_fields(keys, layer, size_factor_key)
            cls._register(adata, fields, setup_method_args, **kwargs)
            remember_technical(adata, technical)

    def _matrix(self, name: str, adata: AnnData | None = None):
        manager = self.adata_manager if adata is None else self.get_anndata_manager(adata, required=True)
        return manager.get_from_registry(X)

    def _cells(self, name: str, adata: AnnData) -> AnnData:
        return adata

    def _features(self, name: str) -> np.ndarray:
        return np.asarray(self.get_var_names())

    def get_latent_representation(self, adata: AnnData | None = None, indices=None, **kwargs):
        """Latent representation as the decoder sees it (cells x latent), see scvi-tools."""
        found = super().get_latent_representation(adata, indices, **kwargs)
        if not self.module.use_ard_z_sigma_scale or not kwargs.get("give_mean", True):
            return found
        scale = self.module.ard_loc.exp().detach().cpu().numpy()
        return (found[0] * scale, found[1] * scale**2) if isinstance(found, tuple) else found * scale

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: str | Sequence[str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1.0,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: Literal["uniform"] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        include_feature_scaling: bool = False,
        silent: bool = True,
    ) -> pd.DataFrame | np.ndarray:
        """Denoised expression without ambient RNA and technical factors: ``rho / sum(rho) * library_size``.

        Parameters
        ----------
        adata
            Cells with the genes of the model; those of the model when None.
        indices
            Cells; all when None.
        transform_batch
            As if all cells came from this batch; a mean over several. It matters with ``use_batch_in_decoder=True``
            only: otherwise no batch enters.
        gene_list
            Genes to return, in the order of `adata`.
        library_size
            What a row sums to; ``"latent"``: expected native counts of the cell.
        n_samples
            One: at the posterior mean. More: samples of the posterior, averaged unless `return_mean` is False.
        n_samples_overall
            Total number of samples over all cells, as scvi-tools' differential expression asks for.
        weights
            Only ``"uniform"``.
        batch_size
            Cells per pass.
        return_mean, return_numpy
            Average samples; return an array (always for samples that are not averaged).
        include_feature_scaling
            Multiply by the technical factors before scaling.
        silent
            In scvi-tools' signature only.

        Returns
        -------
        Cells x genes; samples x cells x genes with ``return_mean=False``.

        Raises
        ------
        ValueError
            A batch or gene is unknown.
        """
        if weights not in (None, "uniform"):
            raise NotImplementedError(f"weights={weights!r} is not offered; use weights='uniform'.")
        adata = self._validate_anndata(adata)
        names = adata.var_names
        genes = np.ones(len(names), dtype=bool) if gene_list is None else names.isin(gene_list)
        if gene_list is not None and (missing := sorted(set(gene_list) - set(names))):
            raise ValueError(f"gene_list names {missing[:5]}, which are not in adata.var_names.")
        cells = cell_positions(adata.n_obs, indices)
        options = {"batches": self._batch_codes(transform_batch), "library_size": library_size}
        options |= {"scaled": include_feature_scaling, "batch_size": batch_size}
        if n_samples_overall is not None:
            return self._drawn_expression(_NAME, adata, cells, n_samples_overall, **options)[:, genes]
        with fixed_draws():
            values = self._expression(_NAME, adata, cells, n_samples=max(n_samples, 1), **options)[..., genes]
        if n_samples > 1 and return_mean:
            values = values.mean(axis=0)
        if return_numpy or values.ndim == 3:
            return values
        return pd.DataFrame(values, index=adata.obs_names[cells], columns=names[genes])

    def get_likelihood_parameters(self, *args, **kwargs) -> dict[str, np.ndarray]:
        """Mean and inverse dispersion of the counts, ambient part included, see scvi-tools; the same at every call."""
        with fixed_draws():
            return super().get_likelihood_parameters(*args, **kwargs)

    def get_feature_correlation_matrix(self, *args, **kwargs) -> pd.DataFrame:
        """Correlation of genes over denoised samples, see scvi-tools; the same at every call."""
        with fixed_draws():
            return super().get_feature_correlation_matrix(*args, **kwargs)

    def get_importance_weights(self, *args, **kwargs):
        """Refused: they are derived for a likelihood without ambient part."""
        raise NotImplementedError(
            "importance weights are not offered: scvi-tools derives them for counts without ambient part. Use "
            "`differential_expression(weights='uniform')`."
        )

    def compute_latent_umap(
        self, adata: AnnData, *, n_neighbors: int = 15, seed: int = 0, add_leiden: bool = False
    ) -> None:
        """Write the latent representation to ``obsm["X_latent"]`` and its UMAP to ``obsm["X_umap"]``.

        Parameters
        ----------
        adata
            Cells with the genes of the model.
        n_neighbors, seed
            Of the neighbourhood graph and the layout.
        add_leiden
            Also write clusters of the graph to ``obs["leiden"]`` (Leiden, resolution 1; needs the package igraph).

        Raises
        ------
        ValueError
            There are fewer than four cells; `n_neighbors` is below two.
        ImportError
            `add_leiden` without igraph.
        """
        latent = self.get_latent_representation(adata)
        layouts = {"X_latent": "X_umap"}
        write_umap(adata, {"X_latent": latent}, layouts, n_neighbors=n_neighbors, seed=seed, leiden=add_leiden)
