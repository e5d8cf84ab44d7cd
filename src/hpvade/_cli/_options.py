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


class GenesIn(StrEnum):
    """Where the genes of a table are."""

    auto = "auto"
    rows = "rows"
    columns = "columns"


REFERENCE_HELP = "Labelled single cells, cells x genes, raw counts: h5ad, zarr, a 10x folder or h5, or a table."
LABELS_HELP = "Column of REF.obs with one cell type per cell."
Reference = Annotated[
    Path,
    typer.Argument(metavar="REF", help=REFERENCE_HELP, show_default=False),
]
References = Annotated[
    list[Path],
    typer.Argument(
        metavar="REF...", help=REFERENCE_HELP + " Several: each file is a study, solved by itself.", show_default=False
    ),
]
Bulk = Annotated[
    Path,
    typer.Argument(
        metavar="BULK", help="Bulk samples, in any of the formats of `hpvade deconvolve`.", show_default=False
    ),
]
Model = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Model of `hpvade train`, or 'blood', the one in the package.", show_default=False
    ),
]
CellsOut = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT.h5ad", help="The new reference.", show_default=False)
]
LabelsKey = Annotated[str, typer.Option(metavar="KEY", help=LABELS_HELP, show_default=False)]
Obs = Annotated[
    Path | None,
    typer.Option(metavar="TABLE", help="Table (csv, tsv, xlsx) with one row per cell of REF, joined by barcode."),
]
MapGenes = Annotated[
    bool,
    typer.Option(
        "--map-genes", help="Translate names of genes to the reference's: Ensembl ids, previous symbols, Excel's dates."
    ),
]
GenesInOption = Annotated[
    GenesIn, typer.Option("--genes-in", help="Of tables: whether genes are the rows or the columns; auto finds out.")
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
MissingGenes = Annotated[
    Missing,
    typer.Option(help="Genes that BULK lacks: left out of the estimate (mean), not expressed (zero), or an error."),
]
FractionsOf = Annotated[Fractions, typer.Option(help="Fractions of cells, or of RNA.")]
Anchor = Annotated[
    Path,
    typer.Option(metavar="ANCHOR", help="Cells whose labels hold: a file as REF, or 'blood', those in the package."),
]
AnchorLabelsKey = Annotated[str, typer.Option(metavar="KEY", help="Column of ANCHOR.obs with its labels.")]
NameMapping = Annotated[
    Path | None,
    typer.Option(metavar="M.json", help='Which name means which on the other side, {"own name": "other name"}.'),
]
SamplesTable = Annotated[
    Path | None, typer.Option(metavar="TABLE", help="Table (csv, tsv, xlsx) with one row per sample, joined by name.")
]
BatchKey = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Column of BULK.obs with batches, each a cohort with its own genes and factor."),
]
Epochs = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Training epochs at most; chosen from the data by default.")
]
EpochsOrNone = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Training epochs at most; chosen from the data by default. 0: no networks, only proportions, fast.",
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="Random seed: same seed, same result.")]
Accelerator = Annotated[str, typer.Option(metavar="NAME", help="auto, cpu, gpu or mps.")]
