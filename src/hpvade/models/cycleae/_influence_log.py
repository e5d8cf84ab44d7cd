"""How much each head contributes, collected over batches, as numbers, a table and a figure."""

from collections import defaultdict

import torch
from torch import Tensor, nn


class InfluenceLog:
    """L2 norms per cell of the parts of the reconstruction, fields centred over the batch.

    Attributes
    ----------
    last
        ``{head: (mean, min, max)}`` of the last complete pass.
    """

    def __init__(self):
        self._norms: dict[str, list[Tensor]] = defaultdict(list)
        self.last: dict[str, tuple[float, float, float]] = {}

    @torch.no_grad()
    def add(self, module: nn.Module, x: Tensor, source: Tensor) -> None:
        """Add the cells `x` (B, G), scaled, with codes `source` (B, F)."""
        codes = module.by_field(source)
        parts = module.generator.head_logits(module.generator.encode(x, codes), codes)
        for field in module.fields:
            offset = parts[field].mean(dim=0)
            parts[field] -= offset
            parts["base"] += offset
        for head, part in parts.items():
            self._norms[head].append(part.norm(dim=1).cpu())

    def means(self) -> dict[str, float]:
        """Mean norm by head."""
        return {head: float(torch.cat(norms).mean()) for head, norms in self._norms.items()}

    def close(self) -> None:
        """End a pass: keep its statistics and start anew."""
        joined = {head: torch.cat(norms) for head, norms in self._norms.items()}
        self.last = {head: (float(n.mean()), float(n.min()), float(n.max())) for head, n in joined.items()}
        self._norms.clear()

    def table(self) -> str:
        """Markdown table: head, mean, min, max."""
        rows = [f"| {head} | {a:.4g} | {b:.4g} | {c:.4g} |" for head, (a, b, c) in self.last.items()]
        return "\n".join(["| head | mean | min | max |", "|---|---|---|---|", *rows])

    def figure(self):
        """Bars of the means with whiskers from minimum to maximum, as a matplotlib Figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.5 + 0.6 * len(self.last), 3.2), layout="constrained")
        axes = figure.subplots()
        means = [mean for mean, _, _ in self.last.values()]
        below = [mean - low for mean, low, _ in self.last.values()]
        above = [high - mean for mean, _, high in self.last.values()]
        axes.bar(list(self.last), means, yerr=[below, above], color="#0072B2", ecolor="0.4", capsize=3)
        axes.set_ylabel("L2 norm per cell")
        axes.tick_params(axis="x", rotation=45)
        axes.spines[["top", "right"]].set_visible(False)
        return figure
