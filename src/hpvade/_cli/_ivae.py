"""``hpvade ivae``: embed cells with :class:`hpvade.IVAE`."""

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError, reported
from ._io import check_folder, complete, read_reference
from ._options import Seed
from ._progress import training_options
from ._run import found, tell

ivae = typer.Typer(
    name="ivae",
    help="Embed cells in a latent space and in a bottleneck of two or three readable axes.",
    no_args_is_help=True,
)
_KINDS = ("auto", "cpu", "gpu", "mps")


def both(name: str, **options):
    """An option in two spellings, the given one first: ``--data_path`` and ``--data-path``."""
    other = name.replace("-", "_") if "-" in name else name.replace("_", "-")
    return typer.Option(f"--{name}", *([f"--{other}"] if other != name else []), **options)


def train(
    data_path: Annotated[
        Path, both("data_path", metavar="DATA", help="Cells x genes, raw counts.", show_default=False)
    ],
    layer: Annotated[
        str | None,
        both("layer", metavar="NAME", help="Layer with the counts, X for the matrix itself; counts if there is one."),
    ] = None,
    output_dir: Annotated[Path, both("output_dir", metavar="DIR", help="Folder for the results.")] = Path(
        "iVAE_output"
    ),
    epochs: Annotated[int, both("epochs", metavar="N", min=1, help="Passes over the cells at most.")] = 1000,
    lr: Annotated[float, both("lr", metavar="RATE", help="Learning rate of Adam.")] = 1e-3,
    percent: Annotated[
        float, both("percent", metavar="SHARE", help="Cells per minibatch, as a share of all: above 0, at most 1.")
    ] = 0.01,
    hidden_dim: Annotated[int, both("hidden_dim", metavar="H", min=1, help="Hidden units.")] = 128,
    latent_dim: Annotated[int, both("latent_dim", metavar="D", min=1, help="Latent size.")] = 10,
    i_dim: Annotated[int, both("i_dim", metavar="I", min=1, help="Axes of the bottleneck.")] = 2,
    beta: Annotated[float, both("beta", metavar="W", min=0, help="Weight of the KL divergence.")] = 1.0,
    irecon: Annotated[
        float,
        both(
            "irecon", metavar="W", min=0, help="Weight of the reconstruction through the bottleneck; 0: no bottleneck."
        ),
    ] = 1.0,
    dip: Annotated[float, both("dip", metavar="W", min=0, help="Weight of the DIP penalty.")] = 0.0,
    tc: Annotated[float, both("tc", metavar="W", min=0, help="Weight of the total correlation.")] = 0.0,
    info: Annotated[float, both("info", metavar="W", min=0, help="Weight of the MMD (InfoVAE).")] = 0.0,
    batch_key: Annotated[str | None, both("batch-key", metavar="KEY", help="Column of obs with batches.")] = None,
    labels_key: Annotated[
        str | None, both("labels-key", metavar="KEY", help="Column of obs with cell types: metrics are printed.")
    ] = None,
    seed: Seed = 0,
    device: Annotated[str, both("device", metavar="NAME", help="auto, cpu, gpu, mps, or cuda:N.")] = "auto",
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping/--no-early-stopping",
            "--early_stopping/--no_early_stopping",
            help="Stop when held-out cells are no longer described better.",
        ),
    ] = True,
    save_model: Annotated[Path | None, both("save-model", metavar="DIR", help="Keep the trained model here.")] = None,
) -> None:
    """Train on DATA.h5ad and write the embeddings of its cells.

    Example: `hpvade ivae train --data_path data.h5ad --layer counts --output_dir iVAE_output`

    DIR receives latent.npy (cells x D) and iembed.npy (cells x I), float32, in the order of obs_names.txt, and
    history.csv with every loss term of every epoch. With --irecon 0 there is no iembed.npy.
    """
    if not 0 < percent <= 1:
        raise UsageError(f"--percent is {percent}; expected a share of the cells above 0 and at most 1.")
    if not 0 < lr < math.inf:
        raise UsageError(f"--lr is {lr}; expected a number above 0.")
    if i_dim > latent_dim:
        raise UsageError(f"--i_dim is {i_dim}, larger than --latent_dim {latent_dim}; expected at most as many axes.")
    check_folder(output_dir, overwrite=True)
    if save_model is not None:
        check_folder(save_model, overwrite=False)
    adata = read_reference(data_path)
    import numpy as np
    import pandas as pd
    import scvi

    from ..models._device import choose_device
    from ..models.ivae._model import IVAE
    from ._fit import quiet

    quiet()
    if layer is None:
        layer = "counts" if "counts" in adata.layers else "X"
    chosen = choose_device(*((device, "auto") if device in _KINDS else ("auto", device)))
    scvi.settings.seed = seed
    IVAE.setup_anndata(adata, layer=layer, batch_key=batch_key, labels_key=labels_key)
    model = IVAE(
        adata,
        n_hidden=hidden_dim,
        n_latent=latent_dim,
        n_bottleneck=i_dim,
        irecon=irecon,
        beta=beta,
        dip=dip,
        tc=tc,
        info=info,
    )
    model.train(
        epochs,
        accelerator={"cuda": "gpu"}.get(chosen.type, chosen.type),
        devices=[chosen.index or 0] if chosen.type == "cuda" else 1,
        batch_size=cells_per_batch(percent, adata.n_obs),
        early_stopping=early_stopping and len(adata) > 2,
        plan_kwargs={"lr": lr},
        **training_options(),
    )
    with ExitStack() as stack:
        folder = stack.enter_context(complete(output_dir))
        folder.mkdir()
        np.save(folder / "latent.npy", model.get_latent_representation().astype(np.float32))
        if irecon > 0:
            np.save(folder / "iembed.npy", model.get_bottleneck_representation().astype(np.float32))
        (folder / "obs_names.txt").write_text("".join(f"{name}\n" for name in adata.obs_names), encoding="utf-8")
        pd.concat([frame.iloc[:, 0] for frame in model.history.values()], axis=1).to_csv(folder / "history.csv")
        if save_model is not None:
            model.save(stack.enter_context(complete(save_model)))
    found(n_cells=adata.n_obs, n_epochs=len(model.history["train_loss"]))
    if labels_key is not None:
        tell(model.get_metrics().to_frame("latent").T.to_string(float_format="{:.3f}".format))
    written = "latent.npy" if irecon == 0 else f"latent.npy, iembed.npy ({i_dim} axes)"
    tell(f"{output_dir}: {written}, {adata.n_obs} cells, {len(model.history['train_loss'])} epochs.")


def cells_per_batch(percent: float, n_cells: int) -> int:
    """Cells of a minibatch: at least two, at most all."""
    return min(max(2, round(percent * n_cells)), n_cells)


ivae.command(no_args_is_help=True)(reported(train, "ivae"))


@ivae.callback()
def main() -> None:
    """Embed cells in a latent space and in a bottleneck of two or three readable axes."""
