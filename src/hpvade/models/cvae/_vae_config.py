"""Sizes and options of the conditional variational autoencoder."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

CHOICES = {
    "likelihood": ("mse", "nb"),
    "encoder_conditioning": ("all", "experiment", "none"),
    "normalization": ("batch", "layer"),
}


@dataclass
class VAEConfig:
    """Sizes, weights and options of :class:`ConditionalVAENet`; plain values that JSON can hold.

    Parameters
    ----------
    input_dim
        Number of genes G.
    latent_dim
        Latent size L.
    hidden_dims
        Hidden units of the encoder, in order; the decoder has them reversed.
    n_cell_types, n_perturbations, n_experiments
        Rows of the three embeddings: the sizes of the vocabularies, ``<UNK>`` included.
    cell_type_embed_dim, perturbation_embed_dim, experiment_embed_dim
        Columns of the three embeddings.
    kld_weight, reconstruction_weight
        Weights of the two terms of the loss.
    learning_rate, batch_size
        For training.
    likelihood
        ``"mse"``: `x` is log1p of counts per 10,000, and so is the reconstruction. ``"nb"``: `x` are counts, negative
        binomial around library x softmax decoder.
    encoder_conditioning
        What the encoder is told beside `x`: ``"all"`` three embeddings, that of the ``"experiment"``, or ``"none"``.
    normalization
        Layers between the linear ones: ``"batch"`` (BatchNorm1d) or ``"layer"`` (LayerNorm).
    control_perturbation
        Id of the control, whose embedding is fixed at zero; None fixes none.
    classifier_weight
        Weight of the cross-entropy of a classifier of cell types on z; 0 builds none.
    mmd_weight
        Weight of the penalty on differences of z between perturbations.
    perturbation_offset
        Whether the decoder's output also has a linear term in the embedding of the perturbation: an offset of log
        expression that all cell types share.
    n_conditions, n_combinations
        Pairs of cell type and perturbation, and combinations of them with experiments, that training cells have: what
        the network keeps to generate from.
    n_responses
        Pairs of cell type and perturbation whose counterfactuals are corrected by the training cells.

    Raises
    ------
    ValueError
        A size is below one, a weight is negative, or an option is not one of its choices.

    Examples
    --------
    >>> VAEConfig().latent_dim, VAEConfig(latent_dim=16).hidden_dims
    (128, [512, 256])
    """

    input_dim: int = 2000
    latent_dim: int = 128
    hidden_dims: Sequence[int] = field(default_factory=lambda: [512, 256])
    n_cell_types: int = 50
    n_perturbations: int = 100
    n_experiments: int = 500
    cell_type_embed_dim: int = 32
    perturbation_embed_dim: int = 32
    experiment_embed_dim: int = 16
    kld_weight: float = 1.0
    reconstruction_weight: float = 1.0
    learning_rate: float = 1e-3
    batch_size: int = 256
    likelihood: Literal["mse", "nb"] = field(default="mse", kw_only=True)
    encoder_conditioning: Literal["all", "experiment", "none"] = field(default="all", kw_only=True)
    normalization: Literal["batch", "layer"] = field(default="batch", kw_only=True)
    control_perturbation: int | None = field(default=None, kw_only=True)
    classifier_weight: float = field(default=0.0, kw_only=True)
    mmd_weight: float = field(default=0.0, kw_only=True)
    perturbation_offset: bool = field(default=False, kw_only=True)
    n_conditions: int = field(default=0, kw_only=True)
    n_combinations: int = field(default=0, kw_only=True)
    n_responses: int = field(default=0, kw_only=True)

    def __post_init__(self):
        self.hidden_dims = [int(size) for size in self.hidden_dims]
        if not self.hidden_dims:
            raise ValueError("hidden_dims is empty; expected at least one layer, such as [512, 256].")
        for option, choices in CHOICES.items():
            if getattr(self, option) not in choices:
                raise ValueError(f"{option}={getattr(self, option)!r} is unknown; choose one of {choices}.")
        for name, value in asdict(self).items():
            sizes = value if isinstance(value, list) else [value]
            if (
                name.startswith(("n_co", "n_responses"))
                or name == "control_perturbation"
                or isinstance(value, str | bool)
            ):
                continue
            if name.endswith("weight"):
                if value < 0:
                    raise ValueError(f"{name}={value}; expected a number of at least 0.")
            elif min(sizes) <= 0:
                raise ValueError(f"{name}={value}; expected more than 0.")
