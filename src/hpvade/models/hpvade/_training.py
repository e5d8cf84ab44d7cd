"""`HPVADE`'s training: from registered cells to signature, networks and uncertainty."""

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from ..._text import whole_number
from ...reference._cell_size import cell_sizes
from ...reference._mixtures import BulkSimulation
from ...reference._signature import Signature, gene_scores
from ...reference._studies import Studies
from ...train._fit import check_options, fit, run_seed, saved_split
from ...train._splitter import split_cells
from .._device import choose_device
from ._intervals import reference_uncertainty
from ._sorted import mark_sorted
from ._training_data import TrainingData

# A budget of optimisation steps, whatever the number of cells. An epoch has a tenth of them, or one pass over the cells
# if that is shorter, but at least ten steps, so that validation, early stopping and warm-up have epochs to work with.
_STEPS, _EPOCHS, _MIN_STEPS = 100, 10, 10
STUDY, N_CELLS = "study", "n_cells"  # names in the registry


class TrainMethods:
    """`HPVADE.train`; needs `module`, `adata_manager`, `cell_types`, `studies`, `preset` and `cell_size`."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float = 0.9,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = True,
        checkpoint_dir: str | None = None,
        ckpt_path: str | None = None,
        simulation_kwargs: dict | None = None,
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train on cells and on bulk that is simulated from them anew in every epoch.

        With three donors or more, whole donors are held out for validation, else cells. Training stops when the total
        loss on held-out cells and mixtures no longer falls, and the best weights are kept; so they are on Ctrl-C.
        `adata.varm["hpvade_signatures"]` then holds :meth:`get_signature_matrix`.

        Parameters
        ----------
        max_epochs
            Most passes over the cells. When None, 100 optimisation steps, whatever the number of cells: of a large
            reference the networks see a random part. More steps give a clearer latent space, not better proportions
            (benchmarks/RESULTS.md). 0 trains no network: signature, RNA content, folds and intervals
            are there, :meth:`deconvolve` answers, and what needs the networks (latent space, `refine=False`) says so.
        accelerator, devices
            As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
        train_size, validation_size
            Shares of cells.
        batch_size
            Cells per step.
        early_stopping
            Stop after `early_stopping_patience` (20) epochs without a lower `validation_loss`.
        checkpoint_dir
            Folder for a checkpoint of every epoch, ``last.ckpt``, and the best one.
        ckpt_path
            Checkpoint to resume from.
        simulation_kwargs
            How mixtures are drawn: `n_cells` per mixture, Dirichlet `alpha`, `prior` (shares of composition priors,
            see `hpvade.simulate.sample_proportions`), `noise` (`hpvade.simulate.PlatformNoise` or None),
            `heterogeneous` (share of mixtures whose types come from different donors), `cohort_size`.
        plan_kwargs
            Options of `scvi.train.TrainingPlan`, such as `lr`.
        datasplitter_kwargs
            Options of the loader of cells, such as `num_workers`.
        **trainer_kwargs
            Options of `scvi.train.Trainer` and Lightning's, such as `logger` and `enable_progress_bar`.

        Raises
        ------
        ValueError
            The model was loaded without data; shares are out of range; early stopping without validation cells.
        TypeError
            An option is unknown.
        RuntimeError
            A loss is not finite; the model keeps the weights from before.
        """
        if self.adata is None:
            raise ValueError("the model was loaded without data; expected a reference. Use HPVADE.load(dir, adata).")
        check_options(plan_kwargs, datasplitter_kwargs, trainer_kwargs)
        whole_number("batch_size", batch_size)
        if max_epochs is not None:
            whole_number("max_epochs", max_epochs, 0)
        simulation = self._simulation(simulation_kwargs or {})
        seed = run_seed(ckpt_path)
        split_rng = np.random.default_rng(seed)
        (rng,) = split_rng.spawn(1)  # a resumed run draws no split
        types, donors, study_of_donor = self._codes(REGISTRY_KEYS.LABELS_KEY), *self._donors()
        split = saved_split(self, ckpt_path)
        n_cells = self._registered_n_cells()
        if n_cells is not None:
            if max_epochs:
                raise ValueError(
                    f"max_epochs={max_epochs}, and the rows of this reference are sums of cells (n_cells_key); the "
                    "networks learn from single cells. Use train() or train(max_epochs=0)."
                )
            max_epochs, split = 0, (np.arange(self.adata.n_obs), *np.zeros((2, 0), dtype=np.int64))
        if split is None:
            split = split_cells(types, donors, split_rng, train_size=train_size, validation_size=validation_size)
        X = self.adata_manager.get_from_registry(REGISTRY_KEYS.X_KEY)
        data = TrainingData(
            X,
            types,
            donors,
            len(self.cell_types),
            np.asarray(self.get_var_names()),
            len(self.module.gene_index),
            split,
            rng,
            study_of_donor,
            self.studies,
            n_cells,
        )
        if max_epochs == 0 and ckpt_path is None:
            self._without_networks(split, choose_device(accelerator, devices if isinstance(devices, str) else "auto"))
        else:
            self._train_networks(
                data,
                simulation,
                max_epochs,
                batch_size,
                plan_kwargs or {},
                datasplitter_kwargs or {},
                trainer_kwargs,
                early_stopping=early_stopping,
                checkpoint_dir=checkpoint_dir,
                accelerator=accelerator,
                devices=devices,
                ckpt_path=ckpt_path,
                seed=seed,
            )
        self._describe(*data.whole)
        if self.preset == "default":
            self.module.set_uncertainty(*reference_uncertainty(self.module, data.folds()))
            mark_sorted(self.module, self.cell_types, self.adata.uns)
        self._write_signatures()

    def _train_networks(
        self,
        data: TrainingData,
        simulation: BulkSimulation,
        max_epochs: int | None,
        batch_size: int,
        plan_kwargs: dict,
        datasplitter_kwargs: dict,
        trainer_kwargs: dict,
        **options,
    ) -> None:
        """Fit the networks; arguments as the user gave them, `options` those of `hpvade.train._fit.fit`."""
        n_steps = max(-(-len(data.split[0]) // batch_size), _MIN_STEPS)  # one pass over the cells
        if max_epochs is None:
            n_steps = min(n_steps, max(_STEPS // _EPOCHS, _MIN_STEPS))
            max_epochs = -(-_STEPS // n_steps)
        streams = data.streams(simulation, n_steps)
        plan_defaults, trainer_defaults = {"weight_decay": 0.0}, {"limit_train_batches": n_steps}
        if self.preset == "default":
            plan_defaults |= {"n_epochs_kl_warmup": max(max_epochs // 10, 1)}
            trainer_defaults |= {"gradient_clip_val": 1.0}
        splitter = self._data_splitter_cls(
            self.adata_manager,
            split=data.split,
            streams=streams,
            batch_size=batch_size,
            n_cells=max_epochs * n_steps * batch_size,
            **datasplitter_kwargs,
        )
        is_new = not (self.is_trained_ and self.module.network_trained)
        fit(
            self,
            splitter,
            initialise=(lambda: self._initialise(data, streams["train"])) if is_new else None,
            plan_kwargs=plan_defaults | plan_kwargs,
            max_epochs=max_epochs,
            **options,
            **trainer_defaults | trainer_kwargs,
        )
        self.module.network_trained.fill_(True)

    def _simulation(self, given: dict) -> BulkSimulation:
        defaults = {} if self.preset == "default" else {"noise": None, "prior": {"dirichlet": 1.0}}
        try:
            return BulkSimulation(**defaults | given)
        except TypeError as error:
            fields = list(BulkSimulation.__dataclass_fields__)
            raise TypeError(f"simulation_kwargs={given}; expected some of {fields}.") from error

    def _initialise(self, data: TrainingData, stream) -> None:
        """Fill the module from the training cells."""
        self._describe(data.signature)
        self.module.gene_index.copy_(torch.as_tensor(data.gene_index))
        bulk = torch.cat([batch["bulk"] for batch in stream])
        self.module.initialise(data.some_cells(), bulk)

    def _describe(self, signature: Signature, studies: Studies | None = None) -> None:
        """Tell the module what cells say about the types."""
        score = gene_scores(signature.mean_counts, np.asarray(self.get_var_names()))
        tensors = (score, signature.mean_counts, signature.composition, self._size_ratio(signature.mean_counts))
        self.module.set_reference(*map(torch.as_tensor, tensors))
        if studies is not None:
            ratios = np.stack([self._size_ratio(mean_counts) for mean_counts in studies.mean_counts])
            self.module.set_studies(*map(torch.as_tensor, (studies.mean_counts, studies.measured, ratios)))

    def _size_ratio(self, mean_counts: np.ndarray) -> np.ndarray:
        """What turns the counts per cell of each type into its pooled size (types,), with mean one."""
        umi = mean_counts.sum(axis=0)
        ratio = cell_sizes(self.cell_types, umi, self.cell_size) / umi
        return ratio / ratio.mean()

    def _donors(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Donor of every row, told apart by study, and the study of every donor; None with one study."""
        donors = self._codes(REGISTRY_KEYS.SAMPLE_KEY)
        if not self.studies:
            return donors, None
        both, donors = np.unique(self._codes(STUDY) * (donors.max() + 1) + donors, return_inverse=True)
        return donors, both // (self._codes(REGISTRY_KEYS.SAMPLE_KEY).max() + 1)

    def _registered_n_cells(self) -> np.ndarray | None:
        """Cells in each row, where rows are sums of cells."""
        if N_CELLS not in self.registry["field_registries"]:
            return None
        return self.adata_manager.get_from_registry(N_CELLS).ravel().astype(float)

    def _without_networks(self, split: tuple[np.ndarray, np.ndarray, np.ndarray], device: torch.device) -> None:
        """Count as trained on `split` without a step."""
        self.train_indices, self.validation_indices, self.test_indices = split
        self.history_ = self.history_ or {}
        self.is_trained_ = True
        self.to_device(device)
        self.module.eval()
