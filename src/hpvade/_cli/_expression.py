from pathlib import Path
from typing import Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_input, check_output, complete
from ._options import (
    Accelerator,
    BadSamples,
    Bulk,
    BulkLayer,
    BulkUnits,
    GenesIn,
    GenesInOption,
    InputType,
    MapGenes,
    Missing,
    MissingGenes,
    Model,
    OnBadSample,
)
from ._run import found, read, tell


def expression(
    bulk: Bulk,
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="(samples, types) x genes: .h5ad, or .zarr, which is written block by block, for large cohorts.",
            show_default=False,
        ),
    ],
    gene_list: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Genes to write, one per line; all by default.")
    ] = None,
    min_resolved: Annotated[
        float, typer.Option(metavar="S", min=0, max=1, help="Share of the variance from which a gene is resolved.")
    ] = 0.5,
    variable_types: Annotated[
        list[str] | None,
        typer.Option(
            "--variable-type",
            metavar="NAME",
            help="A type whose cells differ from sample to sample, such as malignant ones. Repeat it.",
        ),
    ] = None,
    map_genes: MapGenes = False,
    genes_in: GenesInOption = GenesIn.auto,
    bulk_layer: BulkLayer = None,
    input_type: BulkUnits = InputType.auto,
    missing: MissingGenes = Missing.mean,
    on_bad_sample: BadSamples = OnBadSample.error,
    accelerator: Accelerator = "auto",
) -> None:
    """Estimate what every cell type expresses in every sample, with its variance.

    Example: `hpvade expression bulk.tsv --model model/ -o expression.h5ad`

    One row per sample and type ("sample|type"): X holds what the type contributes in the bulk's units,
    layers["expression"] its own expression (counts per million) and layers["variance"] how sure that is. Where
    varm["is_resolved"] is false, the bulk does not show the type, and the value is the reference's. Samples that are
    skipped have no rows.
    """
    if output.exists() and output.suffix.lower() == ".zarr":
        raise UsageError(f"{output} exists. Choose another name.")
    check_output(output, ".h5ad", ".zarr")
    check_exists(bulk)
    from ._fit import load_with_bulk

    how = {"accelerator": accelerator, "map_genes": map_genes, "genes_in": genes_in.value}
    trained, data = load_with_bulk(model, bulk, **how)
    options = {"layer": bulk_layer, "input_type": input_type.value, "missing": missing.value}
    options |= {"genes": _genes(gene_list), "min_resolved": min_resolved, "on_bad_sample": on_bad_sample.value}
    options["variable_types"] = variable_types or None
    with complete(output) as partial:
        if output.suffix.lower() == ".zarr":  # block by block
            table = trained.get_cell_type_expression(data, store=partial, **options)
        else:
            table = trained.get_cell_type_expression(data, **options)
            table.write_h5ad(partial)
    resolved = {str(name): int(column.sum()) for name, column in table.varm["is_resolved"].items()}
    n_samples = table.obs["sample"].nunique()
    found(n_samples=n_samples, n_genes=table.n_vars, genes_resolved=resolved)
    tell(f"{output}: {n_samples} samples x {len(resolved)} types x {table.n_vars} genes.")
    tell("Genes that the bulk resolves: " + ", ".join(f"{name} {count}" for name, count in resolved.items()) + ".")


def _genes(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    check_input(path)
    read(path)
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise UsageError(f"{path} is empty; expected one gene per line.")
    return names
