"""`ConditionalVAE`: generation, labels and counterfactuals of cells given type, perturbation and experiment."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Literal

import numpy as np
import torch
from anndata import AnnData

from .._training import Budget, CellTraining
from .._vae import VAEMethods
from . import _generate, _predict
from ._answers import Answers
from ._checkpoint import checkpoint, load_trained_model, write_checkpoint
from ._data import ConditionModel
from ._module import ConditionalVAEModule
from ._responses import fit_responses
from ._scvi_methods import CountMethods
from ._setup import split_training
from ._vae_config import VAEConfig


class ConditionalVAE(Answers, CountMethods, VAEMethods, CellTraining, ConditionModel):
    """A generative model of cells, conditioned on cell type, perturbation and experiment.

    The encoder sees the expression and the experiment only; type and perturbation enter the decoder. So a cell can be
    encoded as it is and decoded as it would be under another perturbation. See the user guide for the model.

    Parameters
    ----------
    adata
        Cells x genes, after :meth:`setup_anndata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    config
        Sizes, weights, learning rate and batch size in one object, :class:`hpvade.nn.cvae.VAEConfig`. Arguments of
        the same meaning that differ from their default replace its values; `input_dim` and the sizes of the
        vocabularies are those of the data, and the other options are arguments here.
    n_latent
        Latent dimensions.
    hidden_dims
        Hidden units of the encoder; the decoder has them reversed.
    cell_type_embed_dim, perturbation_embed_dim, experiment_embed_dim
        Sizes of the embeddings.
    kld_weight, reconstruction_weight
        Weights of the divergence from the prior and of the reconstruction.
    likelihood
        ``"nb"``: counts, negative binomial. ``"mse"``: squared error of log1p counts per 10,000.
    encoder_conditioning
        What the encoder is told: the ``"experiment"``, ``"none"``, or ``"all"``, as in the literal network. With
        ``"all"``, z depends on the perturbation, and counterfactuals may not show all of its effect.
    classifier_weight
        Weight of the classifier of cell types on z; 0 leaves it out.
    mmd_weight
        Weight of a penalty on differences of z between perturbations.

    Raises
    ------
    ValueError
        An option is unknown or out of range.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.planted_contexts(200, 50, fields={"condition": 2})
    >>> hp.ConditionalVAE.setup_anndata(
    ...     adata, "cell_type", perturbation_key="condition", control_category="condition_0"
    ... )
    >>> model = hp.ConditionalVAE(adata)
    >>> model.train(accelerator="cpu")  # doctest: +SKIP
    >>> cells = model.generate(100, labels="type_0", perturbation="condition_1")  # doctest: +SKIP
    """

    _budget = Budget(steps=1500, least=20, most=300)  # a minute and a half for 5,000 x 2,000 genes on two cores

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        config: VAEConfig | dict | None = None,
        n_latent: int = 128,
        hidden_dims: Sequence[int] = (512, 256),
        cell_type_embed_dim: int = 32,
        perturbation_embed_dim: int = 32,
        experiment_embed_dim: int = 16,
        kld_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        likelihood: Literal["nb", "mse"] = "nb",
        encoder_conditioning: Literal["experiment", "none", "all"] = "experiment",
        classifier_weight: float = 1.0,
        mmd_weight: float = 0.0,
    ):
        super().__init__(adata, registry)
        config = asdict(config) if isinstance(config, VAEConfig) else config
        sizes = {
            "latent_dim": (n_latent, 128),
            "hidden_dims": (list(hidden_dims), [512, 256]),
            "cell_type_embed_dim": (cell_type_embed_dim, 32),
            "perturbation_embed_dim": (perturbation_embed_dim, 32),
            "experiment_embed_dim": (experiment_embed_dim, 16),
            "kld_weight": (kld_weight, 1.0),
            "reconstruction_weight": (reconstruction_weight, 1.0),
        }
        types, perturbations, experiments = self._vocabularies.values()
        self.prior_size_, self.n_responses_ = None, 0
        self.module = ConditionalVAEModule(
            VAEConfig(
                **_sizes(config or {}, sizes),
                input_dim=self.summary_stats.n_vars,
                n_cell_types=len(types),
                n_perturbations=len(perturbations),
                n_experiments=len(experiments),
                likelihood=likelihood,
                encoder_conditioning=encoder_conditioning,
                normalization="layer",
                control_perturbation=self._control,
                classifier_weight=classifier_weight,
                mmd_weight=mmd_weight,
                perturbation_offset=True,
            ),
            types.registry_ids(),
            perturbations.registry_ids(),
            experiments.registry_ids(),
            use_size_factor=self.get_setup_arg("size_factor_key") is not None,
        )
        self.init_params_ = self._get_init_params(locals())

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        batch_size: int | None = None,
        train_size: float = 0.9,
        validation_size: float | None = None,
        split_by: str | None = None,
        learning_rate: float | None = None,
        early_stopping: bool = True,
        checkpoint_dir: str | None = None,
        ckpt_path: str | None = None,
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train, and keep the weights with the lowest loss on held-out cells; so they are on Ctrl-C.

        The learning rate halves when that loss has not fallen for 10 epochs. Cells that :meth:`augment_reference`
        generated are never held out.

        Parameters
        ----------
        max_epochs
            Most passes over the cells; about 1,500 optimisation steps when None, at least 20 epochs.
        accelerator, devices
            As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
        batch_size, learning_rate
            Those of the config when None: 256 cells and 1e-3.
        train_size, validation_size
            Shares of cells.
        split_by
            Hold out whole ``"experiment"`` or ``"perturbation"`` groups, or those of any column of `adata.obs`; cells
            within types when None. The control is never held out.
        early_stopping
            Stop after `early_stopping_patience` (20) epochs without a lower `validation_loss`.
        checkpoint_dir
            Folder for a checkpoint of every epoch, ``last.ckpt``, and the best one.
        ckpt_path
            Checkpoint to resume from.
        plan_kwargs
            Options of `scvi.train.TrainingPlan`.
        datasplitter_kwargs
            Options of the loader of cells, such as `num_workers`.
        **trainer_kwargs
            Options of `scvi.train.Trainer` and Lightning's, such as `logger`, `precision` and `enable_progress_bar`.

        Raises
        ------
        KeyError
            There is no column `split_by`.
        ValueError
            The model was loaded without data; shares are out of range; there are too few groups to hold one out; early
            stopping without validation cells.
        TypeError
            An option is unknown.
        RuntimeError
            A loss is not finite; the model keeps the weights from before.
        """
        self._require_data()
        net, config = self.module.net, self.module.net.config
        batch_size = config.batch_size if batch_size is None else batch_size
        learning_rate = config.learning_rate if learning_rate is None else learning_rate
        if learning_rate <= 0:
            raise ValueError(f"learning_rate={learning_rate}; expected more than 0.")
        plan = {"lr": learning_rate, "weight_decay": 1e-5, "reduce_lr_on_plateau": True}
        plan |= {"lr_factor": 0.5, "lr_patience": 10, "lr_scheduler_metric": "validation_loss"}
        prior, responses = net.prior, net.responses
        net.prior = net.responses = None  # fitted anew after training
        try:
            train_cells, validation_cells, *_ = self._train_on_cells(
                lambda: split_training(self, split_by, train_size, validation_size),
                initialise=lambda split: _generate.initialise(self, split[0]),
                plan_defaults=plan,
                trainer_defaults={"gradient_clip_val": 1.0},
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
        except torch.OutOfMemoryError as error:
            net.prior, net.responses = prior, responses
            raise torch.OutOfMemoryError(
                f"{error} Lower the batch size: train(batch_size={max(batch_size // 2, 1)}). Checkpoints written so "
                "far are kept."
            ) from error
        except BaseException:
            net.prior, net.responses = prior, responses
            raise
        _generate.fit_prior(self, train_cells)
        # cells that were held out at random are cells like the others; a group held out as a whole is for judging
        fit_responses(self, train_cells if split_by else np.union1d(train_cells, validation_cells))

    def get_latent_representation(
        self, adata: AnnData | None = None, indices=None, *, unseen: Literal["error", "unk"] = "error", **kwargs
    ):
        """Latent representation of cells (cells x latent), the mean of z; see scvi-tools for the other arguments.

        With ``unseen="unk"`` unknown names of experiments are accepted, and `return_dist` alone is available.
        """
        if unseen == "error":
            return super().get_latent_representation(adata, indices, **kwargs)
        if unknown := sorted(kwargs.keys() - {"return_dist", "batch_size", "give_mean"}):
            raise ValueError(f"unseen={unseen!r} does not go with {unknown}; leave one of them out.")
        self._require_trained("get_latent_representation")
        used = (
            ("labels", "perturbation", "batch") if self.module.net.config.encoder_conditioning == "all" else ("batch",)
        )
        cells = self._read(adata, indices, used=used, unseen=unseen)
        mu, variance = _predict.posterior(self, cells, kwargs.get("batch_size"))
        return (mu, variance) if kwargs.get("return_dist") else mu

    def augment_reference(
        self,
        adata: AnnData | None = None,
        *,
        min_cells: int,
        pairs: bool = False,
        seed: int | None = None,
    ) -> AnnData:
        """Fill up rare cell types with generated cells, as a reference for `HPVADE`. Experimental.

        On simulated bulk the error of a type with ten cells fell; on real bulk no consistent gain was found. Compare
        the answers with those of the reference as it is, and prefer cells of the type from another study.

        A generated cell is a new draw around a real cell of its type: z from the posterior of that cell, counts from
        the decoder with that cell's total. Expression is corrected by how the real cells of the type differ from what
        the network expects of them, as far as their number allows to tell. A cell takes over all columns of `obs` of
        its real cell, so that donors and RNA content stay right. Where `adata` is what the model was trained on, only
        training cells serve as such.

        Parameters
        ----------
        adata
            Labelled cells; those the model was set up with when None.
        min_cells
            Types with fewer cells are filled up to this number.
        pairs
            Fill up every pair of type and perturbation, also pairs without any cell: from cells of the type decoded
            with the other perturbation.
        seed
            Same seed, same cells; drawn from torch's generator when None.

        Returns
        -------
        The cells of `adata`, unchanged, then the generated ones: counts in `X`, all columns of `obs`, and
        ``obs["hpvade_generated"]``. Cells without a known type stay as they are.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            `min_cells` is below one; see :meth:`predict`.
        """
        self._require_trained("augment_reference")
        return _generate.augment(self, adata, min_cells=min_cells, pairs=pairs, seed=seed)

    def export_checkpoint(self, path) -> None:
        """Write one file with the network, its sizes, vocabularies and gene names, for :meth:`load_trained_model`."""
        self._require_trained("export_checkpoint")
        write_checkpoint(path, self._checkpoint(*self._best()))

    @staticmethod
    def load_trained_model(path, device: str = "cpu"):
        """Load such a file, or ``best_model.pt``: ``(network, config, vocabularies)``; see `hpvade.nn.cvae`."""
        return load_trained_model(path, device)

    def _checkpoint(self, epoch: int, val_loss: float, optimizer: dict | None = None) -> dict:
        """What a checkpoint file holds."""
        types, perturbations, experiments = (v.ids_by_name() for v in self._vocabularies.values())
        vocabularies = {"cell_type": types, "perturbation": perturbations, "srx_accession": experiments}
        return checkpoint(
            self.module.net, vocabularies, self.get_var_names(), epoch=epoch, val_loss=val_loss, optimizer=optimizer
        )

    def _best(self) -> tuple[int, float]:
        """Number of the epoch whose weights the model has, from 1, and its validation loss (training without one)."""
        losses = self.history["validation_loss" if "validation_loss" in self.history else "train_loss"]
        values = losses.iloc[:, 0].astype(float)
        at = values.idxmin() if "validation_loss" in self.history else values.index[-1]
        return int(at) + 1, float(values[at])


def _sizes(config: dict, arguments: dict[str, tuple]) -> dict:
    """Values of the config, replaced by the arguments that differ from their default; arguments: (value, default)."""
    chosen = {name: config[name] for name in ("learning_rate", "batch_size") if name in config}
    for name, (value, default) in arguments.items():
        chosen[name] = config.get(name, value) if value == default else value
    return chosen
