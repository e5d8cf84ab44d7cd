"""What both regularised models tell of themselves and of cells: profiles, factors, expression, clean counts."""

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ..._text import whole_number
from ...io._positions import cell_positions
from ._clean import clean_reference
from ._fixed_draws import fixed_draws
from ._setup import category_names
from ._shared_module import AMBIENT, DISPERSION, SCALING


class Readout:
    """Methods that read a trained model. The model sets `module` and finds matrices and names of a modality."""

    # ------------------------------------------------------------ one modality's data

    def _matrix(self, name: str, adata=None):
        """Registered counts of a modality (cells x features)."""
        raise NotImplementedError

    def _features(self, name: str) -> np.ndarray:
        """Names of the features of a modality."""
        raise NotImplementedError

    def _modality(self, modality: str | None, kind: str | None = None) -> str:
        """Name of a modality: the one asked for, or the only one (that has a part `kind`)."""
        names = self.module.modality_names
        fitting = [name for name in names if kind is None or self.module.part(kind, name) is not None]
        if modality is not None and modality not in names:
            raise ValueError(f"modality={modality!r} is unknown; expected one of {names}.")
        if modality is None and len(fitting) > 1:
            raise ValueError(f"the model has several modalities, {fitting}; name one with modality=.")
        chosen = modality or (fitting[0] if fitting else None)
        if chosen not in fitting:
            raise ValueError(f"the model has no {kind}{f' for {modality!r}' if modality else ''}; it was switched off.")
        return chosen

    def _codes(self, key: str, adata=None) -> np.ndarray:
        manager = self.adata_manager if adata is None else self.get_anndata_manager(adata, required=True)
        return np.asarray(manager.get_from_registry(key)).reshape(manager.adata.n_obs, -1).astype(np.int64)

    # ------------------------------------------------------------ parameters

    def _table(self, values: torch.Tensor, name: str, key: str) -> pd.DataFrame:
        values = values.detach().cpu().numpy()
        columns = category_names(self.registry, key)
        return pd.DataFrame(values, index=self._features(name), columns=columns[: values.shape[1]])

    def get_ambient_profile(self, modality: str | None = None, *, normalize: bool = False) -> pd.DataFrame:
        """Additive background of every ambient category (features x categories).

        Networks leave it close to the mean expression of the category; :meth:`get_clean_reference` looks for what
        deviates from that.

        Parameters
        ----------
        modality
            In the multimodal model, when several modalities have a background.
        normalize
            Scale columns to sum to one. Otherwise they are on the scale of the decoder's rates: counts per cell of a
            library of average size.

        Raises
        ------
        ValueError
            The model has no background.
        """
        name = self._modality(modality, "additive_background")
        table = self._table(self.module.part("additive_background", name).exp(), name, AMBIENT)
        return table / table.sum() if normalize else table

    def get_dispersion(self, modality: str | None = None) -> pd.DataFrame:
        """Median inverse dispersion theta (features x groups); variance is ``mean + mean**2 / theta``."""
        name = self._modality(modality)
        theta = self.module.part("px_r_mu", name).exp()
        if theta.ndim == 1:
            return pd.DataFrame({"all": theta.detach().cpu().numpy()}, index=self._features(name))
        return self._table(theta, name, DISPERSION)

    def get_feature_scaling(self, modality: str | None = None) -> pd.DataFrame:
        """Multiplicative technical factor (features x scaling categories); one column without scaling keys.

        Raises
        ------
        ValueError
            The model has no feature scaling.
        """
        name = self._modality(modality, "feature_scaling")
        values = (torch.nn.functional.softplus(self.module.part("feature_scaling", name)) / 0.7).T
        if not self.module.layout.scaling:
            return pd.DataFrame({"all": values[:, 0].detach().cpu().numpy()}, index=self._features(name))
        return self._table(values, name, SCALING)

    # ------------------------------------------------------------ cells

    def _posterior_means(self, adata, indices, batch_size, batch: int | None = None, n_samples: int = 1):
        """Go over the cells: covariates, outputs of inference and of generation, at posterior means.

        With `n_samples` above one at samples. Cells come in the order of `indices`, as positions.
        """
        self._check_if_trained(warn=False)
        for tensors in self._make_data_loader(adata, indices, batch_size):
            inputs = self.module._get_inference_input(tensors)
            inferred = self.module.inference(**inputs, n_samples=n_samples)
            if n_samples == 1:
                ql, library = (self.module.unpack(inferred[key]) for key in ("ql", "library"))
                inferred["z"] = inferred["qz"].loc * inferred.get("z_scale", 1.0)
                inferred["library"] = self.module.pack({k: library[k] if q is None else q.loc for k, q in ql.items()})
            covs = inputs["covs"]
            generated = self.module.generative(inferred["z"], inferred["library"], covs, transform_batch=batch)
            yield inferred, generated

    def _positions(self, adata, indices) -> tuple[np.ndarray, np.ndarray]:
        """Sorted unique positions, which backed data need, and where each asked-for cell is among them."""
        return np.unique(cell_positions(adata.n_obs, indices), return_inverse=True)

    @torch.inference_mode()
    def get_ambient_fraction(
        self, adata=None, indices=None, *, modality: str | None = None, batch_size: int | None = None
    ) -> pd.Series:
        """Share of the expected counts of each cell that is ambient, between 0 and 1."""
        name = self._modality(modality, "additive_background")
        adata = self._validate_anndata(adata)
        order, back = self._positions(adata, indices)
        shares = []
        for _, generated in self._posterior_means(adata, order, batch_size):
            rho, s, y = (self.module.unpack(generated[key])[name] for key in ("rho", "background", "scaling"))
            ambient, native = (s * y).sum(dim=-1), (rho * y).sum(dim=-1)
            shares.append((ambient / (ambient + native)).cpu().numpy())
        return pd.Series(np.concatenate(shares)[back], index=adata.obs_names[order[back]], name="ambient_fraction")

    @torch.inference_mode()
    def get_library_size(
        self, adata=None, indices=None, *, modality: str | None = None, batch_size: int | None = None
    ) -> pd.Series:
        """Median of the learned library size of each cell, relative to an average cell."""
        name = self._modality(modality)
        adata = self._validate_anndata(adata)
        order, back = self._positions(adata, indices)
        sizes = [
            self.module.size(name, self.module.unpack(inferred["library"])[name]).cpu().numpy().ravel()
            for inferred, _ in self._posterior_means(adata, order, batch_size)
        ]
        return pd.Series(np.concatenate(sizes)[back], index=adata.obs_names[order[back]], name="library_size")

    @torch.inference_mode()
    def _expression(
        self, name, adata, indices, *, batches=(None,), library_size=1.0, n_samples=1, scaled=False, batch_size=None
    ) -> np.ndarray:
        """Ambient-free expression ([samples x] cells x features), cells in the order of `indices`."""
        order, back = self._positions(adata, indices)
        blocks = []
        for batch in batches:
            rows = []
            for inferred, generated in self._posterior_means(adata, order, batch_size, batch, n_samples):
                rho = self.module.unpack(generated["rho"])[name]
                rho = rho * self.module.unpack(generated["scaling"])[name] if scaled else rho
                if library_size == "latent":
                    value = rho * self.module.size(name, self.module.unpack(inferred["library"])[name])
                else:
                    value = rho / rho.sum(dim=-1, keepdim=True) * library_size
                rows.append(value.cpu().numpy())
            blocks.append(np.concatenate(rows, axis=-2))
        return np.mean(blocks, axis=0)[..., back, :] if len(blocks) > 1 else blocks[0][..., back, :]

    def _drawn_expression(self, name, adata, cells, n_draws: int, **options) -> np.ndarray:
        """`n_draws` samples of the posterior expression over `cells` (draws x features), the same at every call.

        Of more cells than draws only as many are looked at, so that memory does not grow with a group of cells.
        """
        rng = np.random.default_rng(0)
        if len(cells) > n_draws:
            cells = rng.choice(cells, n_draws, replace=False)
        per_cell = n_draws // len(cells) + 1
        with fixed_draws():
            values = self._expression(name, adata, cells, n_samples=max(per_cell, 2), **options)
        values = values[:per_cell].reshape(-1, values.shape[-1])
        return values[rng.choice(len(values), n_draws)]

    def get_clean_reference(
        self,
        adata=None,
        *,
        labels_key: str | None = None,
        ambient_profile: pd.DataFrame | pd.Series | None = None,
        modality: str | None = None,
        integer: bool = True,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> AnnData:
        """Counts without the ambient part, as a reference that :meth:`hpvade.HPVADE.setup_anndata` takes.

        The profile of the ambient RNA of each batch is a mixture of the groups' profiles, which differences between
        batches tell, or the model's where they do not. How much of it there is shows in the genes that a group of cells
        does not express; per group, batch and gene the counts are then split into an ambient and a native part (see
        the user guide). Sums over groups come out right; of a single count of a gene that its group
        expresses, nobody can say what it is. A batch whose groups show no floor under their expression, or one whose
        counts vary between cells as expression does, has no evidence of ambient RNA, and its counts are left alone.

        Parameters
        ----------
        adata
            Cells with the genes of the model; those of the model when None. They are not changed.
        labels_key
            Column of `obs` with groups of cells, such as types; clusters of the latent space when None.
        ambient_profile
            Measured profile in place of the one found: genes x batches, or genes for all batches, of any scale, as
            of :func:`hpvade.pp.ambient_profile`. Genes that it lacks count as absent from it.
        modality
            In the multimodal model, when several modalities have a background.
        integer
            Round up with the probability of the fraction, so that counts are whole and sums stay unbiased; False gives
            the expected values.
        seed
            Of that rounding, and of the clusters: the same seed gives the same counts.
        batch_size
            Cells per pass through the networks.

        Returns
        -------
        A new AnnData: corrected counts (CSR, float32) in `X`, `obs` and `var` of `adata`, the share removed from each
        cell in ``obs["ambient_removed"]``, and the table ``uns["ambient_share"]``: the ambient `share` of each batch,
        zero without evidence, with its 95 % interval, `lower` to `upper`, over genes. ``varm["ambient_profile"]`` has
        the profiles (genes x batches, in the order of that table). Cells that lose all counts are left out, with a
        warning.

        Raises
        ------
        KeyError, ValueError
            `labels_key` is absent, or cells lack a label; `ambient_profile` lacks a batch, has none of the genes, or
            holds values that are no shares; the model has no background, or `adata` other genes or
            unknown categories.
        TypeError
            `ambient_profile` names no genes.
        RuntimeError
            The model is not trained.

        Warns
        -----
        UserWarning
            All cells have the same label: ambient RNA cannot be told from theirs. `ambient_profile` lacks genes.
        """
        whole_number("seed", seed, 0)
        name = self._modality(modality, "additive_background")
        adata = self._validate_anndata(adata)
        options = {"labels_key": labels_key, "integer": integer, "seed": seed, "batch_size": batch_size}
        options["ambient_profile"] = ambient_profile
        return clean_reference(self, adata, name, **options)
