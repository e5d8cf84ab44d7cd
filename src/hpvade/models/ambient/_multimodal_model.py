"""`RegularizedMultimodalVI`: RNA with ATAC, or any count modalities of the same cells, in a MuData."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData

from ...io._positions import cell_positions
from ...io._rows import use_sparse_matrix
from ._attribution import AttributionMethods
from ._covariates import check_keys, resolve_keys
from ._details import ModalityCounts
from ._differential import ModalityDifferential
from ._face import RegularizedFace, fixed_draws
from ._multimodal_module import RegularizedMultimodalVAE
from ._options import multimodal_options, warn_of_large_library_encoder
from ._setup import (
    check_modalities,
    check_technical,
    gather_obs,
    mudata_fields,
    read_layout,
    remember_technical,
)
from ._shared_module import X
from ._umap import write_umap


class RegularizedMultimodalVI(AttributionMethods, ModalityDifferential, ModalityCounts, RegularizedFace):
    """RNA with ATAC, or any count modalities of the same cells: one latent space, each with its own ambient part.

    Each modality has its own encoder, library size, dispersion and decoder; every decoder sees the whole latent vector.
    Modalities are sorted by name. A cell without any count in a modality lacks it: nothing is learned from the zeros.

    Parameters
    ----------
    adata
        MuData after :meth:`setup_mudata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    **options
        Those of :class:`hpvade.AmbientRegularizedSCVI`; `n_hidden`, `n_latent`, `n_layers`, `dispersion`,
        `library_log_vars_weight`, `dispersion_hyper_prior_mean` and `dispersion_hyper_prior_alpha` also as
        ``{modality: value}`` for all modalities, `library_log_means_centering_sensitivity` and
        `decoder_bias_multiplier` also for some. And

        `latent_mode` ("concatenation" of the modalities' latent vectors, a "single_encoder" of all counts, or a
        "weighted_mean" with `modality_weights` "equal", "universal" or "cell"), `additive_background_modalities` (RNA),
        `feature_scaling_modalities` (ATAC), `learnable_modality_scaling` (False) with
        `modality_scale_prior_concentration` (5), `horseshoe_latent_z_prior_type` (None, or "lognormal").

    Raises
    ------
    TypeError, ValueError
        An option is unknown, not offered, or lacks a modality.

    Examples
    --------
    >>> import anndata, mudata, numpy as np, hpvade as hp
    >>> def cells(n_features, prefix):
    ...     adata = anndata.AnnData(np.random.default_rng(0).poisson(2.0, (60, n_features)).astype("float32"))
    ...     adata.var_names = [f"{prefix}{i}" for i in range(n_features)]
    ...     adata.obs["sample"] = ["a", "b"] * 30
    ...     return adata
    >>> mdata = mudata.MuData({"rna": cells(50, "gene"), "atac": cells(40, "peak")})
    >>> hp.RegularizedMultimodalVI.setup_mudata(mdata, batch_key="sample")
    >>> model = hp.RegularizedMultimodalVI(mdata, n_latent={"rna": 6, "atac": 4})
    >>> model.train(accelerator="cpu")  # doctest: +SKIP
    """

    _module_cls = RegularizedMultimodalVAE

    def __init__(self, adata: MuData | None = None, registry: dict | None = None, **options):
        super().__init__(adata, registry)
        fields = self.registry["field_registries"]
        states = {k.removeprefix(f"{X}_"): v["state_registry"] for k, v in fields.items() if k.startswith(f"{X}_")}
        names = sorted(states)
        settings = multimodal_options(options, names)
        warn_of_large_library_encoder(settings)
        n_vars = {name: int(states[name]["n_vars"]) for name in names}
        layout = read_layout(self.registry, n_vars, int(states[names[0]]["n_obs"]))
        self.module = RegularizedMultimodalVAE(layout, settings)
        if adata is not None:
            self._start_from_data(options)
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(cls, *args, **kwargs) -> None:
        """Refused: this model needs a MuData."""
        raise NotImplementedError("use `RegularizedMultimodalVI.setup_mudata(mdata)`, or AmbientRegularizedSCVI.")

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        modalities: Mapping[str, str] | None = None,
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
        layers: Mapping[str, str] | None = None,
        **kwargs,
    ) -> None:
        """Register the cells. Checks everything first; on an error `mdata` is unchanged.

        The columns are those of `mdata.obs`, or of the `obs` of one modality that has all of them.

        Parameters
        ----------
        mdata
            The same cells in the same order in all modalities, with raw counts. A cell that lacks a modality has a row
            of zeros in it.
        modalities
            Modalities to use, ``{name: key of mdata.mod}``; all by their keys when None.
        batch_key, library_key, nn_conditioning_covariate_keys, nn_continuous_covariate_keys, ambient_covariate_keys
            As in :meth:`hpvade.AmbientRegularizedSCVI.setup_anndata`.
        dispersion_key, library_size_key, feature_scaling_covariate_keys, encoder_covariate_keys
            As there.
        dataset_key, technical_covariate_keys
            As there.
        size_factor_key
            Refused: every modality learns its own library size.
        layers
            Layers with the counts, ``{name: layer}``; X for those not named.
        **kwargs
            `source_registry` and options of the transfer, when :meth:`load` repeats a setup.

        Raises
        ------
        KeyError
            A column or layer is absent.
        ValueError
            The modalities disagree on the cells; a modality is absent from all cells, or a cell lacks all; the rest as
            in :meth:`hpvade.AmbientRegularizedSCVI.setup_anndata`.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        if size_factor_key is not None:
            raise ValueError(
                f"size_factor_key={size_factor_key!r}: size factors are not supported with several modalities, each "
                "learns its own library size. Leave it out."
            )
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
        if not isinstance(mdata, MuData):
            raise TypeError(
                f"mdata is a {type(mdata).__name__}; expected a MuData. For an AnnData: AmbientRegularizedSCVI."
            )
        used = {key: key for key in mdata.mod} if modalities is None else dict(modalities)
        if bad := [name for name in used if "." in name or not name]:
            raise ValueError(f"names of modalities {bad} are empty or contain a dot; give others with `modalities=`.")
        used, layers = {name: used[name] for name in sorted(used)}, dict(layers or {})
        if unknown := sorted(set(layers) - set(used)):
            raise ValueError(f"layers names unknown modalities {unknown}; expected some of {list(used)}.")
        check_modalities(mdata, used, layers)
        technical = [key for key in (dataset_key, *(technical_covariate_keys or ())) if key is not None]
        columns = [*keys.columns(), *keys.continuous]
        obs, places = gather_obs(mdata, used, columns)
        check_keys(obs, keys)
        table = gather_obs(mdata, used, [*columns, *technical])[0] if technical else obs
        technical = check_technical(table, keys.batch or keys.library, dataset_key, technical_covariate_keys)
        for name, key in used.items():
            use_sparse_matrix(mdata.mod[key], layers.get(name))
        fields = mudata_fields(keys, used, layers, places)
        cls._register(mdata, fields, setup_method_args, **kwargs)
        remember_technical(mdata, technical)

    # ------------------------------------------------------------ one modality's data

    def _matrix(self, name: str, adata: MuData | None = None):
        manager = self.adata_manager if adata is None else self.get_anndata_manager(adata, required=True)
        return manager.get_from_registry(f"{X}_{name}")

    def _cells(self, name: str, adata: MuData) -> AnnData:
        return adata.mod[self.registry["field_registries"][f"{X}_{name}"]["data_registry"]["mod_key"]]

    def _features(self, name: str) -> np.ndarray:
        return np.asarray(self.registry["field_registries"][f"{X}_{name}"]["state_registry"]["column_names"])

    def get_var_names(self, legacy_mudata_format: bool = False) -> dict[str, np.ndarray] | np.ndarray:
        """Names of the features by key of ``mdata.mod``; one array of all with `legacy_mudata_format`."""
        fields = self.registry["field_registries"]
        found = {
            fields[f"{X}_{name}"]["data_registry"]["mod_key"]: self._features(name).astype(str)
            for name in self.module.modality_names
        }
        return np.concatenate(list(found.values())) if legacy_mudata_format else found

    def _size(self, stats: dict) -> str:
        layout = self.module.layout
        features = " + ".join(f"{layout.n_vars[name]} {name}" for name in sorted(layout.n_vars, reverse=True))
        return f"{layout.n_obs} cells x {features} features"

    # ------------------------------------------------------------ cells

    @torch.inference_mode()
    def get_latent_representation(
        self,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Joint latent representation (cells x latent); zeros in the columns of a modality that a cell lacks.

        Parameters
        ----------
        mdata
            Cells; those of the model when None.
        indices
            Cells; all when None.
        give_mean
            The posterior mean; False gives a sample.
        batch_size
            Cells per pass.
        """
        mdata = self._validate_anndata(mdata)
        order, back = self._positions(mdata, indices)
        rows = []
        self._check_if_trained(warn=False)
        for tensors in self._make_data_loader(mdata, order, batch_size):
            inferred = self.module.inference(**self.module._get_inference_input(tensors))
            z = inferred["qz"].loc * inferred.get("z_scale", 1.0) if give_mean else inferred["z"]
            rows.append(z.cpu().numpy())
        return np.concatenate(rows)[back]

    def get_modality_latents(
        self, mdata: MuData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> dict[str, np.ndarray]:
        """Latent columns of each modality (cells x D_m), and all of them under ``"__joint__"``.

        Raises
        ------
        ValueError
            With ``latent_mode="weighted_mean"``, where modalities share one latent vector.
        """
        if self.module.latent_mode == "weighted_mean":
            raise ValueError(
                "latent_mode='weighted_mean' has one latent vector for all modalities; use get_latent_representation()."
            )
        joint = self.get_latent_representation(mdata, indices, batch_size=batch_size)
        return {name: joint[:, block] for name, block in self.module.latent_blocks().items()} | {"__joint__": joint}

    @torch.inference_mode()
    def get_modality_weights(self, mdata: MuData | None = None, batch_size: int | None = None) -> pd.DataFrame:
        """Weights of the modalities in the mean (cells x modalities), zero for missing ones.

        Raises
        ------
        ValueError
            Without ``latent_mode="weighted_mean"``.
        """
        if self.module.latent_mode != "weighted_mean":
            raise ValueError(
                f"latent_mode={self.module.latent_mode!r} has no weights. Make a model with 'weighted_mean'."
            )
        mdata = self._validate_anndata(mdata)
        rows = []
        for tensors in self._make_data_loader(mdata, None, batch_size):
            rows.append(self.module.cell_weights(**self.module._get_inference_input(tensors)).cpu().numpy())
        return pd.DataFrame(np.concatenate(rows), index=mdata.obs_names, columns=self.module.modality_names)

    def get_normalized_expression(
        self,
        mdata: MuData | None = None,
        indices: Sequence[int] | None = None,
        *,
        modality: str | None = None,
        transform_batch: str | None = None,
        library_size: float | Literal["latent"] = 1.0,
        n_samples: int = 1,
        include_feature_scaling: bool = False,
        batch_size: int | None = None,
    ) -> pd.DataFrame | dict[str, pd.DataFrame]:
        """Denoised values without ambient part and technical factors (cells x features); a dict of all when None.

        Parameters
        ----------
        mdata, indices
            Cells; those of the model, and all, when None.
        modality
            Name of a modality; all, in a dict, when None.
        transform_batch
            As if all cells came from this batch; it matters with ``use_batch_in_decoder=True`` only.
        library_size
            What a row sums to; ``"latent"``: expected native counts of the cell.
        n_samples
            One: at the posterior mean. More: the mean over samples of the posterior.
        include_feature_scaling
            Multiply by the technical factors before scaling.
        batch_size
            Cells per pass.
        """
        mdata = self._validate_anndata(mdata)
        names = self.module.modality_names if modality is None else [self._modality(modality)]
        cells = cell_positions(mdata.n_obs, indices)
        options = {"library_size": library_size, "n_samples": n_samples, "scaled": include_feature_scaling}
        options |= {"batches": self._batch_codes(transform_batch), "batch_size": batch_size}
        tables = {}
        for name in names:
            with fixed_draws():
                values = self._expression(name, mdata, cells, **options)
            values = values.mean(axis=0) if values.ndim == 3 else values
            tables[name] = pd.DataFrame(values, index=mdata.obs_names[cells], columns=self._features(name))
        return tables if modality is None else tables[modality]

    def compute_latent_umap(
        self,
        adata: AnnData,
        mdata: MuData | None = None,
        *,
        n_neighbors: int = 15,
        seed: int = 0,
        add_leiden: bool = False,
    ) -> None:
        """Write latent representations and UMAPs to `adata`, an AnnData of the same cells.

        Joint ones to ``obsm["X_latent_joint"]`` and ``obsm["X_umap_joint"]``, those of each modality to
        ``obsm["X_latent_{m}"]`` and ``obsm["X_umap_{m}"]`` (not with ``latent_mode="weighted_mean"``).

        Parameters
        ----------
        adata
            Where to write; usually one modality of the MuData.
        mdata
            Cells; those of the model when None.
        n_neighbors, seed
            Of the neighbourhood graph and the layout.
        add_leiden
            Also write clusters of each graph, ``obs["leiden_joint"]`` and ``obs["leiden_{m}"]`` (Leiden, resolution 1;
            needs the package igraph).

        Raises
        ------
        ValueError
            `adata` has other cells, or fewer than four; `n_neighbors` is below two.
        ImportError
            `add_leiden` without igraph.
        """
        mdata = self._validate_anndata(mdata)
        if not adata.obs_names.equals(mdata.obs_names):
            raise ValueError(
                f"adata has other cells than mdata ({adata.n_obs} and {mdata.n_obs}, or another order); expected the "
                "same ones: `adata = adata[mdata.obs_names].copy()`."
            )
        if self.module.latent_mode == "weighted_mean":
            latents = {"joint": self.get_latent_representation(mdata)}
        else:
            latents = {k.strip("_"): v for k, v in self.get_modality_latents(mdata).items()}
        written = {f"X_latent_{name}": z for name, z in latents.items()}
        layouts = {f"X_latent_{name}": f"X_umap_{name}" for name in latents}
        write_umap(adata, written, layouts, n_neighbors=n_neighbors, seed=seed, leiden=add_leiden)
