"""Mathematics of CycleAE: contexts drawn for the cycle, the loss terms, the generator with its classifier."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ...nn._normalize import log1p_cp10k
from ._context_shift import ContextShift
from ._network import CAE, ContextClassifier

TERMS = ("recon", "integ", "target", "identity", "effect")
"""Loss terms of the generator: the first three as published, the others keep translated cells near real ones."""


def draw_targets(source: Tensor, n_categories: Tensor, generator: torch.Generator) -> Tensor:
    """Target codes (B, F): in every field another category than the source, uniform over the others.

    Cells whose value is missing as a category of its own (code C) get any category, masked ones (-1) stay masked.
    """
    u = torch.rand(source.shape, generator=generator).to(source.device)
    known = (source >= 0) & (source < n_categories)
    step = 1 + (u * (n_categories - 1)).long().clamp(max=n_categories - 2)
    target = torch.where(known, (source + step) % n_categories, (u * n_categories).long())
    return torch.where(source < 0, -1, target)


def target_losses(logits: Mapping[str, Tensor], codes: Tensor, n_categories: Tensor) -> dict[str, Tensor]:
    """Cross-entropy by field over the cells that have a category; zero where there is none."""
    losses = {}
    for f, (field, scores) in enumerate(logits.items()):
        known = (codes[:, f] >= 0) & (codes[:, f] < n_categories[f])
        wanted = torch.where(known, codes[:, f], -100)
        losses[field] = cross_entropy(scores, wanted) if known.any() else scores.sum() * 0
    return losses


def integration_loss(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Mean over heads of the squared difference of the hidden encodings of both cycles."""
    return sum(mse_loss(first[head], second[head]) for head in first) / len(first)


class CycleModule(nn.Module):
    """Generator, classifier and what is known about the contexts.

    Parameters
    ----------
    n_genes
        Genes G.
    fields
        Names of the fields.
    n_categories
        Categories per field, missing values not counted.
    has_missing
        Per field, whether missing values are one more category.
    n_latent, activation, scale, head_scale, nonnegative, classifier_hidden
        See `CycleAE`.
    """

    def __init__(
        self,
        n_genes: int,
        fields: Sequence[str],
        n_categories: Sequence[int],
        has_missing: Sequence[bool],
        *,
        n_latent: int,
        activation: str,
        scale: str,
        head_scale: float | str,
        nonnegative: bool,
        classifier_hidden: int | None,
    ):
        super().__init__()
        self.fields, self.scale = list(fields), scale
        self.n_codes = [n + m for n, m in zip(n_categories, has_missing, strict=True)]
        specs = {f: {"cardinality": n, "using": True} for f, n in zip(fields, self.n_codes, strict=True)}
        self.generator = CAE(
            n_genes, n_latent, specs, activation=activation, head_scale=head_scale, nonnegative=nonnegative
        )
        specs = {f: {"cardinality": n, "using": True} for f, n in zip(fields, n_categories, strict=True)}
        self.classifier = ContextClassifier(n_genes, classifier_hidden or n_latent, specs)
        self.register_buffer("n_categories", torch.tensor(n_categories))
        self.register_buffer("frequencies", torch.zeros(sum(self.n_codes)))
        self.shift = ContextShift(self.n_codes, n_genes)
        self.register_buffer("hidden_mean", torch.zeros(1 + len(self.fields), n_latent))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.n_categories.device

    def scaled(self, x: Tensor) -> Tensor:
        """Counts on the scale of the model."""
        return log1p_cp10k(x) if self.scale == "log1p" else x

    def by_field(self, codes: Tensor) -> dict[str, Tensor]:
        """Codes (B, F) as the contexts of the generator."""
        return {field: codes[:, f] for f, field in enumerate(self.fields)}

    def translate(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Scaled expression (B, G) of cells `x`, already scaled, in the target context."""
        return self.generator.decode(self.generator.encode(x, self.by_field(source)), self.by_field(target))

    def generator_terms(
        self, x: Tensor, source: Tensor, target: Tensor, *, partial: Tensor | None = None, shift: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms of the generator, and the target loss by field.

        Parameters
        ----------
        x
            Scaled expression (B, G).
        source, target
            Codes (B, F).
        partial, shift
            Codes in which some fields keep their source, and the mean difference (B, G) of expression between
            `partial` and `source`; without them only the published terms are computed.
        """
        g, s, t = self.generator, self.by_field(source), self.by_field(target)
        hidden = g.encode(x, s)
        x_st = g.decode(hidden, t)
        hidden_back = g.encode(x_st, t)
        targets = target_losses(self.classifier(x_st), target, self.n_categories)
        terms = {
            "recon": mse_loss(g.decode(hidden_back, s), x),
            "integ": integration_loss(hidden, hidden_back),
            "target": sum(targets.values()) / len(targets),
        }
        if partial is not None:
            same = g.decode(hidden, s)
            terms["identity"] = mse_loss(same, x)
            terms["effect"] = mse_loss(g.decode(hidden, self.by_field(partial)) - same, shift)
        return terms, targets

    def effect_size(self, x: Tensor, source: Tensor) -> Tensor:
        """Mean square of the fields' parts around their mean over cells, what `effect_l2` shrinks."""
        hidden, s = self.generator.encode(x, self.by_field(source)), self.by_field(source)
        sizes = []
        for field in self.fields:
            head = self.generator.head(field)
            h = head.scaled(hidden[field], s[field])
            sizes.append(((h - h.mean(dim=0)) @ head.decoder.T).square().mean())
        return sum(sizes)

    def classifier_losses(self, x: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Cross-entropy by field of real cells."""
        return target_losses(self.classifier(x), source, self.n_categories)

    @torch.no_grad()
    def raw_effects(self, field: str) -> Tensor:
        """Mean part of a field's head (codes, G) over the training cells, had they all that category."""
        head, f = self.generator.head(field), self.fields.index(field)
        mixed = head.categories @ self.hidden_mean[1 + f]
        return head.log_scale.exp() * mixed @ head.decoder.T

    def frequency(self, field: str) -> Tensor:
        """Share of the training cells in each code of a field."""
        f = self.fields.index(field)
        return self.frequencies.split(self.n_codes)[f]

    @torch.no_grad()
    def offset(self, field: str) -> Tensor:
        """Mean effect (G,) of a field over the training frequencies; it belongs to the base."""
        return self.frequency(field) @ self.raw_effects(field)

    @torch.no_grad()
    def intercept(self) -> Tensor:
        """Mean part of the base (G,) over the training cells, with the offsets of all fields."""
        base = self.hidden_mean[0] @ self.generator.base + sum(self.offset(field) for field in self.fields)
        return base if self.generator.intercept is None else base + self.generator.intercept

    @torch.no_grad()
    def head_logits(self, x: Tensor, source: Tensor) -> dict[str, Tensor]:
        """Centred parts (B, G) of the reconstruction: fields without their offset, which the base takes."""
        codes = self.by_field(source)
        parts = self.generator.head_logits(self.generator.encode(x, codes), codes)
        for field in self.fields:
            offset = self.offset(field)
            parts[field] -= offset
            parts["base"] += offset
        return parts
