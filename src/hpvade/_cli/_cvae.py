"""The sub-commands ``hpvade cvae train`` and ``hpvade cvae infer``."""

import difflib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError, reported
from ._io import check_folder, check_input, note_results
from ._run import found, read, tell

app = typer.Typer(
    name="cvae",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="ConditionalVAE: train on batches of cells, then label, generate and compare cells.",
)

_PERTURBATION = "perturbation"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class SplitBy(StrEnum):
    """What is held out for validation."""

    cell = "cell"
    experiment = "experiment"
    perturbation = "perturbation"


DataDir = Annotated[
    Path,
    typer.Option(metavar="D", help="Folder of batch_*.h5 files, or an .h5ad file, with counts.", show_default=False),
]
HvgFile = Annotated[
    Path | None, typer.Option(metavar="F", help="Genes to use, one per line, in that order; all by default.")
]
ObsCsv = Annotated[Path | None, typer.Option(metavar="F", help="Table of cells, barcodes in the first column.")]
LabelsKey = Annotated[str, typer.Option(metavar="KEY", help="Column of obs with the cell types.")]
PerturbationKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Column of obs with the perturbations; 'perturbation' by default, if there."),
]
ExperimentKey = Annotated[
    str, typer.Option(metavar="KEY", help="Column of obs with the experiments; left out where there is none.")
]
MaxPerBatch = Annotated[int | None, typer.Option(metavar="N", min=1, help="Cells to take from each batch file.")]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Cells per pass.")]
Where = Annotated[Device, typer.Option(help="auto takes a GPU if there is one.")]


def train(
    data_dir: DataDir,
    output_dir: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the results.")] = Path(
        "output/vae_training"
    ),
    more_hidden_dims: Annotated[list[int] | None, typer.Argument(hidden=True)] = None,
    hvg_file: HvgFile = None,
    input_dim: Annotated[int | None, typer.Option(metavar="N", min=1, help="Number of genes, to be checked.")] = None,
    latent_dim: Annotated[int, typer.Option(metavar="N", min=1, help="Latent dimensions.")] = 128,
    hidden_dims: Annotated[
        list[int] | None, typer.Option(metavar="N", min=1, help="Hidden units of the encoder's layers: 512 256.")
    ] = None,
    n_epochs: Annotated[int, typer.Option(metavar="N", min=1, help="Training epochs at most.")] = 100,
    batch_size: BatchSize = 256,
    learning_rate: Annotated[float, typer.Option(metavar="X", help="Learning rate of Adam.")] = 1e-3,
    val_split: Annotated[float, typer.Option(metavar="X", min=0, max=0.9, help="Share of cells held out.")] = 0.1,
    split_by: Annotated[SplitBy, typer.Option(help="Hold out cells, or whole groups.")] = SplitBy.cell,
    device: Where = Device.auto,
    max_cells_per_batch: MaxPerBatch = None,
    obs_csv: ObsCsv = None,
    control: Annotated[str, typer.Option(metavar="NAME", help="Name of the control perturbation.")] = "control",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed: same seed, same result.")] = 0,
    labels_key: LabelsKey = "cell_type",
    perturbation_key: PerturbationKey = None,
    experiment_key: ExperimentKey = "SRX_accession",
    unlabeled_category: Annotated[
        str | None, typer.Option(metavar="NAME", help="Label of cells of no known type, which train, too.")
    ] = None,
) -> None:
    """Train on counts of cells with known cell type, and perturbation where there are some.

    Example: `hpvade cvae train --data-dir batches/ --output-dir run/ --hvg-file genes.txt`

    DIR receives best_model.pt, checkpoint_epoch_X.pt every 10 epochs, config.json, vocabularies.json and the folder
    tensorboard.
    """
    if more_hidden_dims and not hidden_dims:
        raise UsageError(f"unexpected {more_hidden_dims}; expected options only.")
    hidden_dims = [*(hidden_dims or (512, 256)), *(more_hidden_dims or ())]
    check_folder(output_dir, overwrite=True)
    import scvi

    from ..models.cvae._model import ConditionalVAE
    from ..models.cvae._training_files import TrainingFiles
    from ._cvae_cells import cells
    from ._cvae_files import write_json
    from ._fit import quiet
    from ._progress import training_options

    options = {"obs_csv": obs_csv, "max_cells_per_batch": max_cells_per_batch}
    with cells(data_dir, output_dir, hvg_file, n_genes=input_dim, **options) as adata:
        quiet()
        progress = training_options()
        scvi.settings.seed = seed
        ConditionalVAE.setup_anndata(
            adata,
            labels_key,
            perturbation_key=perturbation_key or (_PERTURBATION if _PERTURBATION in adata.obs else None),
            experiment_key=experiment_key if experiment_key in adata.obs else None,
            control_category=control,
            unlabeled_category=unlabeled_category,
        )
        model = ConditionalVAE(adata, n_latent=latent_dim, hidden_dims=hidden_dims)
        output_dir.mkdir(parents=True, exist_ok=True)
        files = TrainingFiles(output_dir, model)
        document = model._checkpoint(0, float("inf"))
        write_json(output_dir / "config.json", document["config"])
        write_json(output_dir / "vocabularies.json", document["vocabularies"])
        model.train(
            n_epochs,
            accelerator={"auto": "auto", "cpu": "cpu", "cuda": "gpu"}[device.value],
            batch_size=batch_size,
            learning_rate=learning_rate,
            train_size=1 - val_split,
            validation_size=val_split,
            split_by=None if split_by is SplitBy.cell else split_by.value,
            early_stopping=val_split > 0,
            **progress | {"callbacks": [files, *progress.get("callbacks", [])]},
        )
        files.finish()
        write_json(output_dir / "config.json", model._checkpoint(0, 0.0)["config"])
    epochs = len(model.history["train_loss"])
    note_results(output_dir)
    found(n_cells=adata.n_obs, n_genes=adata.n_vars, n_epochs=epochs)
    tell(f"{output_dir}: model of {adata.n_vars} genes, trained on {adata.n_obs} cells for {epochs} epochs.")


def infer(
    model_path: Annotated[Path, typer.Option(metavar="P", help="best_model.pt of hpvade cvae train.")],
    data_dir: DataDir,
    output_dir: Annotated[Path, typer.Option(metavar="O", help="Folder for the results.")],
    hvg_file: HvgFile = None,
    predict_cell_types: Annotated[bool, typer.Option("--predict-cell-types", help="Write the cell types.")] = False,
    analyze_perturbations: Annotated[
        bool, typer.Option("--analyze-perturbations", help="Write what perturbations do to genes.")
    ] = False,
    analyze_latent: Annotated[
        bool, typer.Option("--analyze-latent", help="Write and draw the latent representation.")
    ] = False,
    generate_cells: Annotated[bool, typer.Option("--generate-cells", help="Write synthetic cells.")] = False,
    n_generate: Annotated[int, typer.Option(metavar="N", min=1, help="Number of synthetic cells.")] = 100,
    generate_cell_type: Annotated[str | None, typer.Option(metavar="NAME", help="Their cell type.")] = None,
    generate_perturbation: Annotated[str | None, typer.Option(metavar="NAME", help="Their perturbation.")] = None,
    generate_experiment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Their experiment; as in training by default.")
    ] = None,
    device: Where = Device.auto,
    batch_size: BatchSize = 256,
    max_cells: Annotated[int, typer.Option(metavar="N", min=1, help="Cells to read at most, the first ones.")] = 10000,
    obs_csv: ObsCsv = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed of the synthetic cells.")] = 0,
    labels_key: LabelsKey = "cell_type",
    perturbation_key: PerturbationKey = None,
    experiment_key: ExperimentKey = "SRX_accession",
) -> None:
    """Label cells, compare perturbations, look at the latent space and generate cells with a trained model.

    Example: `hpvade cvae infer --model-path run/best_model.pt --data-dir batches/ --output-dir out/ --analyze-latent`

    Genes are selected by the names that the model knows; `--hvg-file` must name the same ones.
    """
    if not (predict_cell_types or analyze_perturbations or analyze_latent or generate_cells):
        raise UsageError(
            "nothing to do: pass --predict-cell-types, --analyze-perturbations, --analyze-latent or --generate-cells."
        )
    if generate_cells and generate_cell_type is None:
        raise UsageError("--generate-cells needs --generate-cell-type NAME.")
    check_input(model_path)
    read(model_path)
    check_folder(output_dir, overwrite=True)
    import torch

    from . import _cvae_files as files
    from ._cvae_cells import cells
    from ._io import complete

    where = device.value if device is not Device.auto else "cuda" if torch.cuda.is_available() else "cpu"
    network = _network(model_path, labels_key, perturbation_key or _PERTURBATION, experiment_key, where)
    n_perturbations = len(network.perturbations)
    if analyze_perturbations and n_perturbations < 2:
        raise UsageError(f"--analyze-perturbations needs a model of perturbations; {model_path} has none.")
    if generate_cells and generate_perturbation is None and n_perturbations > 1:
        raise UsageError("--generate-cells needs --generate-perturbation NAME, one of those of the model.")
    names = {"cell_type": generate_cell_type, "perturbation": generate_perturbation}
    names["srx_accession"] = generate_experiment
    if generate_cells:
        _check_names(network, names)
    options = {"obs_csv": obs_csv, "max_cells": max_cells, "genes": network.genes}
    with cells(data_dir, output_dir, hvg_file, **options) as adata, complete(output_dir) as folder:
        folder.mkdir()
        if predict_cell_types:
            files.cell_types(network, adata, folder, batch_size)
        if analyze_perturbations:
            files.perturbations(network, adata, folder, batch_size)
        if analyze_latent:
            files.latent(network, adata, folder, batch_size)
        if generate_cells:
            files.generated(network, names, n_generate, seed, folder)
        written = sorted(path.name for path in folder.iterdir())
    found(files=written, n_cells=adata.n_obs)
    tell(f"{output_dir}: {', '.join(written)}.")


def _network(path: Path, labels_key: str, perturbation_key: str, experiment_key: str, device: str):
    """The trained network; it reads no column of which it knows one name only."""
    from ..models.cvae._trained import TrainedNetwork

    network = TrainedNetwork(path, labels_key, perturbation_key, experiment_key, device=device)
    known = {perturbation_key: network.perturbations, experiment_key: network.experiments}
    keys = [key if len(names) > 1 else None for key, names in known.items()]
    return TrainedNetwork(path, labels_key, *keys, device=device)


def _check_names(network, names: dict[str, str | None]) -> None:
    """Refuse names that are not in the vocabulary, with the closest ones."""
    for kind, name in names.items():
        known = [other for other in network.vocabularies[kind] if other != "<UNK>"]
        if name is not None and name not in known:
            close = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
            raise UsageError(f"{name!r} is no {kind} of the model. Closest names: {', '.join(close)}.")


app.command(no_args_is_help=True)(reported(train, "cvae"))
app.command(no_args_is_help=True)(reported(infer, "cvae"))
