"""The networks of the conditional variational autoencoder: literal by default, robust by options."""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softmax

from ...nn._likelihood import nb_log_likelihood
from ...nn._normalize import log1p_cp10k
from ._conditions import ConditionEmbedding, ConditionPrior, Responses, shares
from ._vae_config import VAEConfig

__all__ = ["ConditionalVAENet", "VAEConfig", "fold_change"]

_DROPOUT = 0.1


class ConditionalVAENet(nn.Module):
    r"""A variational autoencoder of cells conditioned on cell type, perturbation and experiment.

    With the default :class:`VAEConfig` the literal network: three embeddings make the conditioning c, the encoder sees
    :math:`[x, c]`, the decoder :math:`[z, c]`, and the loss is, summed over cells, genes and latent dimensions,

    .. math::
        L = w_r \sum (\hat x - x)^2 - \tfrac{w_k}{2} \sum (1 + \log\sigma^2 - \mu^2 - \sigma^2)

    With ``likelihood="nb"``, `x` are counts, the encoder sees their log1p cp10k, and
    :math:`x_g \sim NB(\ell\, \mathrm{softmax}_g(decoder[z, c]), \theta_g)` with :math:`\ell` the total of the cell.
    Ids of cell types may be replaced by shares (B, types) everywhere, for cells whose type is not known.

    Parameters
    ----------
    config
        Sizes and options.

    Examples
    --------
    >>> import torch
    >>> net = ConditionalVAENet(VAEConfig(input_dim=30, latent_dim=4, hidden_dims=[16, 8])).eval()
    >>> ids = torch.zeros(5, dtype=torch.long)
    >>> {name: tuple(value.shape) for name, value in net(torch.rand(5, 30), ids, ids, ids).items()}
    {'reconstructed': (5, 30), 'mu': (5, 4), 'logvar': (5, 4), 'z': (5, 4), 'conditioning': (5, 80)}
    """

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = c = config
        self.cell_type_embedding = ConditionEmbedding(c.n_cell_types, c.cell_type_embed_dim)
        self.perturbation_embedding = ConditionEmbedding(
            c.n_perturbations, c.perturbation_embed_dim, c.control_perturbation
        )
        self.experiment_embedding = ConditionEmbedding(c.n_experiments, c.experiment_embed_dim)
        n_conditioning = c.cell_type_embed_dim + c.perturbation_embed_dim + c.experiment_embed_dim
        n_seen = {"all": n_conditioning, "experiment": c.experiment_embed_dim, "none": 0}[c.encoder_conditioning]
        self.encoder = _blocks(c.input_dim + n_seen, c.hidden_dims, c.normalization)
        self.fc_mu = nn.Linear(c.hidden_dims[-1], c.latent_dim)
        self.fc_logvar = nn.Linear(c.hidden_dims[-1], c.latent_dim)
        self.decoder = _blocks(c.latent_dim + n_conditioning, c.hidden_dims[::-1], c.normalization)
        self.output = nn.Linear(c.hidden_dims[0], c.input_dim)
        if c.classifier_weight > 0:
            n_hidden = c.hidden_dims[-1]
            self.classifier = nn.Sequential(
                nn.Linear(c.latent_dim, n_hidden), nn.ReLU(), nn.Linear(n_hidden, c.n_cell_types)
            )
        if c.likelihood == "nb":
            self.log_theta = nn.Parameter(torch.zeros(c.input_dim))
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        if c.perturbation_offset:
            self.offset = nn.Linear(c.perturbation_embed_dim, c.input_dim, bias=False)
            nn.init.zeros_(self.offset.weight)
        self.prior = None
        if c.n_conditions:
            self.allocate_prior(c.n_conditions, c.n_combinations)
        self.responses = None
        if c.n_responses:
            self.allocate_responses(c.n_responses)

    def forward(self, x: Tensor, cell_type_ids: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor) -> dict:
        """Encode and decode cells `x` (B, G).

        Returns
        -------
        `reconstructed` (B, G) on the scale of `x`, `mu`, `logvar` and `z` (B, L), and `conditioning` (B, 80): the
        three embeddings side by side.
        """
        ids = (cell_type_ids, perturbation_ids, experiment_ids)
        mu, logvar = self.encode(x, *ids)
        z = self.reparameterize(mu, logvar)
        library = x.sum(dim=1, keepdim=True) if self.config.likelihood == "nb" else None
        return {
            "reconstructed": self.decode(z, *ids, library=library),
            "mu": mu,
            "logvar": logvar,
            "z": z,
            "conditioning": self.get_conditioning(*ids),
        }

    def index_limits(self) -> dict[str, int | Tensor]:
        """See :func:`hpvade.models._saving.load_tensors`."""
        c, limits = self.config, {}
        if self.prior is not None:
            sizes = [c.n_cell_types, c.n_perturbations, c.n_experiments, 2**31]
            limits |= {"prior.row": len(self.prior.mean), "prior.combinations": torch.tensor(sizes)}
        if self.responses is not None:
            limits["responses.row"] = len(self.responses.log_ratio)
        return limits

    def get_conditioning(self, cell_type_ids: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor) -> Tensor:
        """Embeddings of cell type, perturbation and experiment side by side (B, 80)."""
        return torch.cat(
            [
                self.cell_type_embedding(cell_type_ids),
                self.perturbation_embedding(perturbation_ids),
                self.experiment_embedding(experiment_ids),
            ],
            dim=1,
        )

    def encode(
        self, x: Tensor, cell_type_ids: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, L) of the latent posterior of cells `x` (B, G).

        Ids that `encoder_conditioning` leaves out are not looked at.
        """
        seen = {
            "all": lambda: [self.get_conditioning(cell_type_ids, perturbation_ids, experiment_ids)],
            "experiment": lambda: [self.experiment_embedding(experiment_ids)],
            "none": list,
        }[self.config.encoder_conditioning]()
        values = log1p_cp10k(x) if self.config.likelihood == "nb" else x
        hidden = self.encoder(torch.cat([values, *seen], dim=1))
        return self.fc_mu(hidden), self.fc_logvar(hidden)

    def reparameterize(self, mu: Tensor, logvar: Tensor) -> Tensor:
        """`mu` in eval mode, else one draw from N(mu, exp(logvar))."""
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu

    def decode(
        self,
        z: Tensor,
        cell_type_ids: Tensor,
        perturbation_ids: Tensor,
        experiment_ids: Tensor,
        *,
        library: Tensor | float | None = None,
    ) -> Tensor:
        """Reconstructed cells (B, G) of latent vectors `z` (B, L).

        With ``likelihood="mse"`` on the scale of the training data, log1p cp10k, unbounded; with ``"nb"`` mean counts
        of cells with total `library` (B, 1), 10,000 when None.
        """
        conditioning = self.get_conditioning(cell_type_ids, perturbation_ids, experiment_ids)
        values = self.output(self.decoder(torch.cat([z, conditioning], dim=1)))
        if self.config.perturbation_offset:
            values = values + self.offset(self.perturbation_embedding(perturbation_ids))
        if self.config.likelihood == "mse":
            return values
        return softmax(values, dim=1) * (1e4 if library is None else library)

    def scale(self, z: Tensor, cell_type_ids: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor) -> Tensor:
        """Expected share of each gene in the counts of a cell (B, G): rows sum to one, for either likelihood."""
        values = self.decode(z, cell_type_ids, perturbation_ids, experiment_ids, library=1.0)
        if self.config.likelihood == "nb":
            return values
        values = torch.expm1(relu(values))
        return values / values.sum(dim=1, keepdim=True).clamp(min=1e-30)

    def corrected_scale(
        self, z: Tensor, cell_type_ids: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor
    ) -> Tensor:
        """:meth:`scale`, corrected by what the training cells say of each type and perturbation, where known."""
        scale = self.scale(z, cell_type_ids, perturbation_ids, experiment_ids)
        if self.responses is None:
            return scale
        return self.responses(scale, shares(cell_type_ids, self.config.n_cell_types), perturbation_ids)

    def losses(self, x: Tensor, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Unweighted `reconstruction` error and `kl` divergence of every cell (B,), from the outputs of `forward`."""
        return {
            "reconstruction": self.reconstruction_error(x, outputs["reconstructed"]),
            "kl": -0.5 * (1 + outputs["logvar"] - outputs["mu"].square() - outputs["logvar"].exp()).sum(dim=1),
        }

    def loss(self, x: Tensor, outputs: dict[str, Tensor]) -> Tensor:
        """Weighted loss, summed over the batch as the literal class has it.

        Divide by the number of cells before a step, or the learning rate depends on the size of batches.
        """
        terms = self.losses(x, outputs)
        c = self.config
        return c.reconstruction_weight * terms["reconstruction"].sum() + c.kld_weight * terms["kl"].sum()

    def reconstruction_error(self, x: Tensor, reconstructed: Tensor) -> Tensor:
        """Squared error, or minus the log-likelihood of the counts, summed over genes (B,)."""
        if self.config.likelihood == "mse":
            return (reconstructed - x).square().sum(dim=-1)
        return -nb_log_likelihood(x, reconstructed, self.log_theta.exp())

    def class_logits(self, z: Tensor) -> Tensor:
        """Logits of the cell types (B, types) given `z` (B, L); types without training cells get -inf."""
        return self.classifier(z).masked_fill(~self.cell_type_embedding.seen, -torch.inf)

    def known_types(self, types: Tensor, z: Tensor) -> Tensor:
        """Shares of cell types (B, types): certain where `types` (B,) says so, else what the classifier says of `z`.

        ``<UNK>``, the last type, is not known. Shares are returned as they are.
        """
        if types.is_floating_point() or self.config.classifier_weight <= 0:
            return shares(types, self.config.n_cell_types)
        members = shares(types, self.config.n_cell_types)
        ask = types == self.config.n_cell_types - 1
        if not ask.any():
            return members
        guess = self.class_logits(z.reshape(-1, z.shape[-1])).softmax(dim=1).detach()
        guess = guess.reshape(*z.shape[:-1], -1).flatten(0, -3).mean(dim=0) if z.ndim > 2 else guess
        return torch.where(ask[:, None], guess, members)

    @torch.no_grad()
    def predict_cell_type(self, x: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor) -> Tensor:
        """Ids (B,) of the cell types that reconstruct cells `x` (B, G) best from the posterior mean.

        No candidate enters the encoder: with ``encoder_conditioning="all"`` it sees the mean of all types.
        """
        with _evaluating(self):
            anyone = self.equal_types(len(x))
            z, _ = self.encode(x, anyone, perturbation_ids, experiment_ids)
            errors = torch.stack(
                [self.candidate_error(x, z, k, perturbation_ids, experiment_ids) for k in self.cell_types_seen()]
            )
        return self.cell_types_seen()[errors.argmin(dim=0)]

    def candidate_error(
        self,
        x: Tensor,
        z: Tensor,
        k: Tensor,
        perturbation_ids: Tensor,
        experiment_ids: Tensor,
        library: Tensor | None = None,
    ) -> Tensor:
        """Reconstruction error (B,) of cells `x` decoded from `z` as type `k`; their own totals when no `library`."""
        library = x.sum(dim=1, keepdim=True) if library is None else library
        return self.reconstruction_error(
            x, self.decode(z, k.expand(len(x)), perturbation_ids, experiment_ids, library=library)
        )

    def cell_types_seen(self) -> Tensor:
        """Ids of the cell types with training cells."""
        return self.cell_type_embedding.seen.nonzero().flatten()

    @torch.no_grad()
    def predict_perturbation_effect(
        self, x: Tensor, cell_type_ids: Tensor, experiment_ids: Tensor, control_perturbation_id: int
    ) -> Tensor:
        """Expression (B, G) that cells `x` would have under control: encoded as they are, decoded as control.

        On the scale of `x`. :func:`fold_change` compares the two; how a perturbation acts alone, free of the noise of
        the counts, is the difference to `forward`.
        """
        with _evaluating(self):
            own = torch.full((len(x),), int(control_perturbation_id), dtype=torch.long, device=x.device)
            seen = self.perturbation_embedding.seen.to(x.dtype)  # the literal encoder asks; which one is not known
            anything = (seen / seen.sum()).expand(len(x), -1)
            z, _ = self.encode(x, cell_type_ids, anything, experiment_ids)
            return self.decode(z, cell_type_ids, own, experiment_ids, library=x.sum(dim=1, keepdim=True))

    @torch.no_grad()
    def generate(
        self, cell_type_ids: Tensor, perturbation_ids: Tensor, experiment_ids: Tensor, n_samples: int = 1
    ) -> Tensor:
        """Draw `n_samples` cells for each of B conditions (B * n_samples, G), those of one condition adjacent.

        With ``likelihood="mse"`` decoded expression, with ``"nb"`` counts. Random numbers come from torch's generator.
        """
        ids = [ids.repeat_interleave(n_samples, dim=0) for ids in (cell_type_ids, perturbation_ids, experiment_ids)]
        if self.config.likelihood == "nb":
            return self.generate_counts(*ids)
        with _evaluating(self):
            return self.decode(self._draw_z(*ids[:2]), *ids)

    @torch.no_grad()
    def generate_counts(
        self,
        cell_type_ids: Tensor,
        perturbation_ids: Tensor,
        experiment_ids: Tensor,
        library: Tensor | None = None,
    ) -> Tensor:
        """Draw counts (B, G) of one cell per row, negative binomial, or Poisson with ``likelihood="mse"``.

        `library` (B, 1) are the totals to aim at; drawn like those of training cells when None.
        """
        with _evaluating(self):
            z = self._draw_z(cell_type_ids, perturbation_ids)
            if library is None:
                library = self._draw_library(cell_type_ids, perturbation_ids)
            return self.draw_counts(self.scale(z, cell_type_ids, perturbation_ids, experiment_ids) * library)

    def draw_counts(self, mean: Tensor) -> Tensor:
        """Draw counts with these means (B, G): negative binomial, or Poisson with ``likelihood="mse"``."""
        if self.config.likelihood == "nb":
            theta = self.log_theta.exp().expand_as(mean)
            mean = torch.distributions.Gamma(theta, theta / mean.clamp(min=1e-12)).sample()
        return torch.poisson(mean)

    def allocate_prior(self, n_conditions: int, n_combinations: int) -> None:
        """Make room for what training cells look like in each of `n_conditions` pairs of type and perturbation."""
        c = self.config
        c.n_conditions, c.n_combinations = n_conditions, n_combinations
        prior = ConditionPrior(c.n_cell_types, c.n_perturbations, c.latent_dim, n_conditions, n_combinations)
        self.prior = prior.to(self.output.weight.device)

    def allocate_responses(self, n_responses: int) -> None:
        """Make room for the corrections of `n_responses` pairs of type and perturbation."""
        c = self.config
        c.n_responses = n_responses
        responses = Responses(c.n_cell_types, c.n_perturbations, c.input_dim, n_responses)
        self.responses = responses.to(self.output.weight.device)

    def _draw_z(self, cell_type_ids: Tensor, perturbation_ids: Tensor) -> Tensor:
        """From the fitted prior of the condition, else from N(0, I)."""
        if self.prior is not None:
            return self.prior.draw(cell_type_ids, perturbation_ids)
        return torch.randn(len(cell_type_ids), self.config.latent_dim, device=self.output.weight.device)

    def _draw_library(self, cell_type_ids: Tensor, perturbation_ids: Tensor) -> Tensor | float:
        return 1e4 if self.prior is None else self.prior.draw_totals(cell_type_ids, perturbation_ids)

    def equal_types(self, n: int) -> Tensor:
        """Equal shares (n, types) of all cell types that were seen: no type in particular."""
        seen = self.cell_type_embedding.seen.to(self.output.weight.dtype)
        return (seen / seen.sum()).expand(n, -1)


def fold_change(perturbed: Tensor, control: Tensor) -> Tensor:
    """Return perturbed / (control + 1e-8), elementwise.

    Raises
    ------
    ValueError
        A value is negative, as on the scale of log1p with ``likelihood="mse"``: a ratio then says nothing.

    Examples
    --------
    >>> import torch
    >>> fold_change(torch.tensor([4.0, 0.0]), torch.tensor([2.0, 1.0]))
    tensor([2., 0.])
    """
    for name, values in (("perturbed", perturbed), ("control", control)):
        if (values < 0).any():
            raise ValueError(
                f"{name} holds {float(values.min()):g}; fold changes need values >= 0. Use likelihood='nb', or undo "
                "the logarithm first."
            )
    return perturbed / (control + 1e-8)


def _blocks(n_in: int, sizes: Sequence[int], normalization: str) -> nn.Sequential:
    """Linear, normalisation, ReLU, Dropout for every size."""
    layers: list[nn.Module] = []
    for n_out in sizes:
        norm = nn.BatchNorm1d(n_out) if normalization == "batch" else nn.LayerNorm(n_out)
        layers += [nn.Linear(n_in, n_out), norm, nn.ReLU(), nn.Dropout(_DROPOUT)]
        n_in = n_out
    return nn.Sequential(*layers)


@contextmanager
def _evaluating(module: nn.Module):
    """Eval mode inside the block, and the mode it had afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
