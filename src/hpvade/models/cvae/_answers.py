"""Questions to a trained network that `ConditionalVAE` and a loaded checkpoint answer alike."""

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch
from anndata import AnnData

from ...nn._normalize import log1p_cp10k
from . import _generate, _predict


class Answers:
    """Labels, counterfactuals, effects and synthetic cells.

    A subclass has `module.net` (a `ConditionalVAENet`), `device`, `get_var_names()`, the `_vocabularies`, `_read`,
    which finds the ids of cells, `_require_trained`, and `_default_control`.
    """

    @property
    def cell_types(self) -> list[str]:
        """Names of the cell types, sorted, in the order of every result."""
        return self._vocabularies["labels"].names

    @property
    def perturbations(self) -> list[str]:
        """Names of the perturbations, sorted, the control among them."""
        return self._vocabularies["perturbation"].names

    @property
    def experiments(self) -> list[str]:
        """Names of the experiments, sorted."""
        return self._vocabularies["batch"].names

    def generate(
        self,
        n_samples: int,
        *,
        labels: str | Sequence[str],
        perturbation: str | Sequence[str] | None = None,
        experiment: str | Sequence[str] | None = None,
        library_size: float | None = None,
        seed: int | None = None,
        unseen: Literal["error", "unk"] = "error",
    ) -> AnnData:
        """Draw synthetic cells of given conditions.

        Latent variables and totals are drawn as the training cells of the condition have them, those of a pair of
        type and perturbation without training cells as its type has them; then counts from the decoder.

        Parameters
        ----------
        n_samples
            Cells per condition.
        labels, perturbation, experiment
            Names; lists of equal length ask for several conditions, and a single name goes with all. Each cell gets an
            experiment drawn from those of the training cells of its condition (else of its type) when `experiment`
            is None. `perturbation` may be left out where the model has one only.
        library_size
            Expected total counts of every cell.
        seed
            Same seed, same cells; drawn from torch's generator when None.
        unseen
            ``"unk"`` takes the mean over the known names for an unknown one.

        Returns
        -------
        Cells x genes, integer counts (CSR float32); `obs` holds the conditions under the names of `setup_anndata`.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            A name is unknown; lists differ in length; a number is out of range.
        """
        self._require_trained("generate")
        return _generate.generate(
            self, n_samples, (labels, perturbation, experiment), library_size=library_size, seed=seed, unseen=unseen
        )

    def predict(
        self,
        adata: AnnData | None = None,
        *,
        soft: bool = False,
        n_samples: int = 32,
        batch_size: int | None = None,
        method: Literal["classifier", "elbo", "reconstruction"] | None = None,
        indices=None,
        unseen: Literal["error", "unk"] = "error",
    ) -> pd.Series | pd.DataFrame:
        """Cell types of cells; the same call gives the same answer.

        Parameters
        ----------
        adata
            Cells with the genes of the model; those it was set up with when None. Their labels are not looked at.
        soft
            Return probabilities.
        n_samples
            Draws of z, of a fixed seed and shared by all cells, over which probabilities are averaged.
        batch_size
            Cells per pass.
        method
            ``"classifier"`` averages the probabilities of the classifier on z (the default where there is one);
            ``"elbo"`` is the softmax over types of an importance-weighted bound on the likelihood (Burda et al. 2016),
            without weights for how frequent types are; ``"reconstruction"`` chooses the type that reconstructs the
            cell best from the mean of z.
        indices
            Cells; all when None.
        unseen
            ``"unk"`` accepts unknown names of experiments and perturbations.

        Returns
        -------
        Names (cells,), or probabilities (cells x types), rows sum to one.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            A column is absent; genes differ; counts are bad; a name is unknown; `method` is unknown or needs a
            classifier that the model was built without; ``soft=True`` with ``"reconstruction"``.
        """
        self._require_trained("predict")
        return _predict.predict(
            self, adata, indices, soft=soft, n_samples=n_samples, batch_size=batch_size, method=method, unseen=unseen
        )

    def predict_cell_type(self, adata: AnnData | None = None, **kwargs) -> pd.Series | pd.DataFrame:
        """Cell types of cells: another name of :meth:`predict`."""
        return self.predict(adata, **kwargs)

    def get_counterfactual_expression(
        self,
        adata: AnnData | None = None,
        *,
        perturbation: str | None = None,
        labels: str | None = None,
        experiment: str | None = None,
        library_size: float | Literal["latent"] = 1,
        indices=None,
        batch_size: int | None = None,
        unseen: Literal["error", "unk"] = "error",
    ) -> pd.DataFrame:
        """Expression of cells had they another perturbation, type or experiment.

        Cells are encoded as they are, and decoded from the mean of z with the changed factors. What is not given stays
        as it is: without any, this is the reconstruction.

        Parameters
        ----------
        adata
            Cells with the genes of the model; those it was set up with when None.
        perturbation, labels, experiment
            Names to decode with.
        library_size
            What each row sums to; ``"latent"``: the cell's own total.
        indices, batch_size, unseen
            See :meth:`predict`.

        Returns
        -------
        Cells x genes.

        Raises
        ------
        RuntimeError
            The model is not trained.
        KeyError, ValueError
            See :meth:`predict`.
        """
        self._require_trained("get_counterfactual_expression")
        target = {"labels": labels, "perturbation": perturbation, "experiment": experiment}
        return _predict.counterfactual(
            self, adata, indices, target, library_size=library_size, batch_size=batch_size, unseen=unseen
        )

    def predict_perturbation_effect(
        self, adata: AnnData | None = None, *, control: str | None = None, **kwargs
    ) -> pd.DataFrame:
        """Expression that cells would have as control: :meth:`get_counterfactual_expression` with the control.

        Parameters
        ----------
        adata
            Cells; those the model was set up with when None.
        control
            Name of the control; that of `setup_anndata` when None.
        **kwargs
            For :meth:`get_counterfactual_expression`.

        Raises
        ------
        ValueError
            The model has seen no control cells.
        """
        return self.get_counterfactual_expression(adata, perturbation=self._control_name(control), **kwargs)

    def perturbation_effects(
        self,
        adata: AnnData | None = None,
        *,
        control: str | None = None,
        min_cells: int = 10,
        indices=None,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """What each perturbation does to each gene in each cell type.

        The effect in a cell is log2((x + 1) / (x_control + 1)), where x is its expression decoded with its own
        perturbation and x_control with the control, both scaled to 10,000 counts. Noise of the counts is in neither.

        Parameters
        ----------
        adata
            Perturbed cells; those the model was set up with when None.
        control
            Name of the control; that of `setup_anndata` when None.
        min_cells
            Pairs of perturbation and cell type with fewer cells are left out.
        indices, batch_size
            See :meth:`predict`.

        Returns
        -------
        One row per perturbation, cell type and gene: `mean_log2_fold_change` and `sd` over cells, the interval `lower`
        to `upper` that holds 95 % of the cells, `fold_change` (2 to the power of the mean), `n_cells`, and
        `direction_probability`, the share of cells in which the effect has the sign of the mean.

        Raises
        ------
        RuntimeError
            The model is not trained.
        ValueError
            The model has seen no control cells; no pair has `min_cells` cells; see :meth:`predict`.
        """
        self._require_trained("perturbation_effects")
        return _predict.perturbation_effects(
            self, adata, indices, self._control_name(control), min_cells=min_cells, batch_size=batch_size
        )

    def _control_name(self, given: str | None) -> str:
        vocabulary = self._vocabularies["perturbation"]
        if vocabulary.column is None:
            raise ValueError(
                "the model was set up without perturbations, so it knows no effects. Set it up with perturbation_key=."
            )
        name = str(self._default_control if given is None else given)
        if name not in vocabulary.names:
            raise ValueError(
                f"obs[{vocabulary.column!r}] had no control cells named {name!r} when the model was set up; found "
                f"{vocabulary.names[:20]}. Pass control= one of them, or control_category in setup_anndata."
            )
        return name

    def _encode(self, batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of z of a minibatch of `Cells`."""
        x = batch.x if self.module.net.config.likelihood == "nb" else log1p_cp10k(batch.x)
        return self.module.net.encode(x, batch.cell_types, batch.perturbations, batch.experiments)

    def _candidate_error(self, batch, z: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        x = batch.x if self.module.net.config.likelihood == "nb" else log1p_cp10k(batch.x)
        return self.module.net.candidate_error(x, z, k, batch.perturbations, batch.experiments, batch.library)
