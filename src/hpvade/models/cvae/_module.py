"""The scvi-tools face of `hpvade.nn.cvae.ConditionalVAENet`: loss, inference and generation on registered cells."""

import torch
from scvi.distributions import NegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import cross_entropy

from ...nn._normalize import log1p_cp10k
from ._network import ConditionalVAENet, VAEConfig

MMD_SCALES = (0.5, 1.0, 2.0, 4.0)
CLASSIFIER_SCALE = 20.0  # a nat that z knows about the type costs a nat of divergence: the classifier must pay more


class ConditionalVAEModule(BaseModuleClass):
    r"""Trains a `ConditionalVAENet` on registered cells.

    With counts :math:`x`, cell type k, perturbation p, experiment e and total :math:`\ell`, the default loss of a cell
    in nats is

    .. math::
        -w_r \log NB(x; \ell \rho(z, k, p, e), \theta) + w_k KL(q(z | x, e) \| N(0, I)) - w_c \log c_k(z)

    averaged over cells, with :math:`w_c` 20 times `classifier_weight`: what z knows about the type costs
    divergence, and must pay. Perturbation and type enter the decoder
    only. The type of a cell that is not labelled is replaced by the classifier's probabilities.

    Parameters
    ----------
    config
        Sizes and options of the network.
    cell_type_ids, perturbation_ids, experiment_ids
        Ids of the registry's categories, in their order.
    use_size_factor
        Whether `size_factor` is registered; the library is then proportional to it.
    """

    def __init__(
        self,
        config: VAEConfig,
        cell_type_ids: list[int],
        perturbation_ids: list[int],
        experiment_ids: list[int],
        use_size_factor: bool,
    ):
        super().__init__()
        self.net = ConditionalVAENet(config)
        self.use_size_factor = use_size_factor
        self.gene_likelihood = "nb" if config.likelihood == "nb" else "normal"  # scvi's methods ask
        self.parts: dict[str, Tensor] = {}  # of the loss of the last minibatch, means over cells
        for name, ids in (
            ("cell_type_ids", cell_type_ids),
            ("perturbation_ids", perturbation_ids),
            ("experiment_ids", experiment_ids),
        ):
            self.register_buffer(name, torch.tensor(ids))
        self.register_buffer("size_factor_scale", torch.ones(()))

    def on_load(self, model, **kwargs) -> None:
        """Make room for what training added, before the weights are copied."""
        if model.prior_size_ is not None:
            self.net.allocate_prior(*model.prior_size_)
        if model.n_responses_:
            self.net.allocate_responses(model.n_responses_)

    def index_limits(self) -> dict[str, int | Tensor]:
        """See :func:`hpvade.models._saving.load_tensors`."""
        c, limits = self.net.config, self.net.index_limits()
        sizes = {"cell_type_ids": c.n_cell_types, "perturbation_ids": c.n_perturbations}
        sizes["experiment_ids"] = c.n_experiments
        return sizes | {f"net.{name}": limit for name, limit in limits.items()}

    @property
    def unknown(self) -> int:
        """Id of the cell type ``<UNK>``."""
        return self.net.config.n_cell_types - 1

    @torch.no_grad()
    def initialise(self, mean_counts: Tensor, theta: Tensor, size_factor_scale: float, seen: dict[str, Tensor]) -> None:
        """Start from mean expression and inverse dispersion (G,), and say which categories have training cells."""
        if self.net.config.likelihood == "nb":
            self.net.output.bias.copy_((mean_counts + 1e-3).log())
            self.net.log_theta.copy_(theta.log())
        self.size_factor_scale.fill_(size_factor_scale)
        for name, mask in seen.items():
            getattr(self.net, f"{name}_embedding").seen.copy_(mask)

    def ids(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids (B,) of cell type, perturbation and experiment of a minibatch."""
        return tuple(
            table[tensors[key].long().flatten()]
            for table, key in (
                (self.cell_type_ids, "labels"),
                (self.perturbation_ids, "perturbation"),
                (self.experiment_ids, "batch"),
            )
        )

    def library(self, tensors: dict[str, Tensor]) -> Tensor:
        """Totals (B, 1) that the likelihood is told: observed, or proportional to the size factors."""
        if self.use_size_factor:
            return tensors["size_factor"] * self.size_factor_scale
        return tensors["X"].sum(dim=1, keepdim=True)

    def _get_inference_input(self, tensors, **kwargs) -> dict[str, Tensor]:
        types, perturbations, experiments = self.ids(tensors)
        return {
            "x": tensors["X"],
            "cell_type_ids": types,
            "perturbation_ids": perturbations,
            "experiment_ids": experiments,
            "library": self.library(tensors),
        }

    def _get_generative_input(self, tensors, inference_outputs, **kwargs) -> dict[str, Tensor]:
        types, perturbations, experiments = self.ids(tensors)
        return {
            "z": inference_outputs["z"],
            "library": inference_outputs["library"],
            "cell_types": self.net.known_types(types, inference_outputs["z"]),
            "perturbation_ids": perturbations,
            "experiment_ids": experiments,
        }

    @auto_move_data
    def inference(self, x, cell_type_ids, perturbation_ids, experiment_ids, library, n_samples: int = 1) -> dict:
        """Posterior of the latent representation, `qz`, and draws `z` from it."""
        values = x if self.net.config.likelihood == "nb" else log1p_cp10k(x)
        mu, logvar = self.net.encode(values, cell_type_ids, perturbation_ids, experiment_ids)
        qz = Normal(mu, torch.exp(0.5 * logvar))
        z = qz.rsample() if n_samples == 1 else qz.rsample((n_samples,))
        return {"qz": qz, "z": z, "library": library}

    @auto_move_data
    def generative(
        self, z, library, cell_types, perturbation_ids, experiment_ids, transform_batch: int | None = None
    ) -> dict:
        """Distribution `px` of the counts; with ``likelihood="mse"`` a unit normal on log1p cp10k.

        `transform_batch` is the registry's code of an experiment to decode all cells with.
        """
        if transform_batch is not None:
            experiment_ids = self.experiment_ids[torch.full_like(experiment_ids, transform_batch)]
        flat = z.reshape(-1, z.shape[-1])
        repeats = len(flat) // len(perturbation_ids)
        conditions = [
            ids.repeat(repeats, *[1] * (ids.ndim - 1)) for ids in (cell_types, perturbation_ids, experiment_ids)
        ]
        if self.net.config.likelihood == "mse":
            return {"px": Normal(self.net.decode(flat, *conditions).reshape(*z.shape[:-1], -1), 1.0)}
        scale = self.net.scale(flat, *conditions).reshape(*z.shape[:-1], -1)
        return {"px": NegativeBinomial(mu=scale * library, theta=self.net.log_theta.exp(), scale=scale)}

    def loss(self, tensors, inference_outputs, generative_outputs, kl_weight: float = 1.0) -> LossOutput:
        """Loss of a minibatch, mean over cells; `reconstruction_loss` and `kl_local` per cell."""
        c, qz, z = self.net.config, inference_outputs["qz"], inference_outputs["z"]
        px = generative_outputs["px"]
        if c.likelihood == "nb":
            x, reconstructed = tensors["X"], px.mu
        else:
            x, reconstructed = log1p_cp10k(tensors["X"]), px.loc
        terms = self.net.losses(x, {"reconstructed": reconstructed, "mu": qz.loc, "logvar": 2 * qz.scale.log()})
        loss = (c.reconstruction_weight * terms["reconstruction"] + kl_weight * c.kld_weight * terms["kl"]).mean()
        types, perturbations, _ = self.ids(tensors)
        extra = {}
        labelled = types != self.unknown
        if c.classifier_weight > 0:
            entropy, accuracy = self._classify(z, types, labelled)
            loss = loss + c.classifier_weight * CLASSIFIER_SCALE * entropy
            extra |= {"classifier_loss": entropy.detach(), "classifier_accuracy": accuracy}
        if c.mmd_weight > 0:
            difference = mmd(z, perturbations)
            loss = loss + c.mmd_weight * difference
            extra["mmd"] = difference.detach()
        means = {"reconstruction": terms["reconstruction"].mean(), "kl": terms["kl"].mean()}
        self.parts = {name: value.detach() for name, value in ({"loss": loss} | means | extra).items()}
        return LossOutput(
            loss=loss, reconstruction_loss=terms["reconstruction"], kl_local=terms["kl"], extra_metrics=extra
        )

    def _classify(self, z: Tensor, types: Tensor, labelled: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy over the labelled cells; zero where there are none."""
        logits = self.net.class_logits(z)
        # types that have no training cells have logit -inf: cells of a held-out type say nothing here
        counted = (labelled & self.net.cell_type_embedding.seen[types]).to(z.dtype)
        n = counted.sum().clamp(min=1)
        target = torch.where(counted > 0, types, logits.argmax(dim=1))
        entropy = (cross_entropy(logits, target, reduction="none") * counted).sum() / n
        return entropy, ((logits.argmax(dim=1) == types) * counted).sum() / n

    @torch.inference_mode()
    def sample(self, tensors, n_samples: int = 1, generative_kwargs: dict | None = None) -> Tensor:
        """Draw counts from the posterior predictive (cells x genes, or cells x genes x samples)."""
        outputs = self.inference(**self._get_inference_input(tensors), n_samples=n_samples)
        px = self.generative(**self._get_generative_input(tensors, outputs, **(generative_kwargs or {})))["px"]
        draws = px.sample()
        return draws.cpu() if n_samples == 1 else draws.permute(1, 2, 0).cpu()


def mmd(z: Tensor, groups: Tensor) -> Tensor:
    """Maximum mean discrepancy of `z` (B, L) between each group of two cells or more and the first; mean over groups.

    Biased estimate with a sum of Gaussian kernels, whose widths are multiples of L (Gretton et al. 2012).
    """
    parts = [z[groups == group] for group in groups.unique()]
    parts = [part for part in parts if len(part) > 1]
    if len(parts) < 2:
        return z.new_zeros(())

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        squared = (a[:, None] - b[None]).square().sum(dim=2) / z.shape[1]
        return sum(torch.exp(-squared / scale) for scale in MMD_SCALES).mean()

    first = parts[0]
    own = similarity(first, first)
    return torch.stack([own + similarity(part, part) - 2 * similarity(first, part) for part in parts[1:]]).mean()
