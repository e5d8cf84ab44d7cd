"""What both regularised models offer on AnnData: training, ambient profiles, denoised expression, clean references.

Longer than other files for the docstrings of the public methods; the work is in the modules it calls.
"""

import contextlib

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.model.base import UnsupervisedTrainingMixin

from ...dataloaders._sized_splitter import SizedSplitter
from ...dataloaders._splitter import split_cells
from ...dataloaders._training_data import TrainingData
from ...train._fit import check_options, fit, saved_split
from ...train._regularized_plan import RegularizedPlan
from ...train._runner import ResumableTrainRunner
from .._base import BaseModel, VAEMethods
from ._clean import clean_reference
from ._query import apply_masks, load_query
from ._setup import categories, category_names, refuse_unknown_categories
from ._shared_module import AMBIENT, BATCH, DISPERSION, LIBRARY, SCALING
from ._start import start_from_data

_STEPS = 6000  # optimisation steps of a default training run, as far as 400 epochs give them
_DRAWS_SEED = 0
_PLAN_OPTIONS = ("modality_lr_multiplier", "background_lr_multiplier", "background_level_share")


class RegularizedFace(VAEMethods, UnsupervisedTrainingMixin, BaseModel):
    """Methods of both regularised models. The subclass sets `module` and finds matrices and names of a modality."""

    _data_splitter_cls = SizedSplitter
    _training_plan_cls = RegularizedPlan
    _train_runner_cls = ResumableTrainRunner

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

    def _codes(self, key: str) -> np.ndarray:
        return np.asarray(self.adata_manager.get_from_registry(key)).reshape(self.adata.n_obs, -1).astype(np.int64)

    def _start_from_data(self, given: dict) -> None:
        """Give the module starting values from the registered cells; `given` are the options that the user chose."""
        start_from_data(self, given)

    def _validate_anndata(self, adata=None, copy_if_view: bool = True):
        """Also refuse categories that the model does not know, by name."""
        if adata is not None and adata is not self.adata and self.get_anndata_manager(adata) is None:
            refuse_unknown_categories(adata, self.registry, type(self).__name__)
        return super()._validate_anndata(adata, copy_if_view)

    def _batch_codes(self, transform_batch) -> list[int | None]:
        """Codes of batches by name; [None] for the cells' own."""
        wanted = [transform_batch] if transform_batch is None or np.isscalar(transform_batch) else transform_batch
        (known,) = categories(self.registry, BATCH).values()
        known = [str(name) for name in known]
        if unknown := [name for name in wanted if name is not None and str(name) not in known]:
            raise ValueError(f"transform_batch={unknown} are not batches; expected some of {known}.")
        return [None if name is None else known.index(str(name)) for name in wanted]

    # ------------------------------------------------------------ training

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float = 0.9,
        validation_size: float | None = None,
        batch_size: int = 128,
        validation_batch_size: int | None = None,
        early_stopping: bool = False,
        early_stopping_min_delta_per_feature: float = 2e-4,
        checkpoint_dir: str | None = None,
        ckpt_path: str | None = None,
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train; with validation cells the weights of the lowest validation loss are kept.

        The weight of the latent divergence rises over the first quarter of the epochs
        (``plan_kwargs={"n_epochs_kl_warmup": ...}``); validation always takes it in full.

        Parameters
        ----------
        max_epochs
            Passes over the cells; about 6000 optimisation steps when None, 20 to 400 epochs.
        accelerator, devices
            As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
        train_size, validation_size
            Shares of cells; the split is within libraries. ``train_size=1`` uses all cells and validates on none.
        batch_size, validation_batch_size
            Cells per step, and per step of validation (as `batch_size` when None).
        early_stopping
            Stop after `early_stopping_patience` (20) epochs without a lower `validation_loss`.
        early_stopping_min_delta_per_feature
            Least improvement that counts, per feature of all modalities.
        checkpoint_dir
            Folder for a checkpoint of every epoch, ``last.ckpt``, and the best one.
        ckpt_path
            Checkpoint to resume from.
        plan_kwargs
            Options of `scvi.train.TrainingPlan`, such as `lr`; `background_lr_multiplier` (10) and
            `background_level_share` (0.5): in this share of the epochs, the first ones, only the level of each ambient
            profile is learned, at that multiple of the learning rate, then its shape, too; `modality_lr_multiplier` in
            the multimodal model.
        datasplitter_kwargs
            Options of the loader of cells, such as `num_workers`.
        **trainer_kwargs
            Options of `scvi.train.Trainer` and Lightning's, such as `logger` and `enable_progress_bar`.

        Raises
        ------
        ValueError
            The model was loaded without data; shares are out of range; early stopping without validation cells; an
            unknown modality in `modality_lr_multiplier`.
        TypeError
            An option is unknown.
        RuntimeError
            A loss is not finite; the model keeps the weights from before, and checkpoints stay.
        """
        if self.adata is None:
            raise ValueError(f"the model was loaded without data; use {type(self).__name__}.load(dir, adata).")
        if hasattr(self, "query_masks_"):
            apply_masks(self)  # a loaded query has none yet
            if not self.module.trainable_masks:
                raise ValueError("this query has no new category and everything else is frozen: nothing to train.")
        plan_kwargs = dict(plan_kwargs or {})
        extra = {key: plan_kwargs.pop(key) for key in _PLAN_OPTIONS if key in plan_kwargs}
        check_options(plan_kwargs, datasplitter_kwargs, trainer_kwargs)
        if "modality_lr_multiplier" in extra and not hasattr(self.module, "get_parameter_groups"):
            raise TypeError("modality_lr_multiplier needs several modalities; use plan_kwargs={'lr': ...}.")
        if batch_size < 1 or (validation_batch_size or 1) < 1:
            raise ValueError(f"batch_size={batch_size}, {validation_batch_size=}; expected at least 1.")
        split = saved_split(self, ckpt_path)
        if split is None:
            library, one = self._codes(LIBRARY).ravel(), np.zeros(self.adata.n_obs, dtype=np.int64)
            rng = TrainingData.torch_rng()
            split = split_cells(library, one, rng, train_size=train_size, validation_size=validation_size)
        n_batches = -(-len(split[0]) // batch_size)
        max_epochs = int(np.clip(-(-_STEPS // n_batches), 20, 400)) if max_epochs is None else max_epochs
        splitter = self._data_splitter_cls(
            self.adata_manager,
            split=split,
            batch_size=batch_size,
            validation_batch_size=validation_batch_size,
            **(datasplitter_kwargs or {}),
        )
        n_features = sum(self.module.layout.n_vars.values())
        defaults = {"weight_decay": 0.0, "n_epochs_kl_warmup": max(max_epochs // 4, 1)}
        if self.module.trainable_masks and plan_kwargs.get("weight_decay"):
            raise ValueError("weight_decay would change the frozen reference; leave it out when training a query.")
        min_delta = early_stopping_min_delta_per_feature * n_features
        trainer_kwargs = {"early_stopping_min_delta": min_delta} | trainer_kwargs
        fit(
            self,
            splitter,
            initialise=None,
            plan_kwargs=defaults | plan_kwargs | extra,
            max_epochs=max_epochs,
            early_stopping=early_stopping,
            checkpoint_dir=checkpoint_dir,
            alarm=False,
            accelerator=accelerator,
            devices=devices,
            ckpt_path=ckpt_path,
            **trainer_kwargs,
        )

    # ------------------------------------------------------------ parameters

    def _table(self, values: torch.Tensor, name: str, key: str) -> pd.DataFrame:
        values = values.detach().cpu().numpy()
        columns = category_names(self.registry, key)
        return pd.DataFrame(values, index=self._features(name), columns=columns[: values.shape[1]])

    def get_ambient_profile(self, modality: str | None = None, *, normalize: bool = False) -> pd.DataFrame:
        """Additive background of every ambient category (features x categories).

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
        return np.unique(np.arange(adata.n_obs)[slice(None) if indices is None else indices], return_inverse=True)

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

    def get_clean_reference(
        self,
        adata=None,
        *,
        modality: str | None = None,
        integer: bool = True,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Counts without the ambient part, as a reference that :meth:`hpvade.HPVADE.setup_anndata` takes.

        Given a count x, the expected native part is :math:`x\,\rho/(\rho + s)`, at the posterior mean of each cell.

        Parameters
        ----------
        adata
            Cells with the genes of the model; those of the model when None. They are not changed.
        modality
            In the multimodal model, when several modalities have a background.
        integer
            Round up with the probability of the fraction, so that counts are whole and sums stay unbiased; False gives
            the expected values.
        seed
            Of that rounding: the same seed gives the same counts.
        batch_size
            Cells per pass.

        Returns
        -------
        A new AnnData: corrected counts (CSR, float32) in `X`, `obs` and `var` of `adata`, the share removed from each
        cell in ``obs["ambient_removed"]``. Cells that lose all counts are left out, with a warning.

        Raises
        ------
        ValueError
            The model has no background, or `adata` other genes or unknown categories.
        RuntimeError
            The model is not trained.
        """
        name = self._modality(modality, "additive_background")
        adata = self._validate_anndata(adata)
        return clean_reference(self, adata, name, integer=integer, seed=seed, batch_size=batch_size)

    @classmethod
    def load_query_data(
        cls,
        adata,
        reference_model,
        *,
        freeze: bool = True,
        accelerator: str = "auto",
        device: int | str = "auto",
    ):
        """Make a model of new cells on top of a trained one; new categories get new parameters.

        New ambient categories start from the query's data, new dispersion groups from the mean of the reference's, new
        library groups from the query's totals, new scaling factors at one. Train it to fit them.

        Parameters
        ----------
        adata
            New cells with the columns of the reference. Features are aligned by name; those that are missing are zero.
        reference_model
            Trained model, or the folder it was saved to.
        freeze
            Leave all that the reference knows bit for bit as it is in training: networks, and columns of known
            categories. False trains everything.
        accelerator, device
            As in :meth:`load`.

        Returns
        -------
        The model. Without new categories there is nothing to train, and it is ready to use.

        Raises
        ------
        ValueError, TypeError, KeyError
            Fewer than half of the features are shared; the cells cannot be used, see `setup_anndata`.
        RuntimeError
            The reference is not trained.
        """
        return load_query(cls, adata, reference_model, freeze=freeze, accelerator=accelerator, device=device)

    def plot_training_diagnostics(self, skip_epochs: int = 0, **kwargs):
        """Draw the history, without the first `skip_epochs` epochs; `kwargs` as for :func:`hpvade.pl.training_history`.

        Returns
        -------
        The figure.

        Raises
        ------
        ValueError
            The model is not trained, or nothing is left to draw.
        """
        from ...pl import training_history

        history = {name: table[table.index >= skip_epochs] for name, table in (self.history_ or {}).items()}
        return training_history(history, **kwargs)

    # ------------------------------------------------------------ scvi's methods, reproducible or refused

    def get_elbo(self, *args, **kwargs):
        """Evidence lower bound of the cells, see scvi-tools; the same draws at every call."""
        with fixed_draws():
            return super().get_elbo(*args, **kwargs)

    def get_reconstruction_error(self, *args, **kwargs):
        """Reconstruction error of the cells, see scvi-tools; the same draws at every call."""
        with fixed_draws():
            return super().get_reconstruction_error(*args, **kwargs)

    def get_marginal_ll(self, *args, **kwargs):
        """Importance-sampled log-likelihood of the cells, see scvi-tools; the same draws at every call."""
        with fixed_draws():
            return super().get_marginal_ll(*args, **kwargs)

    def minify_adata(self, *args, **kwargs):
        """Refused: minified data keep the observed library size, which this model does not use."""
        raise ValueError(
            "minified data need an observed library size, but this model learns it from the counts. Keep the counts, "
            "or store `get_latent_representation()` and save the model without data."
        )


@contextlib.contextmanager
def fixed_draws():
    """Draw the same random numbers at every call, without touching the generators outside."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(_DRAWS_SEED)
        yield
