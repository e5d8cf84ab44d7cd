"""Networks of CycleAE: a shared base head, one head per metadata field, and a classifier of contexts."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ._cycle_start import start_from

HEAD_SCALE = 0.0159
"""Factor of the metadata heads in the published model."""


def used_fields(field_specs: Mapping[str, Mapping]) -> dict[str, int]:
    """Fields that get a head, with their number of categories: those in use that have at least two.

    Examples
    --------
    >>> used_fields({"sex": {"cardinality": 2, "using": True}, "lab": {"cardinality": 1, "using": True}})
    {'sex': 2}
    """
    return {
        name: int(spec["cardinality"])
        for name, spec in field_specs.items()
        if spec["using"] and spec["cardinality"] > 1
    }


def codes_of(context: Tensor) -> Tensor:
    """Codes (B,) of a context given as codes (B,) or one-hot (B, C); -1 where the value is missing (a row of zeros)."""
    if context.dim() == 1:
        return context.long()
    return torch.where(context.sum(dim=1) > 0, context.argmax(dim=1), -1)


def route(h: Tensor, matrices: Tensor, codes: Tensor) -> Tensor:
    """Multiply every row of `h` (B, d) by the matrix of its category, `matrices` (C, d, d); zero for code -1.

    Rows are grouped by category, multiplied, and put back in order, so that the cost does not grow with C.
    """
    order = torch.argsort(codes, stable=True)
    sizes = torch.bincount(codes + 1, minlength=len(matrices) + 1).tolist()
    missing, *groups = h[order].split(sizes)
    routed = [torch.zeros_like(missing)]
    routed += [rows @ matrix.T for rows, matrix in zip(groups, matrices.unbind(), strict=True) if len(rows)]
    return torch.cat(routed)[torch.argsort(order)]


class FieldHead(nn.Module):
    r"""Head of one field: encoder (G to d), one matrix per category (d to d), decoder (d to G), no biases.

    Parameters
    ----------
    n_genes, n_latent, n_categories
        Sizes G, d and C.
    head_scale
        Fixed factor of the output, or ``"learned"``: :math:`e^{\log a}`, started at 0.0159.
    """

    def __init__(self, n_genes: int, n_latent: int, n_categories: int, head_scale: float | str):
        super().__init__()
        self.encoder = nn.Parameter(torch.empty(n_latent, n_genes))
        self.categories = nn.Parameter(torch.empty(n_categories, n_latent, n_latent))
        self.decoder = nn.Parameter(torch.empty(n_genes, n_latent))
        learned = head_scale == "learned"
        log_scale = torch.tensor(math.log(HEAD_SCALE if learned else head_scale))
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    def scaled(self, h: Tensor, target: Tensor) -> Tensor:
        """What enters the decoder (B, d): scaling here, not the output, keeps no (B, G) tensor for the gradient."""
        return self.log_scale.exp() * route(h, self.categories, target)


class CAE(nn.Module):
    r"""Additive autoencoder: a base shared by all contexts plus one part per metadata field.

    .. math::

        X_{st} = X W^T W + \sum_f a_f\, D_f M_{f,t_f} M_{f,s_f} E_f X

    The base is tied and linear. A field's encoding goes through the matrix of the source category (the hidden
    encoding, compared between cycles) and that of the target category.

    Parameters
    ----------
    input_dim
        Genes G.
    latent_dim
        Size d of the hidden encodings.
    field_specs
        ``{field: {"cardinality": C, "using": bool}}``; fields not in use or with one category get no head.
    activation
        ``"linear"``, the published model, or ``"relu"``: ReLU after the encoders and an intercept per gene.
    head_scale
        Factor :math:`a_f` of the metadata heads: a number, or ``"learned"``.
    nonnegative
        Whether :meth:`clamp` keeps all weights at zero or above.

    Examples
    --------
    >>> import torch
    >>> model = CAE(20, 4, {"sex": {"cardinality": 2, "using": True}})
    >>> x, sex = torch.rand(3, 20), torch.tensor([0, 1, 0])
    >>> outputs = model(x, {"sex": sex}, {"sex": 1 - sex})
    >>> outputs["X_st"].shape, sorted(outputs["head_logits"])
    (torch.Size([3, 20]), ['base', 'sex'])
    """

    def __init__(
        self,
        input_dim: int,
        latent_dim: int,
        field_specs: Mapping[str, Mapping],
        *,
        activation: str = "linear",
        head_scale: float | str = "learned",
        nonnegative: bool = True,
    ):
        super().__init__()
        self.fields = used_fields(field_specs)
        # names such as "cell.type" are no names of submodules
        self._keys = {field: f"field_{i}" for i, field in enumerate(self.fields)}
        self.activation, self.nonnegative = activation, nonnegative
        self.base = nn.Parameter(torch.empty(latent_dim, input_dim))
        self.heads = nn.ModuleDict(
            {self._keys[f]: FieldHead(input_dim, latent_dim, n, head_scale) for f, n in self.fields.items()}
        )
        self.intercept = nn.Parameter(torch.zeros(input_dim)) if activation == "relu" else None
        self.reset_parameters()

    def head(self, field: str) -> FieldHead:
        """Head of a field."""
        return self.heads[self._keys[field]]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw uniform(0, 1) weights, each column of a matrix scaled to unit norm."""
        matrices = [self.base]
        for head in self.heads.values():
            matrices += [head.encoder, head.categories, head.decoder]
        for matrix in matrices:
            matrix.uniform_()
            matrix /= matrix.norm(dim=-2, keepdim=True)
        if self.intercept is not None:
            self.intercept.zero_()

    @torch.no_grad()
    def calibrate(self, x: Tensor, source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """Scale every head once, so that the mean norm of the output equals that of the input `x` (B, G).

        Columns of unit norm alone make the output hundreds to thousands of times the input, growing with G.
        """
        size = x.norm(dim=1).mean()
        for name, part in self.head_logits(self.encode(x, source), target).items():
            gain = part.norm(dim=1).mean() / size
            share = 1.0 if name == "base" else self.head(name).log_scale.exp()
            if gain > 0:  # a field can be missing in all these cells
                self._scale(name, share / gain)
        total = self.decode(self.encode(x, source), target).norm(dim=1).mean()
        for name in ("base", *self.fields):
            self._scale(name, size / total)

    @torch.no_grad()
    def start_from(self, x: Tensor, source: Mapping[str, Tensor], effects: Mapping[str, Tensor]) -> None:
        """Start from data: the base reconstructs cells `x` (n, G) of context `source`, heads add effects (C, G).

        Uniform weights are a saddle: all latents are alike, and hundreds of epochs pass before they differ.
        """
        start_from(self, x, source, effects)

    def _scale(self, name: str, factor: Tensor) -> None:
        """Multiply the output of a head: its weights enter twice (base) or in four places (fields)."""
        if name == "base":
            self.base *= factor.sqrt()
            return
        head = self.head(name)
        for weight in (head.encoder, head.categories, head.decoder):
            weight *= factor**0.25

    @torch.no_grad()
    def clamp(self) -> None:
        """Raise negative weights to zero, when the model is meant to be non-negative."""
        if self.nonnegative:
            for name, parameter in self.named_parameters():
                if not name.endswith("log_scale"):
                    parameter.clamp_(min=0)

    def _encoded(self, x: Tensor, weight: Tensor) -> Tensor:
        h = x @ weight.T
        return torch.relu(h) if self.activation == "relu" else h

    def encode(self, x: Tensor, source: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Hidden encodings (B, d) of cells `x` (B, G) by head, those of fields after the source category's matrix."""
        hidden = {"base": self._encoded(x, self.base)}
        for field in self.fields:
            head = self.head(field)
            hidden[field] = route(self._encoded(x, head.encoder), head.categories, codes_of(source[field]))
        return hidden

    def decode(self, hidden: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
        """Output (B, G) in the target context: the sum of all parts, added one after the other."""
        total = hidden["base"] @ self.base
        if self.intercept is not None:
            total = total + self.intercept
        for field in self.fields:
            head = self.head(field)
            total = torch.addmm(total, head.scaled(hidden[field], codes_of(target[field])), head.decoder.T)
        return total

    def head_logits(self, hidden: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parts (B, G) of the output by head; the intercept belongs to the base."""
        base = hidden["base"] @ self.base
        parts = {"base": base if self.intercept is None else base + self.intercept}
        for field in self.fields:
            head = self.head(field)
            parts[field] = head.scaled(hidden[field], codes_of(target[field])) @ head.decoder.T
        return parts

    def forward(
        self, expr: Tensor, source_context: Mapping[str, Tensor], target_context: Mapping[str, Tensor]
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Move cells from the source to the target context.

        Parameters
        ----------
        expr
            Expression (B, G).
        source_context, target_context
            By field: codes (B,) or one-hot (B, C); -1 or a row of zeros where the value is missing.

        Returns
        -------
        ``X_st`` (B, G); ``hidden_encodings`` and ``head_logits``, by head (``"base"`` and each field), (B, d) and
        (B, G). The head logits sum to ``X_st``.
        """
        hidden = self.encode(expr, source_context)
        parts = self.head_logits(hidden, target_context)
        return {"X_st": sum(parts.values()), "hidden_encodings": hidden, "head_logits": parts}


class ContextClassifier(nn.Module):
    """Tell the contexts of a cell from its expression: Linear, ReLU, then one Linear per field.

    Parameters
    ----------
    gene_dim
        Genes G.
    latent_dim
        Hidden units.
    field_specs
        ``{field: {"cardinality": C, "using": bool}}``, as for :class:`CAE`.

    Examples
    --------
    >>> import torch
    >>> classifier = ContextClassifier(20, 8, {"cell.type": {"cardinality": 3, "using": True}})
    >>> classifier(torch.rand(2, 20))["cell.type"].shape
    torch.Size([2, 3])
    """

    def __init__(self, gene_dim: int, latent_dim: int, field_specs: Mapping[str, Mapping]):
        super().__init__()
        self.fields = used_fields(field_specs)
        self.hidden = nn.Sequential(nn.Linear(gene_dim, latent_dim), nn.ReLU())
        self.outputs = nn.ModuleList([nn.Linear(latent_dim, n) for n in self.fields.values()])

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) by field of cells `x` (B, G)."""
        h = self.hidden(x)
        return {field: output(h) for field, output in zip(self.fields, self.outputs, strict=True)}
