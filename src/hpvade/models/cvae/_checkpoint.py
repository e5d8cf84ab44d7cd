"""Checkpoints of `ConditionalVAENet`: one file with weights, sizes, vocabularies and gene names, nothing executable."""

import io
from dataclasses import asdict
from pathlib import Path

import torch

from ...train._checkpoint import unsealed, write_sealed
from .._saving import refuse_bad_indices
from ._network import ConditionalVAENet
from ._vae_config import VAEConfig

UNKNOWN = "<UNK>"
KEYS = ("epoch", "model_state_dict", "optimizer_state_dict", "val_loss", "config", "vocabularies", "gene_names")


def checkpoint(net, vocabularies: dict, genes, *, epoch: int, val_loss: float, optimizer: dict | None = None) -> dict:
    """Return the dict that a checkpoint holds, in plain values and tensors."""
    return {
        "epoch": epoch,
        "model_state_dict": {name: value.detach().cpu().clone() for name, value in net.state_dict().items()},
        "optimizer_state_dict": optimizer,
        "val_loss": val_loss,
        "config": asdict(net.config),
        "vocabularies": vocabularies,
        "gene_names": [str(gene) for gene in genes],
    }


def write_checkpoint(path, document: dict) -> None:
    """Write a checkpoint whole or not at all, with a checksum."""
    write_sealed(document, path)


def read_checkpoint(path, device: str = "cpu") -> dict:
    """Read a checkpoint; nothing in the file is executed.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated or changed, or no checkpoint of this class.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a checkpoint such as best_model.pt.")
    data, _ = unsealed(path)  # files of other programs have no checksum
    try:
        document = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as a checkpoint: it is truncated or another kind of file ({type(error).__name__}). "
            "Use an unchanged copy."
        ) from error
    missing = [key for key in KEYS if not isinstance(document, dict) or key not in document]
    if missing:
        raise ValueError(
            f"{path} is no checkpoint of ConditionalVAE: it lacks {missing}. Write one with `hpvade cvae train`."
        )
    return document


def load_trained_model(path, device: str = "cpu"):
    """Load a checkpoint of `hpvade cvae train` or `ConditionalVAE.export_checkpoint`.

    Parameters
    ----------
    path
        The file.
    device
        ``"cpu"``, ``"cuda"``, ...

    Returns
    -------
    model
        :class:`ConditionalVAENet` in eval mode.
    config
        Its :class:`VAEConfig`.
    vocabularies
        Ids by name for ``"cell_type"``, ``"perturbation"`` and ``"srx_accession"``, of the training data; ``<UNK>``
        last.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is truncated, or the checkpoint of another class.

    Examples
    --------
    >>> from hpvade.nn.cvae import load_trained_model
    >>> model, config, vocabularies = load_trained_model("best_model.pt")  # doctest: +SKIP
    """
    document = read_checkpoint(path, device)
    try:
        config = VAEConfig(**document["config"])
        net = ConditionalVAENet(config)
        net.load_state_dict(document["model_state_dict"])
        refuse_bad_indices(net.state_dict(), net.index_limits(), path)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds the weights of another class: {' '.join(str(error).split())[:300]}") from error
    return net.to(device).eval(), config, document["vocabularies"]
