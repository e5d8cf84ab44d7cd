"""`CycleAE`: expression as a shared part plus one part per metadata field, and cells rewritten into other contexts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from ...train._fit import check_options
from ...train._runner import ResumableTrainRunner
from . import _tables
from ._chunk_files import ChunkDataModule
from ._context_data import ContextDataModule
from ._context_field import CONTEXT_KEY
from ._cycle_plan import CyclePlan
from ._data import ContextModel
from ._fit import loss_weights as checked_weights
from ._fit import run
from ._module import CycleModule
from ._translate import translate_reference


class CycleAE(ContextModel):
    r"""Additive, context-conditioned cycle autoencoder.

    Expression is the sum of a base that all contexts share and one part per metadata field (assay, disease, sex,
    tissue, ...). Cells are moved to other contexts and back; a classifier, trained on real cells only, says whether
    they arrived. See the user guide for the model.

    Parameters
    ----------
    adata
        Cells x genes, after :meth:`setup_anndata`.
    registry
        Registry of a saved model or of a `ChunkDataModule`.
    n_latent
        Size of every head's hidden encoding.
    activation
        ``"linear"``, the published model, or ``"relu"``: ReLU after the encoders and an intercept per gene.
    scale
        ``"log1p"``: log of one plus counts per ten thousand; ``"counts"``: raw counts, the published choice.
    head_scale
        Factor of the fields' parts: a number (0.0159 as published) or ``"learned"``, started there.
    nonnegative
        Keep all weights at zero or above, as published: a context then can only add to the base, and cells are
        reconstructed less well. Without, counterfactuals can fall.
    classifier_hidden
        Hidden units of the classifier; `n_latent` when None.
    start
        ``"data"``: the base starts at the leading components of the cells, the heads at the mean effects of their
        fields; ``"uniform"``: uniform weights with one scale per head, as published.

    Raises
    ------
    ValueError
        An option is out of range.

    Examples
    --------
    >>> import hpvade as hp
    >>> adata = hp.datasets.planted_contexts(200, 100)
    >>> hp.CycleAE.setup_anndata(adata, ["condition", "tissue"])
    >>> model = hp.CycleAE(adata, n_latent=16)
    >>> model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    >>> stimulated = model.get_counterfactual_expression(context={"condition": "condition_1"})
    >>> stimulated.shape
    (200, 100)
    """

    _data_splitter_cls = ContextDataModule
    _training_plan_cls = CyclePlan
    _train_runner_cls = ResumableTrainRunner

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_latent: int = 128,
        activation: Literal["linear", "relu"] = "linear",
        scale: Literal["log1p", "counts"] = "log1p",
        head_scale: float | Literal["learned"] = "learned",
        nonnegative: bool = False,
        classifier_hidden: int | None = None,
        start: Literal["data", "uniform"] = "data",
    ):
        super().__init__(adata, registry)
        choices = {"activation": ("linear", "relu"), "scale": ("log1p", "counts"), "start": ("data", "uniform")}
        for name, allowed in choices.items():
            if locals()[name] not in allowed:
                raise ValueError(f"{name}={locals()[name]!r}; expected one of {allowed}.")
        if n_latent < 1 or (classifier_hidden is not None and classifier_hidden < 1):
            raise ValueError(f"n_latent={n_latent}, classifier_hidden={classifier_hidden}; expected at least 1.")
        if head_scale != "learned" and not (isinstance(head_scale, int | float) and 0 < head_scale < np.inf):
            raise ValueError(f"head_scale={head_scale!r}; expected 'learned' or a number above zero.")
        state = self.registry["field_registries"][CONTEXT_KEY]["state_registry"]
        self.start = start
        self.module = CycleModule(
            self.summary_stats.n_vars,
            self.fields,
            [len(categories) for categories in state["categories"]],
            list(state["has_missing"]),
            n_latent=n_latent,
            activation=activation,
            scale=scale,
            head_scale=head_scale,
            nonnegative=nonnegative,
            classifier_hidden=classifier_hidden,
        )
        self.init_params_ = self._get_init_params(locals())

    def train(
        self,
        max_epochs: int = 10,
        *,
        accelerator: str = "auto",
        batch_size: int = 128,
        learning_rate: float = 1e-3,
        classifier_warmup_epochs: int = 1,
        loss_weights: dict[str, float] | None = None,
        normalize_losses: bool = True,
        effect_l2: float = 1e-4,
        train_size: float = 0.9,
        validation_size: float | None = None,
        split_by: str | None = None,
        early_stopping: bool = False,
        checkpoint_dir: str | None = None,
        ckpt_path: str | None = None,
        datamodule: ChunkDataModule | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train generator and classifier in turn. The weights of the lowest `validation_loss` are kept; so on Ctrl-C.

        Parameters
        ----------
        max_epochs
            Passes over the cells, those of the warm-up included.
        accelerator
            As in Lightning: ``"auto"``, ``"cpu"``, ``"gpu"``, ...
        batch_size
            Cells per step.
        learning_rate
            Of both optimisers; 1e-4 as published.
        classifier_warmup_epochs
            Epochs in which the classifier learns alone.
        loss_weights
            Weights, all 1 by default: `recon` (there and back), `integ` (hidden encodings of both cycles agree),
            `target` (the classifier sees the target), `identity` (the own context reconstructs the cell), `effect`
            (changes follow the mean differences between contexts). The published model has the first three.
        normalize_losses
            Divide every term by its average over the first epoch, so that equal weights mean equal influence.
        effect_l2
            Shrinkage of the fields' effects.
        train_size, validation_size
            Shares of cells.
        split_by
            Column of `adata.obs` whose groups (donors, say) are held out as a whole; `ChunkDataModule` has its own.
        early_stopping
            Stop after `early_stopping_patience` (20) epochs without a lower `validation_loss`.
        checkpoint_dir
            Folder for a checkpoint of every epoch, ``last.ckpt``, and the best one.
        ckpt_path
            Checkpoint to resume from: on a CPU the result is that of an uninterrupted run.
        datamodule
            Cells in files, for a model made with ``CycleAE(registry=datamodule.registry)``.
        **trainer_kwargs
            Options of `scvi.train.Trainer` and Lightning's, such as `logger` and `enable_progress_bar`.

        Raises
        ------
        ValueError
            There are no cells; shares or weights are out of range; `datamodule` holds other fields or genes.
        TypeError
            An option is unknown.
        RuntimeError
            A loss is not finite; the model keeps the weights from before.
        """
        check_options(None, None, trainer_kwargs)
        numbers = {"batch_size": batch_size, "learning_rate": learning_rate, "max_epochs": max_epochs}
        for name, value in (numbers | {"effect_l2": effect_l2, "warm-up": classifier_warmup_epochs}).items():
            if value < 0 or (name in numbers and value == 0):
                raise ValueError(
                    f"{name}={value}; expected a number {'above' if name in numbers else 'not below'} zero."
                )
        run(
            self,
            self._in_memory(split_by) if datamodule is None else self._streamed(datamodule, split_by),
            max_epochs=max_epochs,
            learning_rate=learning_rate,
            weights=checked_weights(loss_weights),
            normalize_losses=normalize_losses,
            effect_l2=effect_l2,
            classifier_warmup_epochs=classifier_warmup_epochs,
            train_size=train_size,
            validation_size=validation_size,
            batch_size=batch_size,
            early_stopping=early_stopping,
            checkpoint_dir=checkpoint_dir,
            ckpt_path=ckpt_path,
            accelerator=accelerator,
            **trainer_kwargs,
        )

    @classmethod
    def fit_chunks(
        cls,
        data_dir: str | Path,
        *,
        expr_glob: str,
        meta_glob: str,
        vocab: Mapping | str | Path,
        specs: Mapping | str | Path,
        model_kwargs: dict | None = None,
        train_kwargs: dict | None = None,
        **kwargs,
    ) -> "CycleAE":
        """Train a new model on cells in many files; see `ChunkDataModule` for the files.

        Parameters
        ----------
        data_dir, expr_glob, meta_glob, vocab, specs
            Files, see `ChunkDataModule`.
        model_kwargs, train_kwargs
            Options of `CycleAE` and of :meth:`train`.
        **kwargs
            Further options of `ChunkDataModule`, such as `genes` and `num_workers`.
        """
        data = ChunkDataModule(data_dir, expr_glob=expr_glob, meta_glob=meta_glob, vocab=vocab, specs=specs, **kwargs)
        model = cls(registry=data.registry, **(model_kwargs or {}))
        model.train(datamodule=data, **(train_kwargs or {}))
        return model

    def get_counterfactual_expression(
        self, adata: AnnData | None = None, *, context: Mapping, indices: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """Expression of cells (cells x genes, on the model's scale) as if they were in another context.

        Parameters
        ----------
        adata
            Cells with the genes and fields of the model; those it was trained on when None.
        context
            ``{field: value}``, a value for all cells or one per cell (list, array or Series). Fields that are not
            named keep the value of the cell; an empty dict gives the reconstruction.
        indices
            Cells; all when None.

        Raises
        ------
        ValueError
            A field or value is unknown; the number of values differs from that of the cells.
        """
        adata, indices = _tables.cells(self, adata, indices)
        moved = [moved.cpu().numpy() for *_, moved in _tables.moves(self, adata, context, indices)]
        return pd.DataFrame(np.concatenate(moved), index=adata.obs_names[indices], columns=adata.var_names)

    counterfactual = get_counterfactual_expression

    def get_context_effects(self, field: str | None = None) -> pd.DataFrame:
        """Mean additive effect of every category on every gene, on the model's scale.

        Parameters
        ----------
        field
            One field; all and the intercept when None.

        Returns
        -------
        Rows (field, category), columns genes. The effects of a field sum to zero over its categories, weighted by
        their frequency among the training cells; the mean that was removed is part of the row
        ``("base", "intercept")``: intercept plus one effect per field is the mean expression in that context.

        Raises
        ------
        ValueError
            The field is unknown.
        RuntimeError
            The model is not trained.
        """
        self._check_if_trained(warn=False, message="the CycleAE is not trained. Call `model.train()` first.")
        if field is not None and field not in self.fields:
            raise ValueError(f"field={field!r} is unknown; the model has {', '.join(self.fields)}.")
        table = _tables.context_effects(self)
        return table if field is None else table.loc[[field]]

    @torch.inference_mode()
    def get_head_logits(self, adata: AnnData | None = None, indices=None) -> dict[str, np.ndarray]:
        """Parts of the reconstruction (cells x genes) by head, ``"base"`` and every field; they sum to it.

        Fields are centred as in :meth:`get_context_effects`.
        """
        adata, indices = _tables.cells(self, adata, indices)
        parts = [self.module.head_logits(x, source) for _, x, source in _tables.batches(self, adata, indices)]
        return {head: torch.cat([part[head] for part in parts]).cpu().numpy() for head in parts[0]}

    def get_head_influence(
        self, adata: AnnData | None = None, indices=None, *, datamodule: ChunkDataModule | None = None
    ) -> pd.DataFrame:
        """Per head the mean, minimum and maximum over cells of the L2 norm of its part, and its share of the means.

        With `datamodule` over its training cells.
        """
        if datamodule is None:
            return _tables.head_influence(self, _tables.batches(self, *_tables.cells(self, adata, indices)))
        self._check_if_trained(warn=False, message="the CycleAE is not trained. Call `model.train()` first.")
        data = self._streamed(datamodule, None)
        return _tables.head_influence(self, _tables.streamed(self, data.stream(data.train_idx, shuffle=False)))

    def get_normalized_expression(self, *args, **kwargs):
        """Refused: the model works on its own scale."""
        raise NotImplementedError(
            "CycleAE reconstructs expression on its own scale. Use `get_counterfactual_expression(context={})`."
        )

    def differential_abundance(self, *args, **kwargs):
        """Refused: there is no posterior over cells."""
        raise NotImplementedError(
            "CycleAE has no posterior over cells. Use `get_latent_representation()` with a method for neighbourhoods, "
            "or `get_context_effects()` for what a field changes."
        )

    def predict_context(self, adata: AnnData | None = None, indices=None) -> dict[str, pd.DataFrame]:
        """Probability of every category (cells x categories) by field, from expression alone."""
        return _tables.predicted_contexts(self, *_tables.cells(self, adata, indices))

    @torch.inference_mode()
    def get_latent_representation(self, adata: AnnData | None = None, head: str = "base", indices=None) -> np.ndarray:
        """Hidden encodings of cells (cells x n_latent) in one head, ``"base"`` or a field.

        Raises
        ------
        ValueError
            There is no such head.
        """
        if head not in ("base", *self.fields):
            raise ValueError(f"head={head!r} is unknown; expected 'base' or one of {', '.join(self.fields)}.")
        adata, indices = _tables.cells(self, adata, indices)
        encode, by_field = self.module.generator.encode, self.module.by_field
        found = [encode(x, by_field(s))[head].cpu().numpy() for _, x, s in _tables.batches(self, adata, indices)]
        return np.concatenate(found)

    @torch.inference_mode()
    def get_reconstruction_error(self, adata: AnnData | None = None, indices=None) -> dict[str, float]:
        """Mean squared error, on the model's scale, of the reconstruction and of the way there and back.

        Returns
        -------
        ``reconstruction_loss``: the own context; ``cycle_loss``: every field to its next category and back.
        """
        adata, indices = _tables.cells(self, adata, indices)
        sums, module = np.zeros(2), self.module
        for _, x, source in _tables.batches(self, adata, indices):
            n = module.n_categories
            target = torch.where(source < 0, -1, torch.where(source < n, (source + 1) % n, 0))
            back = module.translate(module.translate(x, source, target), target, source)
            same = module.translate(x, source, source)
            sums += [float((other - x).square().mean(dim=1).sum()) for other in (same, back)]
        return dict(zip(("reconstruction_loss", "cycle_loss"), (sums / len(indices)).tolist(), strict=True))

    def translate_reference(self, adata: AnnData | None = None, *, to: Mapping, seed: int | None = None) -> AnnData:
        """Rewrite labelled cells into another context, as counts that `HPVADE.setup_anndata` takes.

        Every cell keeps its own deviation and its total count; what changes is the difference between the
        reconstructions in the target and in its own context. On average over the given cells that go from one
        combination of contexts to another, the change is the one measured between training cells, where these had both,
        drawn to the sum of the mean effects as far as the number of cells leaves it open, but by one standard error at
        most; else it is that sum. Without a model, :func:`hpvade.pp.shift_context` does the same for one field.

        Parameters
        ----------
        adata
            Cells with the genes and fields of the model; those it was trained on when None.
        to
            ``{field: value}`` of the target, such as the context of the bulk.
        seed
            Of the rounding of fractions: same seed, same counts; drawn from torch's generator when None.

        Returns
        -------
        A new AnnData: whole counts (CSR), `obs` with the columns of `to` set to their target and all others, labels
        too, as they were, `var`, ``uns["cycleae_translated"]``, and ``uns["cycleae_translation"]``: per combination of
        contexts the number of training cells in it (`n_source`) and in its target (`n_target`), and `measured`, where
        the mean of the target lies between the sum of the effects (0) and the cells' own (1).

        Raises
        ------
        ValueError
            `to` is empty, or a field or value is unknown.

        Warns
        -----
        UserWarning
            No training cells had the target combination of some cells, so their change is extrapolated.
        """
        return translate_reference(self, adata, to, seed)
