"""What both regularised models offer on AnnData: training, queries, and scvi's methods made reproducible."""

import numpy as np

from ...train._splitter import split_cells, torch_rng
from .._base import BaseModel
from .._training import Budget, CellTraining
from .._vae import VAEMethods
from ._details import DetailMethods
from ._fixed_draws import fixed_draws
from ._query import apply_masks, load_query
from ._readout import Readout
from ._regularized_plan import RegularizedPlan
from ._setup import categories, refuse_unknown_categories
from ._shared_module import BATCH, LIBRARY
from ._sized_splitter import SizedSplitter
from ._start import start_from_data

_PLAN_OPTIONS = ("modality_lr_multiplier", "background_lr_multiplier", "background_level_share")


class RegularizedFace(Readout, DetailMethods, VAEMethods, CellTraining, BaseModel):
    """Training and queries of both regularised models, with the methods of :class:`Readout`."""

    _data_splitter_cls = SizedSplitter
    _training_plan_cls = RegularizedPlan
    _budget = Budget(steps=6000, least=20, most=400, warmup=4)

    def _start_from_data(self, given: dict) -> None:
        """Give the module starting values from the registered cells; `given` are the options that the user chose."""
        start_from_data(self, given)

    def _validate_anndata(self, adata=None, copy_if_view: bool = True):
        """Also refuse categories that the model does not know, by name."""
        is_new = isinstance(adata, self._data_kind()) and adata is not self.adata
        if is_new and self.get_anndata_manager(adata) is None:
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
        self._require_data()
        if hasattr(self, "query_masks_"):
            apply_masks(self)  # a loaded query has none yet
            if not self.module.trainable_masks:
                raise ValueError("this query has no new category and everything else is frozen: nothing to train.")
        plan_kwargs = dict(plan_kwargs or {})
        extra = {key: plan_kwargs.pop(key) for key in _PLAN_OPTIONS if key in plan_kwargs}
        if "modality_lr_multiplier" in extra and not hasattr(self.module, "get_parameter_groups"):
            raise TypeError("modality_lr_multiplier needs several modalities; use plan_kwargs={'lr': ...}.")
        if (validation_batch_size or 1) < 1:
            raise ValueError(f"{validation_batch_size=}; expected at least 1.")
        if self.module.trainable_masks and plan_kwargs.get("weight_decay"):
            raise ValueError("weight_decay would change the frozen reference; leave it out when training a query.")
        n_features = sum(self.module.layout.n_vars.values())
        library, one = self._codes(LIBRARY).ravel(), np.zeros(self.adata.n_obs, dtype=np.int64)
        sizes = {"train_size": train_size, "validation_size": validation_size}
        self._train_on_cells(
            lambda: split_cells(library, one, torch_rng(), **sizes),
            plan_defaults={"weight_decay": 0.0} | extra,
            trainer_defaults={"early_stopping_min_delta": early_stopping_min_delta_per_feature * n_features},
            splitter_options={"validation_batch_size": validation_batch_size},
            max_epochs=max_epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            checkpoint_dir=checkpoint_dir,
            ckpt_path=ckpt_path,
            accelerator=accelerator,
            devices=devices,
            plan_kwargs=plan_kwargs,
            datasplitter_kwargs=datasplitter_kwargs,
            trainer_kwargs=trainer_kwargs,
        )

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
        from ..._figures._training import training_history

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
