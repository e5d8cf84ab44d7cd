"""The cells of ``hpvade cvae``: read a block at a time, only those asked for, with only the genes asked for."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from ._errors import UsageError
from ._io import check_input
from ._run import read

if TYPE_CHECKING:
    from anndata import AnnData

_IN_MEMORY = 2**30  # bytes of counts; more are left on disk


@contextmanager
def cells(
    data: Path,
    near: Path,
    hvg_file: Path | None,
    *,
    obs_csv: Path | None = None,
    max_cells_per_batch: int | None = None,
    max_cells: int | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int | None = None,
) -> Iterator["AnnData"]:
    """Cells of a folder of batches or an h5ad file, from a temporary file beside `near` that is gone after the block.

    Up to a gigabyte of counts is loaded from it. `genes` are those of a model, `n_genes` the number to expect.
    """
    from ..io._atomic import partial

    hvg = _gene_list(hvg_file)
    if genes is not None and hvg is not None and list(genes) != hvg:
        raise UsageError(
            f"{hvg_file} names {len(hvg)} genes, other than the {len(genes)} of the model or in another order. Leave "
            "it out."
        )
    wanted, named = (hvg, hvg_file) if genes is None else (list(genes), hvg_file or "the model")
    limits = {"max_cells_per_batch": max_cells_per_batch, "obs_csv": obs_csv}
    near = near.absolute().parent
    while not near.is_dir():
        near = near.parent
    with partial(near / "cells.h5ad") as scratch:
        if data.suffix.lower() == ".h5ad":
            adata = _of_h5ad(data, scratch, wanted, named, max_cells, **limits)
        else:
            adata = _of_batches(data, scratch, wanted, named, max_cells, **limits)
        if n_genes is not None and n_genes != adata.n_vars:
            found = f"{hvg_file or data} has {adata.n_vars} genes"
            raise UsageError(f"--input-dim is {n_genes}, but {found}. Leave it out.")
        try:
            yield adata.to_memory() if scratch.stat().st_size <= _IN_MEMORY else adata
        finally:
            adata.file.close()


def _of_h5ad(data: Path, scratch: Path, wanted, named, max_cells, **limits) -> "AnnData":
    if any(value is not None for value in limits.values()):
        raise UsageError("--obs-csv and --max-cells-per-batch belong to folders of batches, not to .h5ad files.")
    check_input(data)
    import anndata as ad

    from ..io._backed import write_blocks
    from ..io._rows import iter_rows, pick_matrix

    with _named(data):
        source = ad.read_h5ad(data, backed="r")
    try:
        read(data)
        _check_genes(wanted, named, source.var_names, data)
        columns = slice(None) if wanted is None else source.var_names.get_indexer(wanted)
        most = min(source.n_obs, max_cells or source.n_obs)
        rows = iter_rows(pick_matrix(source, None, "adata")[0], 2048)
        rows = takewhile(lambda part: part[0].start < most, rows)
        blocks = (block[: most - where.start][:, columns] for where, block in rows)
        return write_blocks(
            scratch, _read(blocks, data), source.obs.iloc[:most].copy(), source.var.iloc[columns].copy()
        )
    finally:
        source.file.close()


def _read(blocks: Iterator, data: Path) -> Iterator:
    """The blocks; an error in reading one names the file, one in writing it elsewhere does not."""
    with _named(data):
        yield from blocks


@contextmanager
def _named(data: Path) -> Iterator[None]:
    """Errors of a damaged file name it."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{data} cannot be read as an h5ad file: {error}") from error


def _of_batches(data: Path, scratch: Path, wanted, named, max_cells, *, obs_csv, max_cells_per_batch) -> "AnnData":
    check_input(data, folder=True)
    if obs_csv is not None:
        check_input(obs_csv)
    from ..models.cvae._h5_batches import H5Batches
    from ..pp import read_h5_batches

    for path in (data, *([] if obs_csv is None else [obs_csv])):
        read(path)
    _check_genes(wanted, named, H5Batches(data, max_cells=1).genes, data)
    return read_h5_batches(
        data,
        obs_csv=obs_csv,
        max_cells_per_batch=max_cells_per_batch,
        max_cells=max_cells,
        genes=wanted,
        backed=scratch,
    )


def _check_genes(wanted: Sequence[str] | None, named, known: Sequence[str], data: Path) -> None:
    known = set(known)
    missing = [name for name in wanted or [] if name not in known]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(wanted)} genes of {named} are not in {data}, such as {', '.join(missing[:3])}."
        )


def _gene_list(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    check_input(path)
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise UsageError(f"{path} is empty; expected one gene per line.")
    if len(set(names)) < len(names):
        raise UsageError(f"{path} names {len(names) - len(set(names))} genes more than once.")
    return names
