"""Mean expression by context: what cells should change, on average, between two contexts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MAX_COMBINATIONS = 256


class ContextShift(nn.Module):
    """Mean expression of every combination of contexts, up to a constant.

    Parameters
    ----------
    n_codes
        Number of codes of each field.
    n_genes
        Genes G.
    """

    def __init__(self, n_codes: Sequence[int], n_genes: int):
        super().__init__()
        for f, n in enumerate(n_codes):
            self.register_buffer(f"profile_{f}", torch.zeros(n + 1, n_genes))  # the last row for masked values
        n_combinations = min(MAX_COMBINATIONS, math.prod(n + 1 for n in n_codes))
        # products with odd 64-bit numbers tell combinations apart; int64 wraps around
        factors = [(6364136223846793005 * (2 * f + 1) + 1442695040888963407) % 2**63 for f in range(len(n_codes))]
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.register_buffer("keys", torch.full((n_combinations,), 2**63 - 1))
        self.register_buffer("residuals", torch.zeros(n_combinations, n_genes))
        self.register_buffer("levels", torch.zeros(n_combinations, n_genes))
        self.register_buffer("has_levels", torch.tensor(False))
        self.register_buffer("n_cells", torch.zeros(n_combinations, dtype=torch.long))
        self.register_buffer("measured", torch.zeros(n_combinations))

    @torch.no_grad()
    def fit(
        self,
        profiles: Sequence[Tensor],
        combinations: Tensor,
        residuals: Tensor,
        n_cells: Tensor | None = None,
        measured: Tensor | None = None,
        levels: Tensor | None = None,
    ) -> None:
        """Take over the means.

        Parameters
        ----------
        profiles
            By field (codes, G): additive effects.
        combinations, residuals
            Codes (K, F) of combinations, at most 256, and what their means differ (K, G) from the additive prediction.
        n_cells, measured
            Cells of the combinations (K,), and the share of the difference that was kept.
        levels
            log1p of mean counts per 10,000 of the combinations (K, G), which :meth:`change` follows.
        """
        for f, profile in enumerate(profiles):
            getattr(self, f"profile_{f}")[:-1] = profile
        keys, order = self._keys(combinations.to(self.factors.device)).sort()
        self.keys.fill_(2**63 - 1)[: len(keys)] = keys
        self.residuals.zero_()[: len(keys)] = residuals.to(self.residuals)[order]
        self.has_levels.fill_(levels is not None)
        for buffer, values in ((self.n_cells, n_cells), (self.measured, measured), (self.levels, levels)):
            buffer.zero_()
            if values is not None:
                buffer[: len(keys)] = values.to(buffer)[order]

    def _keys(self, codes: Tensor) -> Tensor:
        return ((codes + 2) * self.factors).sum(dim=1)

    def evidence(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Training cells of contexts `codes` (B, F), and how much of their mean is their own (B,)."""
        at, known = self._find(codes)
        return self.n_cells[at] * known, self.measured[at] * known

    def _find(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the combinations, and whether they are there."""
        keys = self._keys(codes)
        at = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        return at, self.keys[at] == keys

    def mean(self, codes: Tensor) -> Tensor:
        """Mean expression (B, G), up to a constant, of contexts `codes` (B, F); -1 adds nothing."""
        total = sum(getattr(self, f"profile_{f}")[codes[:, f]] for f in range(codes.shape[1]))
        at, known = self._find(codes)
        return total + self.residuals[at] * known[:, None]

    def change(self, source: Tensor, target: Tensor) -> Tensor:
        """Change (B, G) of log1p mean counts per 10,000 between two contexts; :meth:`forward` where it is not known."""
        (a, known_a), (b, known_b) = self._find(source), self._find(target)
        known = (known_a & known_b & self.has_levels)[:, None]
        return torch.where(known, self.levels[b] - self.levels[a], self(source, target))

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        for name in ("levels", "has_levels"):  # not in older models
            state_dict.setdefault(f"{prefix}{name}", torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Mean difference (B, G) of expression between two contexts."""
        return self.mean(target) - self.mean(source)
