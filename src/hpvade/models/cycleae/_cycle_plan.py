"""Training plan of CycleAE: two optimisers, contexts drawn anew in every step, everything logged."""

import math
from collections import defaultdict
from collections.abc import Callable

import lightning.pytorch as lp
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from ._influence_log import InfluenceLog

_CLIP = 10.0


class CyclePlan(lp.LightningModule):
    """Generator and classifier in turn, with manual optimisation.

    In each step the classifier is frozen while the generator learns, then it takes one step on real cells. In the
    first `classifier_warmup_epochs` it learns alone; the target loss then grows to its weight over one epoch. Every
    term is divided by its average over the generator's first epoch, so that equal weights mean equal influence.

    Parameters
    ----------
    module
        `CycleModule`.
    lr, eps
        Learning rate of both optimisers, and Adam's epsilon.
    draw
        Draws target codes: (source, categories, generator) -> codes.
    extra
        Compute the terms identity and effect, with the mean changes of ``module.shift``.
    seed
        Of the drawn contexts.
    loss_weights
        Weight by term.
    normalize_losses
        Divide the terms by their first-epoch averages.
    effect_l2
        Shrinkage of the fields' effects.
    classifier_warmup_epochs
        Epochs of the classifier alone.
    variance
        Variance of expression, the unit of `validation_loss`.
    weight_decay_base, weight_decay_heads
        Of AdamW.

    Raises
    ------
    RuntimeError
        In a step whose loss is not finite, naming the term, before the weights change.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        draw: Callable[[Tensor, Tensor, torch.Generator], Tensor],
        extra: bool,
        seed: int,
        loss_weights: dict[str, float],
        normalize_losses: bool,
        effect_l2: float,
        classifier_warmup_epochs: int,
        variance: float,
        eps: float = 1e-8,
        weight_decay_base: float = 1e-4,
        weight_decay_heads: float = 5e-4,
    ):
        super().__init__()
        self.automatic_optimization = False
        self.module, self.draw, self.extra, self.seed = module, draw, extra, seed
        self.lr, self.eps, self.weights, self.normalize = lr, eps, loss_weights, normalize_losses
        self.effect_l2, self.warmup, self.variance = effect_l2, classifier_warmup_epochs, max(variance, 1e-12)
        self.decay = (weight_decay_base, weight_decay_heads)
        self.register_buffer("scale_sums", torch.zeros(len(loss_weights)))
        self.register_buffer("scale_steps", torch.zeros(()))
        self.rng = torch.Generator()
        self.chunk: dict[str, list[float]] = defaultdict(list)
        self.epoch: dict[str, list[float]] = defaultdict(list)
        self.influence = InfluenceLog()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW of the generator, base and heads with their own decay; Adam of the classifier."""
        generator = self.module.generator
        heads = list(generator.heads.parameters())
        base = [p for name, p in generator.named_parameters() if not name.startswith("heads.")]
        groups = [{"params": p, "weight_decay": decay} for p, decay in zip((base, heads), self.decay, strict=True)]
        options = {"lr": self.lr, "eps": self.eps}
        return [torch.optim.AdamW(groups, **options), torch.optim.Adam(self.module.classifier.parameters(), **options)]

    def on_train_epoch_start(self) -> None:
        """Contexts of an epoch depend on seed and epoch only, so that a resumed run draws the same ones."""
        self.rng.manual_seed((1_000_003 * self.seed + self.current_epoch) % 2**63)

    def training_step(self, batch: dict, batch_idx: int) -> None:
        """One step of the generator, after the warm-up, and one of the classifier."""
        x, source = self.module.scaled(batch["X"]), batch["context"]
        generator_optimizer, classifier_optimizer = self.optimizers()
        values = {}
        if self.current_epoch >= self.warmup:
            values = self._generator_step(x, source, generator_optimizer, batch_idx)
        losses = self.module.classifier_losses(x, source)
        loss = sum(losses.values()) / len(losses)
        self._check_finite({"classifier": loss})
        classifier_optimizer.zero_grad()
        self.manual_backward(loss)
        classifier_optimizer.step()
        values["loss_raw/classifier_loss"] = float(loss.detach())
        for name, value in values.items():
            self.chunk[name].append(value)
            self.epoch[name].append(value)
        if batch["chunk_ends"]:
            self._write("chunk", self.chunk)
            self.chunk.clear()
        options = {"on_step": False, "on_epoch": True, "batch_size": len(x)}
        self.log(
            "train_loss", values.get("loss_normed/aggreg", values["loss_raw/classifier_loss"]), prog_bar=True, **options
        )
        self.log("classifier_loss_train", loss.detach(), **options)
        for name, value in values.items():
            if name.startswith("loss_raw/") and name != "loss_raw/classifier_loss":
                term = name.removeprefix("loss_raw/")
                self.log(f"{'target' if term == 'target_mean' else term}_train", value, **options)

    def _generator_step(self, x: Tensor, source: Tensor, optimizer, batch_idx: int) -> dict[str, float]:
        self.module.classifier.requires_grad_(False).eval()
        terms, targets = self._terms(x, source, self.rng)
        scales = self._scales(terms)
        normed = {name: value / scales[name] for name, value in terms.items()}
        step = self.current_epoch - self.warmup + (batch_idx + 1) / max(self.trainer.num_training_batches, 1)
        ramp = min(step, 1.0) if self.warmup else 1.0
        loss = sum(self.weights[name] * (ramp if name == "target" else 1) * value for name, value in normed.items())
        if self.effect_l2:
            loss = loss + self.effect_l2 * self.module.effect_size(x, source)
        self._check_finite(terms | {"total": loss})
        optimizer.zero_grad()
        self.manual_backward(loss)
        norm = clip_grad_norm_(self.module.generator.parameters(), _CLIP)
        optimizer.step()
        self.module.generator.clamp()
        self.module.classifier.requires_grad_(True).train()
        values = {f"loss_raw/{_tag(name)}": float(value.detach()) for name, value in terms.items()}
        values["loss_raw/aggreg"] = sum(values.values())
        values |= {f"loss_normed/{_tag(name)}": float(value.detach()) for name, value in normed.items()}
        values |= {"loss_normed/aggreg": float(loss.detach()), "grad/gradient_norm": float(norm)}
        return values | {f"loss_raw/target_{field}": float(value.detach()) for field, value in targets.items()}

    def _terms(self, x: Tensor, source: Tensor, rng: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        target = self.draw(source, self.module.n_categories, rng)
        if not self.extra:
            return self.module.generator_terms(x, source, target)
        keep = torch.rand(source.shape, generator=rng).to(source.device) < 0.5
        partial = torch.where(keep, source, self.draw(source, self.module.n_categories, rng))
        shift = self.module.shift(source, partial)
        return self.module.generator_terms(x, source, target, partial=partial, shift=shift)

    def _scales(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Running average of the terms over the generator's first epoch, fixed afterwards."""
        if not self.normalize:
            return dict.fromkeys(terms, 1.0)
        if self.current_epoch == self.warmup:
            self.scale_sums += torch.stack(
                [terms[name].detach() if name in terms else self.scale_sums[0] * 0 for name in self.weights]
            )
            self.scale_steps += 1
        means = (self.scale_sums / self.scale_steps.clamp(min=1)).clamp(min=1e-12)
        return {name: means[i] for i, name in enumerate(self.weights) if name in terms}

    @torch.no_grad()
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Terms and accuracy of the classifier on held-out cells, with the same drawn contexts in every epoch."""
        x, source = self.module.scaled(batch["X"]), batch["context"]
        rng = torch.Generator().manual_seed(batch_idx)
        terms, _ = self._terms(x, source, rng)
        options = {"on_step": False, "on_epoch": True, "batch_size": len(x)}
        for name, value in terms.items():
            self.log(f"{name}_validation", value, **options)
        guess = sum(math.log(n) for n in self.module.n_categories.tolist()) / len(self.module.n_categories)
        loss = sum(
            self.weights[name] * value / (guess if name == "target" else self.variance)
            for name, value in terms.items()
            if name != "integ"
        )
        self.log("validation_loss", loss, prog_bar=True, **options)
        for f, (field, scores) in enumerate(self.module.classifier(x).items()):
            known = (source[:, f] >= 0) & (source[:, f] < self.module.n_categories[f])
            if known.any():
                right = (scores.argmax(dim=1) == source[:, f])[known].float().mean()
                self.log(
                    f"classifier_acc_{field}_validation",
                    right,
                    on_step=False,
                    on_epoch=True,
                    batch_size=int(known.sum()),
                )
        self.influence.add(self.module, x, source)

    def on_validation_epoch_end(self) -> None:
        """Log how much each head contributes."""
        for head, mean in self.influence.means().items():
            self.log(f"head_influence_{head}_validation", mean)
        self.influence.close()

    def on_train_epoch_end(self) -> None:
        """Write the averages of the epoch."""
        self._write("epoch", self.epoch)
        self.epoch.clear()

    def on_train_end(self) -> None:
        """Write the influence of the heads as a figure and a table."""
        if not self.influence.last:
            loader = self.trainer.datamodule.train_dataloader()
            with torch.no_grad():
                for batch in loader:
                    x = self.module.scaled(batch["X"].to(self.device))
                    self.influence.add(self.module, x, batch["context"].to(self.device))
            self.influence.close()
        for writer in self._writers():
            writer.add_figure("metadata/head_influence_l2", self.influence.figure(), self.global_step)
            writer.add_text("metadata/head_influence_l2_stats", self.influence.table(), self.global_step)

    def _write(self, period: str, values: dict[str, list[float]]) -> None:
        """Averages to TensorBoard, under the tags of the published model."""
        for writer in self._writers():
            for name, series in values.items():
                group, _, term = name.partition("/")
                if group == "grad":
                    summary = {"mean": sum(series) / len(series), "min": min(series), "max": max(series)}
                    for kind, value in summary.items():
                        writer.add_scalar(f"grad/{period}_gradient_norms/{kind}", value, self.global_step)
                else:
                    writer.add_scalar(f"{group}/{period}_{term}", sum(series) / len(series), self.global_step)

    def _writers(self) -> list:
        return [logger.experiment for logger in self.loggers if hasattr(logger.experiment, "add_scalar")]

    def _check_finite(self, terms: dict[str, Tensor]) -> None:
        bad = next((name for name, value in terms.items() if not torch.as_tensor(value).isfinite().all()), None)
        if bad is not None:
            raise RuntimeError(
                f"Loss term {bad!r} is not finite at step {self.global_step}; the weights of this step were not "
                "changed. Check the data for extreme values, or lower the learning rate: train(learning_rate=1e-5)."
            )


def _tag(term: str) -> str:
    return "target_mean" if term == "target" else term
