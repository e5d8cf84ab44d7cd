"""Options that several sub-commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Preset(StrEnum):
    """Configurations of the model."""

    default = "default"
    spec = "spec"


class InputType(StrEnum):
    """Units of the bulk."""

    auto = "auto"
    counts = "counts"
    cpm = "cpm"
    tpm = "tpm"
    fpkm = "fpkm"
    log1p = "log1p"
    log2 = "log2"


class Missing(StrEnum):
    """What to do about genes that the bulk lacks."""

    error = "error"
    mean = "mean"
    zero = "zero"


class OnBadSample(StrEnum):
    """What to do about samples that cannot be used."""

    error = "raise"
    skip = "skip"


class Fractions(StrEnum):
    """What the proportions are fractions of."""

    cell = "cell"
    rna = "rna"


REFERENCE_HELP = "Labelled single cells, cells x genes, raw counts: h5ad, zarr, a 10x folder or h5, or a table."
LABELS_HELP = "Column of REF.obs with one cell type per cell."
Reference = Annotated[
    Path,
    typer.Argument(metavar="REF", help=REFERENCE_HELP, show_default=False),
]
LabelsKey = Annotated[str, typer.Option(metavar="KEY", help=LABELS_HELP, show_default=False)]
Obs = Annotated[
    Path | None,
    typer.Option(metavar="TABLE", help="Table (csv, tsv, xlsx) with one row per cell of REF, joined by barcode."),
]
MapGenes = Annotated[
    bool,
    typer.Option("--map-genes", help="Translate BULK's genes to REF's: Ensembl ids, previous symbols, Excel's dates."),
]
Layer = Annotated[str | None, typer.Option(metavar="NAME", help="Layer of REF with the counts; X by default.")]
SampleKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="Column of REF.obs with the donor: donors, not cells, are held out.")
]
StudyKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Column of REF.obs with the study: bulk is solved with each, and averaged."),
]
NCellsKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="Column of REF.obs with the cells in each row, where rows are sums.")
]
BulkLayer = Annotated[str | None, typer.Option(metavar="NAME", help="Layer of BULK to read; X by default.")]
BulkUnits = Annotated[
    InputType, typer.Option(help="Units of BULK; auto tells counts from linear values and refuses logged ones.")
]
BadSamples = Annotated[
    OnBadSample,
    typer.Option(help="Samples without expression or with NaN or negative values: an error, or rows without numbers."),
]
BatchKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Column of BULK.obs with batches, each a cohort with its own genes and factor."),
]
Epochs = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Training epochs at most; chosen from the data by default.")
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Random seed: same seed, same result.")]
Accelerator = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, gpu or mps.")]
