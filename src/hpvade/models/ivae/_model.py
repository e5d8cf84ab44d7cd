"""`IVAE`: an embedding of cells, with a second, readable one of two or three axes that is trained with it.

Longer than other files for the docstrings of the public methods; the work is in the modules it calls.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS

from ..._keys import Keys
from ...io._positions import cell_positions
from ...train._splitter import split_cells, torch_rng
from .._training import Budget, CellTraining
from .._vae import VAEMethods
from ._axes import order_axes
from ._data import CellModel
from ._expression import ExpressionMethods
from ._metrics import clustering_metrics
from ._module import IVAEModule
from ._options import module_options
from ._start import start_from_counts


class IVAE(VAEMethods, ExpressionMethods, CellTraining, CellModel):
    """Embed cells in a latent space and, through it, in a bottleneck of two or three axes that can be read.

    A variational autoencoder of counts. Its latent vector is compressed to the bottleneck by a linear map, expanded by
    another one, and must still reconstruct the cell. So the few numbers of the bottleneck are trained with the model,
    can be plotted directly, and have loadings: genes by axes. After training the axes are put in order and turned by
    what they explain. See the user guide for the model.

    Parameters
    ----------
    adata
        Cells x genes, after :meth:`setup_anndata`.
    registry
        Registry of a saved model; used by :meth:`load`.
    n_hidden
        Hidden units of encoder and decoder.
    n_latent
        Size of the latent vector.
    n_bottleneck
        Axes of the bottleneck.
    irecon
        Weight of the reconstruction through the bottleneck. With 0 the bottleneck is not trained, and what stands on
        it is refused.
    beta
        Weight of the KL divergence; below 1 for a better reconstruction, above for more independent axes.
    dip, tc, info
        Weights of three penalties that pull the aggregated posterior towards independent, standard normal axes:
        DIP, total correlation, and MMD (InfoVAE).
    **old_names
        `hidden_dim`, `latent_dim`, `i_dim`: older names of the sizes.

    Raises
    ------
    ValueError
        A size is below one or a weight below zero; the bottleneck is larger than the latent vector.
    TypeError
        An option is unknown, or given by both of its names.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.pbmc_reference()
    >>> hp.IVAE.setup_anndata(adata, labels_key="cell_type")
    >>> model = hp.IVAE(adata)
    >>> model.train(accelerator="cpu")  # doctest: +SKIP
    >>> model.get_bottleneck_representation().shape  # doctest: +SKIP
    (2638, 2)
    """

    _budget = Budget(steps=2500, least=10, most=400)  # a minute or two for 2,000 genes on two cores

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_bottleneck: int = 2,
        irecon: float = 1.0,
        beta: float = 1.0,
        dip: float = 0.0,
        tc: float = 0.0,
        info: float = 0.0,
        **old_names,
    ):
        super().__init__(adata, registry)
        sizes = {"n_hidden": n_hidden, "n_latent": n_latent, "n_bottleneck": n_bottleneck}
        weights = {"irecon": irecon, "beta": beta, "dip": dip, "tc": tc, "info": info}
        options = module_options(sizes | weights, old_names)
        stats, states = self.summary_stats, self.registry["field_registries"]
        covariates = states.get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {})
        self.module = IVAEModule(
            stats.n_vars,
            stats.n_batch,
            [int(n) for n in covariates.get("n_cats_per_key", [])],
            stats.get("n_extra_continuous_covs", 0),
            **options,
        )
        self.init_params_ = self._get_init_params(locals())

    def train(
        self,
        max_epochs: int | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float = 0.9,
        validation_size: float | None = None,
        batch_size: int = 128,
        early_stopping: bool = False,
        checkpoint_dir: str | None = None,
        ckpt_path: str | None = None,
        plan_kwargs: dict | None = None,
        datasplitter_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train, keep the weights of the lowest validation loss, and write the embeddings.

        ``adata.obsm["X_ivae"]`` and, unless `irecon` is 0, ``adata.obsm["X_ivae_bottleneck"]`` then hold the latent
        vectors and the bottleneck. The bottleneck's axes are principal axes: uncorrelated, of mean 0 and variance 1,
        the most explaining first, the larger loadings positive; latent axes are in that order and of that sign. Ctrl-C
        ends training early and keeps the best weights so far.

        Parameters
        ----------
        max_epochs
            Passes over the cells; about 2,500 optimisation steps when None, at least 10 epochs and at most 400.
        accelerator, devices
            As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
        train_size, validation_size
            Shares of cells; a validation size of None takes the rest.
        batch_size
            Cells per step; the last, smaller minibatch is used, too.
        early_stopping
            Stop after `early_stopping_patience` (20) epochs without a lower `elbo_validation`.
        checkpoint_dir
            Folder for a checkpoint of every epoch, ``last.ckpt``, and the best one.
        ckpt_path
            Checkpoint to resume from.
        plan_kwargs
            Options of `scvi.train.TrainingPlan`, such as `lr` (1e-3). The KL term is warmed up over a tenth of the
            epochs.
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
            A loss is not finite, naming the term; the model keeps the weights from before.
        """
        self._require_data()
        alike = np.zeros(self.adata.n_obs, dtype=np.int64)
        sizes = {"train_size": train_size, "validation_size": validation_size}
        self._train_on_cells(
            lambda: split_cells(alike, alike, torch_rng(), **sizes),
            initialise=lambda split: start_from_counts(self, split[0]),
            plan_defaults={"lr": 1e-3, "weight_decay": 0.0},
            trainer_defaults={"early_stopping_monitor": "elbo_validation"},
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
        order_axes(self)
        for key, embedding in self.get_embeddings().items():
            self.adata.obsm[key] = embedding

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        **kwargs,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Latent vectors (cells x `n_latent`); rows in the order of `indices`. :meth:`get_latent` is the same.

        Parameters
        ----------
        adata
            Cells whose genes include the model's, in any order; the model's data when None.
        indices
            Cells; all when None.
        give_mean
            The mean of the posterior, always the same; False draws a sample of it.
        batch_size
            Cells per pass.
        **kwargs
            ``return_dist=True`` returns means and variances; the rest as in scvi-tools.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            Genes of the model are absent.
        """
        with self.module.decoding(sample=not give_mean):
            return super().get_latent_representation(
                adata, indices, give_mean=give_mean, batch_size=batch_size, **kwargs
            )

    def get_bottleneck_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Bottleneck (cells x `n_bottleneck`) of the latent vectors. :meth:`get_iembed` is the same.

        Parameters
        ----------
        adata, indices, give_mean, batch_size
            See :meth:`get_latent_representation`.

        Raises
        ------
        RuntimeError
            The model is not trained, or `irecon` is 0, so that the bottleneck was not.
        """
        self._require_bottleneck("get_bottleneck_representation")
        latent = self.get_latent_representation(adata, indices, give_mean, batch_size)
        with torch.inference_mode():
            return self.module.vae.latent_encoder(torch.as_tensor(latent, device=self.device)).cpu().numpy()

    def get_latent(self, *args, **kwargs) -> np.ndarray:
        """Another name of :meth:`get_latent_representation`."""
        return self.get_latent_representation(*args, **kwargs)

    def get_iembed(self, *args, **kwargs) -> np.ndarray:
        """Another name of :meth:`get_bottleneck_representation`."""
        return self.get_bottleneck_representation(*args, **kwargs)

    def get_embeddings(self, adata: AnnData | None = None, batch_size: int | None = None) -> dict[str, np.ndarray]:
        """What :meth:`train` and `hpvade.tl.embed` write: the embeddings by their `obsm` key.

        Parameters
        ----------
        adata, batch_size
            See :meth:`get_latent_representation`.
        """
        embeddings = {Keys.IVAE: self.get_latent_representation(adata, batch_size=batch_size)}
        if self.module.weights["irecon"] > 0:
            embeddings[Keys.IVAE_BOTTLENECK] = self.get_bottleneck_representation(adata, batch_size=batch_size)
        return embeddings

    def get_loadings(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> pd.DataFrame:
        """Change of the log proportion of every gene per unit of each bottleneck axis, averaged over cells.

        The exact derivative through the bottleneck's expansion and the decoder, at the posterior mean of each cell.

        Parameters
        ----------
        adata, indices, batch_size
            See :meth:`get_latent_representation`.

        Returns
        -------
        Genes x axes, columns ``bottleneck_0``, ``bottleneck_1``, ...

        Raises
        ------
        RuntimeError
            The model is not trained, or `irecon` is 0.
        """
        self._require_bottleneck("get_loadings")
        adata = self._validate_anndata(adata)
        cells = cell_positions(adata.n_obs, indices)
        loader = self._make_data_loader(adata, cells, batch_size)
        total = sum(self.module.loadings(tensors).double() for tensors in loader)
        axes = [f"bottleneck_{i}" for i in range(total.shape[1])]
        return pd.DataFrame(total.cpu().numpy() / len(cells), index=pd.Index(self.get_var_names()), columns=axes)

    def get_metrics(
        self, labels: str | Sequence | None = None, *, sample: int | None = 5000, seed: int = 0
    ) -> pd.Series:
        """How well the latent vectors keep the given labels apart, and how independent their axes are.

        Labels are the user's, never a clustering of the model's own input.

        Parameters
        ----------
        labels
            Label of each cell, or a column of `adata.obs`; the `labels_key` of :meth:`setup_anndata` when None.
        sample
            Cells drawn without replacement when there are more; None takes all. The silhouette needs their square.
        seed
            Seed of the sample and of KMeans.

        Returns
        -------
        With labels: `ARI` and `NMI` between the labels and KMeans on the latent vectors with as many clusters, `ASW`
        (silhouette of the labels, rescaled to 0..1), `C_H` (Calinski-Harabasz), `D_B` (Davies-Bouldin; lower is better)
        and `P_C` (mean absolute Pearson correlation between different axes). Without labels: `C_H` and `D_B` of KMeans
        with `n_latent` clusters, and `P_C`; the name of the result says which.

        Raises
        ------
        ValueError
            The model was loaded without data; labels are missing, as many as other cells, or all alike.
        KeyError
            The column is absent.
        """
        self._require_data()
        latent = self.get_latent_representation()
        labels = self._labels(labels)
        if sample is not None and sample < len(latent):
            chosen = np.sort(np.random.default_rng(seed).choice(len(latent), sample, replace=False))
            latent, labels = latent[chosen], None if labels is None else labels[chosen]
        n_clusters = min(max(self.module.vae.latent_encoder.in_features, 2), len(latent) - 1)
        name = f"KMeans partition of the latent ({n_clusters} clusters); no labels were given"
        if labels is not None:
            n_clusters = len(np.unique(labels))
            name = f"{n_clusters} given labels"
            if not 2 <= n_clusters < len(latent):
                raise ValueError(
                    f"there are {n_clusters} labels for {len(latent)} cells; expected at least 2, and fewer than cells."
                )
        return pd.Series(clustering_metrics(latent, labels, n_clusters, seed), name=name)

    def _labels(self, labels: str | Sequence | None) -> np.ndarray | None:
        """Text labels of the cells, or None when there are none."""
        labels = self.registry["setup_args"].get("labels_key") if labels is None else labels
        if labels is None:
            return None
        if isinstance(labels, str):
            if labels not in self.adata.obs:
                raise KeyError(f"labels={labels!r} is not a column of adata.obs; found {list(self.adata.obs)[:20]}.")
            labels = self.adata.obs[labels]
        labels = pd.Series(np.asarray(labels, dtype=object))
        if len(labels) != self.adata.n_obs or labels.isna().any():
            raise ValueError(
                f"there are {len(labels)} labels, {int(labels.isna().sum())} of them missing, for {self.adata.n_obs} "
                "cells; expected one for each cell."
            )
        return labels.astype(str).to_numpy()

    def _require_bottleneck(self, method: str) -> None:
        self._check_if_trained(warn=False)
        if self.module.weights["irecon"] == 0:
            raise RuntimeError(
                f"{method}: the bottleneck was not trained, because irecon is 0; it would be a random projection of "
                "the latent vectors. Use IVAE(adata, irecon=1.0), or `get_latent_representation()`."
            )
