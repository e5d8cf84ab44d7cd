from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._errors import UsageError
from ._io import check_exists, check_output, complete, join_samples, read_bulk, read_table
from ._options import SamplesTable, Seed
from ._run import found, tell

if TYPE_CHECKING:
    from anndata import AnnData


class Method(StrEnum):
    """Tests of `hpvade.tl.compare_groups`."""

    weighted = "weighted"
    draws = "draws"
    ols = "ols"
    mixed = "mixed"


def compare(
    proportions: Annotated[
        Path,
        typer.Argument(
            metavar="P",
            help="P.h5ad or P.csv of `hpvade deconvolve --intervals`; beside a csv, P.intervals.csv is read, too.",
            show_default=False,
        ),
    ],
    groupby: Annotated[
        str, typer.Option(metavar="KEY", help="Column with the group of each sample.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.csv", help="One row per type and group.", show_default=False)
    ],
    samples: SamplesTable = None,
    covariates: Annotated[
        list[str] | None, typer.Option("--covariate", metavar="KEY", help="Compare at equal values of it; repeat it.")
    ] = None,
    paired: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column with subjects: compare within them.")
    ] = None,
    batch_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Column with batches: samples that were sequenced together.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="NAME", help="Group that the others are compared with; the first by default.")
    ] = None,
    method: Annotated[Method, typer.Option(help="How the uncertainty of estimates enters.")] = Method.weighted,
    key: Annotated[str, typer.Option(metavar="KEY", help="The proportions in obsm of P.h5ad.")] = "hpvade_proportions",
    seed: Seed = 0,
) -> None:
    """Ask whether the composition differs between groups of samples.

    Example: `hpvade compare proportions.csv --samples samples.csv --groupby condition -o groups.csv`

    Tests centred log-ratios of each type, with the intervals of the estimates carried in; OUT.csv has differences,
    log ratios, intervals, p and false discovery rate.
    """
    check_output(output, ".csv")
    check_exists(proportions)
    keys = list(dict.fromkeys(key for key in (groupby, *(covariates or []), paired, batch_key) if key is not None))
    data = _read(proportions, key)
    if samples is not None:
        join_samples(data, samples, keys)
    if absent := [name for name in keys if name not in data.obs]:
        raise UsageError(
            f"{proportions} has no column {absent[0]!r} for its samples; found {', '.join(data.obs) or 'none'}. Pass "
            "--samples TABLE with it."
        )
    from ..tl import compare_groups

    table = compare_groups(
        data,
        groupby,
        covariates=covariates or None,
        paired=paired,
        batch_key=batch_key,
        key=key,
        reference=reference,
        method=method.value,
        seed=seed,
    )
    with complete(output) as partial:
        table.to_csv(partial, index=False)
    hits = table[table["fdr"] <= 0.1]
    tell(f"{output}: {table['type'].nunique()} types, {data.n_obs} samples; {len(hits)} differ at a FDR of 0.1.")
    for row in hits.itertuples():
        direction = "more" if row.log2_ratio > 0 else "less"
        tell(
            f"- {row.type}: {direction} in {row.group} than in {row.reference}, {row.mean_group:.3f} against "
            f"{row.mean_reference:.3f} (FDR {row.fdr:.2g})"
        )
    found(comparisons=table.to_dict("records"))


def _read(path: Path, key: str) -> "AnnData":
    """Samples with proportions and bounds in `obsm`, from either file of `hpvade deconvolve`."""
    if path.suffix.lower() in (".h5ad", ".zarr"):
        return read_bulk(path)
    import anndata as ad

    from .._keys import Keys

    table = read_table(path)
    data = ad.AnnData(obs=table.iloc[:, :0])
    data.obsm[key] = table
    beside = path.with_suffix(".intervals.csv")
    if beside.is_file():
        bounds = read_table(beside).reindex(table.index)
        for bound in ("lower", "upper"):
            columns = {f"{name}_{bound}": name for name in table if f"{name}_{bound}" in bounds}
            data.obsm[Keys.bound(key, bound)] = bounds[list(columns)].rename(columns=columns)
    return data
