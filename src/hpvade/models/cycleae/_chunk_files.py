"""Pairs of expression and metadata files, streamed chunk by chunk."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from os.path import commonprefix
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from ..._text import warn
from ...reference._checks import check_counts
from ._context_data import Chunk, ContextDataModule
from ._context_field import CONTEXT_KEY, MODES, codes_of
from ._contexts import read_metadata, vocab_from_json


class ChunkDataModule(ContextDataModule):
    """Cells in many files, expression and metadata side by side.

    Expression lies in ``.npz`` (CSR) or ``.h5ad``, metadata in ``.csv``, ``.tsv``, ``.parquet`` or ``.h5ad``, or in
    ``.pkl`` with `allow_pickle`. Metadata are read once, expression one chunk at a time; while one chunk is used, the
    next ones are read in the background.

    Parameters
    ----------
    data_dir
        Folder of the files.
    expr_glob, meta_glob
        Patterns of the file names, such as ``"human_counts_*.npz"``. Files belong together that differ from their
        siblings in the same part of the name, else in sorted order; the numbers of rows must agree.
    vocab, specs
        What `hpvade.pp.build_context_specs` returned, or the JSON files of ``hpvade cycleae preprocess``.
    genes
        Names of the genes, or a text file with one per line. When None, those of the expression files, or of a text
        file beside them, ``counts_1.genes.txt`` for ``counts_1.npz`` or ``genes.txt`` for all; else they are numbered.
    split_by
        Metadata column whose groups (donors, say) are held out as a whole for validation.
    missing
        What cells without a value are: ``"category"``, ``"mask"`` or ``"error"``; see `CycleAE.setup_anndata`.
    num_workers, prefetch_factor
        Threads that read chunks, and chunks per thread that may wait in memory; 0 threads read when needed.
    batch_workers, batch_prefetch_factor
        The same for the minibatches of a chunk.
    allow_pickle
        Also read metadata in ``.pkl``. A pickle executes what code it holds: only for files of your own.

    Raises
    ------
    ValueError
        No files; as many expression as metadata files, rows or genes were expected and are not there; vocabulary or
        specifications of other data; negative or non-finite values (when a chunk is read).
    KeyError
        A field in use is no column of a metadata file.
    """

    def __init__(
        self,
        data_dir: str | Path,
        *,
        expr_glob: str,
        meta_glob: str,
        vocab: Mapping[str, Mapping] | str | Path,
        specs: Mapping[str, Mapping] | str | Path,
        genes: Sequence[str] | str | Path | None = None,
        split_by: str | None = None,
        missing: str = "category",
        num_workers: int = 1,
        prefetch_factor: int = 1,
        batch_workers: int = 0,
        batch_prefetch_factor: int = 2,
        allow_pickle: bool = False,
    ):
        if missing not in MODES:
            raise ValueError(f"missing={missing!r}; expected one of {MODES}.")
        workers = {"num_workers": num_workers, "prefetch_factor": prefetch_factor}
        workers |= {"batch_workers": batch_workers, "batch_prefetch_factor": batch_prefetch_factor}
        for name, value in workers.items():
            if value < (0 if name.endswith("workers") else 1):
                raise ValueError(f"{name}={value}; expected at least {0 if name.endswith('workers') else 1}.")
        pairs = pair_files(Path(data_dir), expr_glob, meta_glob)
        self.vocab = vocab if isinstance(vocab, Mapping) else vocab_from_json(Path(vocab).read_text("utf-8"))
        self.specs = specs if isinstance(specs, Mapping) else json.loads(Path(specs).read_text("utf-8"))
        self.state = _state(self.vocab, self.specs, missing)
        self.genes, chunks, codes, groups = None, [], [], []
        names = None if genes is None else _gene_names(genes)
        for expr, meta in pairs:
            n_rows, n_genes, found = _shape(expr)
            self._check_genes(expr, n_genes, found, names)
            obs = read_metadata(meta, allow_pickle=allow_pickle)
            if len(obs) != n_rows:
                raise ValueError(f"{expr} has {n_rows} rows, {meta} has {len(obs)}; expected the same cells in both.")
            wanted = [*self.state["fields"], *([split_by] if split_by else [])]
            if absent := [field for field in wanted if field not in map(str, obs.columns)]:
                raise KeyError(f"{meta} has no column {absent[0]!r}; found {', '.join(map(str, obs.columns))}.")
            codes.append(codes_of(obs, self.state, str(meta)))
            groups.append(obs[split_by].astype(str).to_numpy() if split_by else None)
            chunks.append(Chunk(expr.name, n_rows, partial(_load, expr, self.genes)))
        super().__init__(chunks, np.concatenate(codes), groups=np.concatenate(groups) if split_by else None, **workers)

    def _check_genes(self, path: Path, n_genes: int, found, names) -> None:
        """Genes must be the same in all chunks; by name where the files hold names."""
        found = found if names is None else names
        if self.genes is None:
            self.genes = np.array(found if found is not None else [f"gene_{i}" for i in range(n_genes)], dtype=str)
            self._first = path
        if n_genes != len(self.genes) or (found is not None and not np.array_equal(found, self.genes)):
            what = f"{n_genes} genes" if n_genes != len(self.genes) else "other genes"
            raise ValueError(
                f"{path} has {what}, {self._first if names is None else '`genes`'} has {len(self.genes)}; expected the "
                "same genes in the same order in every chunk."
            )

    @property
    def registry(self) -> dict:
        """What `CycleAE` needs to know about the data: ``CycleAE(registry=data.registry)``."""
        n = len(self.codes)
        arguments = {"context_keys": self.state["fields"], "layer": None, "batch_key": None}
        return {
            "scvi_version": version("scvi-tools"),
            "model_name": "CycleAE",
            "setup_method_name": "setup_anndata",
            "setup_args": arguments | {"missing": self.state["missing"]},
            "field_registries": {
                "X": {
                    "data_registry": {"attr_name": "X", "attr_key": None},
                    "state_registry": {"n_obs": n, "n_vars": len(self.genes), "column_names": self.genes},
                    "summary_stats": {"n_vars": len(self.genes), "n_cells": n},
                },
                CONTEXT_KEY: {
                    "data_registry": {"attr_name": "obsm", "attr_key": "_scvi_context"},
                    "state_registry": self.state,
                    "summary_stats": {"n_context_fields": len(self.state["fields"])},
                },
            },
        }


def pair_files(folder: Path, expr_glob: str, meta_glob: str) -> list[tuple[Path, Path]]:
    """Expression and metadata files that belong together, by the part of the name in which siblings differ."""
    files = {pattern: sorted(folder.glob(pattern)) for pattern in (expr_glob, meta_glob)}
    expr, meta = files[expr_glob], files[meta_glob]
    if not expr or len(expr) != len(meta):
        raise ValueError(
            f"{folder} has {len(expr)} files {expr_glob!r} and {len(meta)} files {meta_glob!r}; expected as many of "
            "both, at least one."
        )
    by_part = dict(zip(_parts(meta), meta, strict=True))
    parts = _parts(expr)
    if set(parts) == set(by_part) and len(by_part) == len(meta):
        return [(path, by_part[part]) for part, path in zip(parts, expr, strict=True)]
    return list(zip(expr, meta, strict=True))


def _parts(paths: list[Path]) -> list[str]:
    """The names of files without what they all begin and end with."""
    stems = [path.name.removesuffix("".join(path.suffixes)) for path in paths]
    stems = [stem[len(commonprefix(stems)) :] for stem in stems]
    ending = len(commonprefix([stem[::-1] for stem in stems]))
    return [stem[: len(stem) - ending] for stem in stems]


def _state(vocab: Mapping, specs: Mapping, missing: str) -> dict:
    """Fields in use with their categories, as `ContextField` registers them."""
    state = {"fields": [], "categories": [], "has_missing": [], "missing": missing}
    for field, spec in specs.items():
        if not spec["using"]:
            continue
        if field not in vocab or len(vocab[field]) != spec["cardinality"]:
            found = len(vocab[field]) if field in vocab else "no"
            raise ValueError(
                f"field {field!r}: the vocabulary has {found} values, the specification {spec['cardinality']}; "
                "expected both from the same data. Run `hpvade cycleae preprocess` again."
            )
        if spec["cardinality"] < 2:
            warn(f"field {field!r} is skipped: it has one category.")
            continue
        if spec.get("null_count") and missing == "error":
            raise ValueError(f"field {field!r} is missing for {spec['null_count']} cells; expected a value.")
        state["fields"].append(field)
        state["categories"].append(list(vocab[field]))
        state["has_missing"].append(bool(spec.get("null_count")) and missing == "category")
    if not state["fields"]:
        raise ValueError("no field in use has two categories; expected at least one `using` in the specifications.")
    return state


def _gene_names(genes) -> list[str]:
    if not isinstance(genes, str | Path):
        return [str(gene) for gene in genes]
    if not Path(genes).is_file():
        raise ValueError(f"genes={str(genes)!r} is not a file; expected a text file with one name per line.")
    return Path(genes).read_text("utf-8").split()


def _shape(path: Path) -> tuple[int, int, np.ndarray | None]:
    """Rows, columns and gene names of an expression file, without reading the values."""
    if path.suffix == ".h5ad":
        adata = ad.read_h5ad(path, backed="r")
        try:
            return *adata.shape, np.array(adata.var_names, dtype=str)
        finally:
            adata.file.close()
    if path.suffix != ".npz":
        raise ValueError(f"{path} is of an unknown kind; expected expression in .npz or .h5ad.")
    with np.load(path) as file:
        if "shape" not in file or file["format"].item() != b"csr":
            raise ValueError(f"{path} holds no CSR matrix; expected a file of scipy.sparse.save_npz.")
        n_rows, n_genes = (int(n) for n in file["shape"])
    beside = [path.with_suffix(".genes.txt"), path.with_name("genes.txt")]
    names = next((np.array(_gene_names(file), dtype=str) for file in beside if file.is_file()), None)
    if names is not None and len(names) != n_genes:
        raise ValueError(
            f"{path} has {n_genes} genes, the text file of genes beside it {len(names)}; expected as many."
        )
    return n_rows, n_genes, names


def _load(path: Path, genes: np.ndarray) -> sparse.csr_matrix:
    """Read and check one chunk."""
    X = ad.read_h5ad(path).X if path.suffix == ".h5ad" else sparse.load_npz(path)
    X = sparse.csr_matrix(X)
    check_counts(X, str(path), pd.RangeIndex(X.shape[0]), pd.Index(genes), allow_empty=True)
    return X


def cells_of_files(expr: str | Path, meta: str | Path, genes: Sequence, *, allow_pickle: bool = False) -> ad.AnnData:
    """One pair of files as an AnnData with the given genes, for the methods of a trained model."""
    _, n_genes, found = _shape(Path(expr))
    found = np.asarray(genes if found is None else found, dtype=str)
    if n_genes != len(genes) or not np.array_equal(found, np.asarray(genes, dtype=str)):
        raise ValueError(f"{expr} has {n_genes} genes, the model {len(genes)}; expected the same in the same order.")
    X, obs = _load(Path(expr), found), read_metadata(meta, allow_pickle=allow_pickle)
    if len(obs) != X.shape[0]:
        raise ValueError(f"{expr} has {X.shape[0]} rows, {meta} has {len(obs)}; expected the same cells in both.")
    return ad.AnnData(X, obs=obs.set_axis(obs.index.astype(str)), var=pd.DataFrame(index=found))
