from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_folder, complete, read_bulk, read_json
from ._options import (
    Accelerator,
    EpochsOrNone,
    GenesIn,
    GenesInOption,
    LabelsKey,
    Layer,
    MapGenes,
    NCellsKey,
    Obs,
    Preset,
    References,
    SampleKey,
    Seed,
    StudyKey,
)
from ._run import found, tell

if TYPE_CHECKING:
    from anndata import AnnData

_N_CELLS = "n_cells"


def train(
    references: References,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="MODEL_DIR", help="Folder for the model.", show_default=False)
    ],
    labels_key: LabelsKey,
    obs: Obs = None,
    genes_in: GenesInOption = GenesIn.auto,
    map_genes: MapGenes = False,
    layer: Layer = None,
    sample_key: SampleKey = None,
    study_key: StudyKey = None,
    n_cells_key: NCellsKey = None,
    batch_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column of REF.obs with the technical batch.")
    ] = None,
    sorted_profiles: Annotated[
        Path | None,
        typer.Option(
            metavar="TPM", help="Sorted cells measured as bulk, named by type: --add-type comes from them. Sums REF."
        ),
    ] = None,
    add_types: Annotated[
        list[str] | None,
        typer.Option("--add-type", metavar="NAME", help="A type of TPM that REF lacks, such as Neutrophil. Repeat it."),
    ] = None,
    rna_content: Annotated[
        Path | None,
        typer.Option(metavar="M.json", help='RNA per cell, {"type": size}, of added and own types; known for blood.'),
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="default: the best measured configuration; spec: the literal specification.")
    ] = Preset.default,
    epochs: EpochsOrNone = None,
    seed: Seed = 0,
    accelerator: Accelerator = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model in MODEL_DIR.")] = False,
) -> None:
    """Train a model on labelled single cells and save it.

    Example: `hpvade train ref.h5ad -o model/ --labels-key cell_type --sample-key donor`

    Several references: `hpvade train lab_a.h5ad lab_b.h5ad -o model/ --labels-key cell_type`

    REF holds raw counts (UMI counts per cell), in X or in a layer; labels may come in a table with --obs. Several files
    are several studies: bulk is solved with each, over the union of their genes. MODEL_DIR then serves any number of
    `hpvade deconvolve BULK --model MODEL_DIR`.
    """
    check_folder(output, overwrite=overwrite, hint="Pass --overwrite to replace the model, or choose another folder.")
    if (sorted_profiles is None) != (not add_types) or (rna_content is not None and sorted_profiles is None):
        raise UsageError("--sorted-profiles TPM and --add-type NAME need each other; --rna-content M.json needs both.")
    given = {"--n-cells-key": n_cells_key, "--batch-key": batch_key, "--epochs": epochs}
    if add_types and (given := [name for name, value in given.items() if value is not None]):
        raise UsageError(f"{', '.join(given)} cannot be given with --add-type, which sums the cells of REF by itself.")
    if epochs == 0 and preset.value == "spec":
        raise UsageError("--epochs 0 trains no network, and with --preset spec there is nothing else; leave one out.")
    if sorted_profiles is not None:
        check_exists(sorted_profiles)
    from ._fit import fit
    from ._references import read_references

    keys = {"--labels-key": labels_key, "--sample-key": sample_key, "--batch-key": batch_key}
    adata, layer, study_key = read_references(
        references,
        obs=obs,
        genes_in=genes_in.value,
        map_genes=map_genes,
        layer=layer,
        study_key=study_key,
        keys={**keys, "--n-cells-key": n_cells_key},
    )
    n_read = adata.n_obs
    if add_types:
        columns = {"labels_key": labels_key, "sample_key": sample_key, "study_key": study_key}
        adata = _with_sorted(adata, sorted_profiles, add_types, rna_content, map_genes, layer, columns)
        layer, n_cells_key = None, _N_CELLS
    model = fit(
        adata,
        labels_key=labels_key,
        layer=layer,
        sample_key=sample_key,
        study_key=study_key,
        n_cells_key=n_cells_key,
        batch_key=batch_key,
        preset=preset.value,
        epochs=epochs,
        seed=seed,
        accelerator=accelerator,
    )
    with complete(output) as partial:
        model.save(partial)
    found(cell_types=model.cell_types, studies=model.studies, n_cells=n_read, n_genes=adata.n_vars)
    studies = f" of {len(model.studies)} studies" if model.studies else ""
    tell(f"{output}: model of {len(model.cell_types)} types, trained on {n_read} cells{studies}.")


def _with_sorted(
    cells: "AnnData",
    path: Path,
    types: list[str],
    rna_content: Path | None,
    map_genes: bool,
    layer: str | None,
    columns: dict[str, str | None],
) -> "AnnData":
    """Sums of the cells, and beside them the types that only sorted profiles show."""
    from ..pp import add_sorted_profiles, summarize

    profiles = read_bulk(path, genes=cells.var_names if map_genes else None)
    sizes = None if rna_content is None else read_json(rna_content)
    sums = summarize(cells, layer=layer, key_added=_N_CELLS, **columns)
    return add_sorted_profiles(sums, profiles, types, rna_content=sizes, n_cells_key=_N_CELLS, **columns)
