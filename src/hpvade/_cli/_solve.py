from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_outputs, complete, read_bulk, read_reference, write_table
from ._options import (
    LABELS_HELP,
    BadSamples,
    BatchKey,
    BulkLayer,
    BulkUnits,
    Fractions,
    FractionsOf,
    GenesIn,
    GenesInOption,
    InputType,
    Layer,
    MapGenes,
    Missing,
    MissingGenes,
    Obs,
    OnBadSample,
    SampleKey,
)
from ._run import found, tell


class Method(StrEnum):
    """Solvers."""

    nnls = "nnls"
    rlr = "rlr"
    dwls = "dwls"
    music = "music"
    hspe = "hspe"
    instaprism = "instaprism"
    robust = "robust"


class CellSize(StrEnum):
    """Where the RNA content per cell comes from."""

    pooled = "pooled"
    umi = "umi"
    epic = "epic"
    quantiseq = "quantiseq"
    abis = "abis"


def solve(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="[REF] BULK",
            help="Labelled single cells, left out with --model; then bulk samples, both as for `hpvade deconvolve`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        list[Path],
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help=".csv: samples x types; .h5ad: BULK with the results. May be given twice.",
            show_default=False,
        ),
    ],
    method: Annotated[Method, typer.Option(help="The solver.")] = Method.robust,
    labels_key: Annotated[str | None, typer.Option(metavar="KEY", help=LABELS_HELP)] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Use the signature of this model, or of 'blood', instead of a reference."),
    ] = None,
    obs: Obs = None,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    layer: Layer = None,
    bulk_layer: BulkLayer = None,
    sample_key: SampleKey = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    batch_key: BatchKey = None,
    on_bad_sample: BadSamples = OnBadSample.error,
    n_genes: Annotated[
        int | None, typer.Option(metavar="N", min=2, help="Genes to fit, those of largest spread; markers by default.")
    ] = None,
    cell_size: Annotated[
        CellSize, typer.Option(help="RNA per cell: the reference's pooled with tables, its own (umi), or a table's.")
    ] = CellSize.pooled,
    fractions: FractionsOf = Fractions.cell,
) -> None:
    """Estimate proportions with a classical solver, without training.

    Example: `hpvade solve ref.h5ad bulk.tsv -o nnls.csv --labels-key cell_type --method nnls`

    MuSiC needs --sample-key. The CSV is that of `hpvade deconvolve`.
    """
    if len(files) != (2 if model is None else 1):
        raise UsageError(
            f"Got {len(files)} files ({', '.join(map(str, files))}); expected REF BULK, or BULK alone with --model DIR."
        )
    if model is None and labels_key is None:
        raise UsageError("--labels-key KEY is missing: the column of REF.obs with the cell types.")
    of_cells = {"--labels-key": labels_key, "--obs": obs, "--layer": layer, "--sample-key": sample_key}
    given = [name for name, value in of_cells.items() if value is not None]
    if model is not None and given:
        raise UsageError(f"{', '.join(given)} belong to REF; with --model DIR leave them out.")
    check_outputs(output, ".csv", ".h5ad")
    check_exists(files[-1])
    from .._keys import Keys
    from ..io._names import named
    from ..reference._checks import check_order
    from ..tl import solve as run

    if model is None:
        reference = read_reference(files[0], obs, genes_in=genes_in.value)
        genes, of_cells = reference.var_names, {"labels_key": labels_key, "sample_key": sample_key, "layer": layer}
    else:
        from ._fit import load

        reference, of_cells = load(model).get_signature_matrix(), {}
        genes = reference.index
    bulk = read_bulk(files[-1], genes=genes if map_genes else None, genes_in=genes_in.value)
    if model is None:
        check_order(bulk, reference, labels_key, "REF BULK")
    run(
        bulk,
        reference,
        method=method.value,
        bulk_layer=bulk_layer,
        input_type=input_type.value,
        missing=missing.value,
        batch_key=batch_key,
        on_bad_sample=on_bad_sample.value,
        genes="markers" if n_genes is None else n_genes,
        cell_size=cell_size.value,
        fractions=fractions.value,
        **of_cells,
    )
    proportions = named(bulk.obsm[Keys.solved(method.value)])
    with ExitStack() as stack:
        for path in output:
            partial = stack.enter_context(complete(path))
            write_table(proportions, partial) if path.suffix.lower() == ".csv" else bulk.write_h5ad(partial)
    found(method=method.value, n_samples=len(proportions), types=list(proportions), proportions=proportions)
    for path in output:
        tell(f"{path}: {len(proportions)} samples x {proportions.shape[1]} types, by {method.value}.")
