"""Categories that networks are conditioned on, and how the latent variables of each are distributed."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


class ConditionEmbedding(nn.Embedding):
    """One vector per category, drawn from N(0, 0.1); categories that were never seen get the mean of the seen ones.

    Parameters
    ----------
    n_categories, dim
        Rows and columns.
    zero
        Row that is fixed at zero, if any; it does not count for the mean.
    """

    def __init__(self, n_categories: int, dim: int, zero: int | None = None):
        super().__init__(n_categories, dim)
        nn.init.normal_(self.weight, 0.0, 0.1)
        trainable = torch.ones(n_categories, dtype=torch.bool)
        if zero is not None:
            trainable[zero] = False
        self.register_buffer("trainable", trainable, persistent=False)
        self.register_buffer("seen", torch.ones(n_categories, dtype=torch.bool))

    def vectors(self) -> Tensor:
        """Vectors of all categories (categories, dim), with gradient."""
        known = (self.seen & self.trainable)[:, None].to(self.weight.dtype)
        mean = (self.weight * known).sum(dim=0) / known.sum().clamp(min=1)
        return torch.where(self.seen[:, None], self.weight, mean) * self.trainable[:, None]

    def forward(self, categories: Tensor) -> Tensor:
        """Vectors (B, dim) of ids (B,), or mixtures of them for shares of categories (B, categories)."""
        # a product, not an index: the gradient of an index adds up in an order that threads decide
        return shares(categories, self.num_embeddings) @ self.vectors()


class ConditionPrior(nn.Module):
    """Where the cells of each condition lie in latent space, and how many counts they have: what to generate from.

    A condition is a pair of cell type and perturbation. The latent variables of its cells are normal, with a mean of
    their own and a covariance shared by the conditions of a type; the totals follow the observed quantiles. A pair
    without training cells takes the type's mean and quantiles, a type without any those of all cells.

    Parameters
    ----------
    n_cell_types, n_perturbations, n_latent
        Sizes.
    n_conditions, n_combinations
        Pairs that have training cells, and combinations of pair and experiment that have.
    """

    N_QUANTILES = 41

    def __init__(self, n_cell_types: int, n_perturbations: int, n_latent: int, n_conditions: int, n_combinations: int):
        super().__init__()
        n_rows = n_conditions + n_cell_types  # the pairs, then one fallback per type
        self.register_buffer("row", torch.zeros(n_cell_types, n_perturbations, dtype=torch.long))
        self.register_buffer("mean", torch.zeros(n_rows, n_latent))
        self.register_buffer("factor", torch.eye(n_latent).repeat(n_cell_types, 1, 1))
        # cell type, perturbation, experiment, number of cells
        self.register_buffer("combinations", torch.zeros(n_combinations, 4, dtype=torch.long))
        self.register_buffer("totals", torch.ones(n_rows, self.N_QUANTILES))

    @torch.no_grad()
    def fit(self, mu: Tensor, variance: Tensor, totals: Tensor, ids: Tensor) -> None:
        """Set everything from posteriors `mu`, `variance` (cells, L), totals (cells,) and ids (cells, 3)."""
        combinations, n_cells = ids.unique(dim=0, return_counts=True)
        self.combinations.copy_(torch.cat([combinations, n_cells[:, None]], dim=1))
        types, perturbations = ids[:, 0], ids[:, 1]
        n_types, n_perturbations = self.row.shape
        pairs, member = (types * n_perturbations + perturbations).unique(return_inverse=True)
        n_pairs = len(pairs)
        self.row.copy_(n_pairs + torch.arange(n_types, device=mu.device)[:, None].expand_as(self.row))
        for i, pair in enumerate(pairs.tolist()):
            self.row[pair // n_perturbations, pair % n_perturbations] = i
            self._set(i, mu, totals, member == i)
        for k in range(n_types):
            cells = types == k
            cells = cells if cells.any() else torch.ones_like(cells)
            self._set(n_pairs + k, mu, totals, cells)
            spread = mu[cells] - self.mean[member[cells]]
            covariance = spread.T @ spread / max(int(cells.sum()), 1) + torch.diag(variance[cells].mean(dim=0) + 1e-5)
            self.factor[k] = torch.linalg.cholesky(covariance.double()).to(mu.dtype)

    def _set(self, row: int, mu: Tensor, totals: Tensor, cells: Tensor) -> None:
        self.mean[row] = mu[cells].mean(dim=0)
        at = torch.linspace(0, 1, self.N_QUANTILES, device=totals.device)
        self.totals[row] = torch.quantile(totals[cells], at)

    def draw(self, types: Tensor, perturbations: Tensor) -> Tensor:
        """Draw latent variables (B, L) of cells of these conditions."""
        noise = torch.randn(len(types), self.mean.shape[1], device=self.mean.device)
        return self.mean[self.row[types, perturbations]] + (self.factor[types] @ noise[:, :, None])[:, :, 0]

    def draw_experiments(self, types: Tensor, perturbations: Tensor) -> Tensor:
        """Draw experiments (B,) as frequent as among training cells of the condition, else of its type, else of all."""
        out = torch.zeros_like(types)
        kind, perturbation, experiment, n_cells = self.combinations.T
        for k, p in torch.stack([types, perturbations], dim=1).unique(dim=0).tolist():
            for rows in ((kind == k) & (perturbation == p), kind == k, n_cells > 0):
                if rows.any():
                    break
            cells = (types == k) & (perturbations == p)
            drawn = torch.multinomial(n_cells[rows].float(), int(cells.sum()), replacement=True)
            out[cells] = experiment[rows][drawn]
        return out

    def draw_totals(self, types: Tensor, perturbations: Tensor) -> Tensor:
        """Draw totals (B, 1) of cells of these conditions, between the observed quantiles."""
        quantiles = self.totals[self.row[types, perturbations]]
        at = torch.rand(len(types), 1, device=quantiles.device) * (self.N_QUANTILES - 1)
        low = at.floor().long().clamp(max=self.N_QUANTILES - 2)
        lower, upper = quantiles.gather(1, low), quantiles.gather(1, low + 1)
        return lower + (at - low) * (upper - lower)


class Responses(nn.Module):
    """Factors by which the network's expression of each pair of type and perturbation is corrected.

    Parameters
    ----------
    n_cell_types, n_perturbations, n_genes
        Sizes.
    n_pairs
        Pairs with factors of their own; the others have ones.
    """

    def __init__(self, n_cell_types: int, n_perturbations: int, n_genes: int, n_pairs: int):
        super().__init__()
        self.register_buffer("row", torch.zeros(n_cell_types, n_perturbations, dtype=torch.long))
        self.register_buffer("log_ratio", torch.zeros(n_pairs + 1, n_genes))  # row 0: no correction

    def forward(self, scale: Tensor, types: Tensor, perturbations: Tensor) -> Tensor:
        """Corrected shares of genes (B, G); `types` are shares of cell types (B, types), perturbations ids (B,)."""
        rows = self.row.T[perturbations]
        log_ratio = torch.zeros_like(scale)
        for k in types.sum(dim=0).nonzero().flatten():
            log_ratio = log_ratio + types[:, k, None] * self.log_ratio[rows[:, k]]
        corrected = scale * log_ratio.exp()
        return corrected / corrected.sum(dim=1, keepdim=True)


def shares(categories: Tensor, n: int) -> Tensor:
    """Ids (B,) as rows of zeros and a one (B, n); shares (B, n) as they are."""
    return categories if categories.is_floating_point() else one_hot(categories, n).to(torch.get_default_dtype())
