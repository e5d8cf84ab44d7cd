"""Time and memory against cells of a backed reference, types, and bulk samples in zarr through Dask.

python benchmarks/scale.py cells 10000 100000 1000000
python benchmarks/scale.py samples 10000 100000
python benchmarks/scale.py types 8 60 150
python benchmarks/scale.py expression 500 2000 [--genes 300]
python benchmarks/scale.py figure docs/_static/scale.svg

`figure` draws the tables that RESULTS_scale.md holds.

Each row is measured in processes of its own. Data are made in a temporary folder (8 GB for a million cells).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import numpy as np
import pandas as pd

N_GENES, N_TYPES, N_DONORS, DRAWS = 15_000, 12, 20, 1_400  # 1,400 draws hit about 1,000 different genes


def write_reference(path: Path, n_cells: int, block: int = 10_000) -> None:
    """Sparse counts (cells x 15,000 genes, about 1,000 above zero per cell) in h5ad, a block of cells at a time."""
    import anndata as ad
    import h5py
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(0)
    profiles = rng.lognormal(0, 1.5, N_GENES) * rng.lognormal(0, 1, (N_TYPES, N_GENES))
    # a long tape of draws from each type's profile; a cell is a stretch of it
    tapes = [rng.choice(N_GENES, 1_000_000, p=p / p.sum()).astype(np.int16) for p in profiles]
    types, donors = rng.integers(N_TYPES, size=n_cells), rng.integers(N_DONORS, size=n_cells)
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical.from_codes(types, [f"type {k:02d}" for k in range(N_TYPES)])},
        index=np.char.add("c", np.arange(n_cells).astype(str)),
    )
    obs["donor"] = pd.Categorical.from_codes(donors, [f"d{d}" for d in range(N_DONORS)])
    empty = sparse.csr_matrix((n_cells, N_GENES), dtype=np.float32)
    ad.AnnData(empty, obs=obs, var=pd.DataFrame(index=[f"g{g}" for g in range(N_GENES)])).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        group = file["X"]
        del group["data"], group["indices"], group["indptr"]
        options = {"shape": (0,), "maxshape": (None,), "chunks": (2**18,)}
        data, columns = (
            group.create_dataset(name, dtype=d, **options) for name, d in (("data", "f4"), ("indices", "i4"))
        )
        indptr = [np.zeros(1, dtype=np.int64)]
        for start in range(0, n_cells, block):
            of = types[start : start + block]
            at = rng.integers(1_000_000 - DRAWS, size=len(of))
            genes = np.stack([tapes[k][a : a + DRAWS] for k, a in zip(of, at, strict=True)])
            genes.sort(axis=1)
            first = np.diff(genes, axis=1, prepend=-1) != 0
            position = np.flatnonzero(first)
            counts = np.diff(position, append=first.size)
            end = data.shape[0] + len(position)
            for dataset, values in ((data, counts), (columns, genes.ravel()[position])):
                dataset.resize((end,))
                dataset[-len(position) :] = values
            indptr.append(indptr[-1][-1] + first.sum(axis=1).cumsum())
        group.create_dataset("indptr", data=np.concatenate(indptr))


def peak_memory() -> float:
    """Largest resident memory of this process so far, in GB; getrusage would count the parent's before the fork."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20


def fit(path: Path, model_path: Path) -> dict[str, float]:
    """Seconds and GB of setup, default training and saving, from a backed file."""
    import anndata as ad
    import scvi

    import hpvade as hp

    scvi.settings.seed = 0
    found = {"start_gb": peak_memory()}
    adata = ad.read_h5ad(path, backed="r")

    def timed(name: str, call, *args, **kwargs):
        start, cpu = time.perf_counter(), time.process_time()
        result = call(*args, **kwargs)
        found[name], found[f"{name}_cpu"] = time.perf_counter() - start, time.process_time() - cpu
        found[f"{name}_gb"] = peak_memory()
        return result

    timed("setup", hp.HPVADE.setup_anndata, adata, "cell_type", sample_key="donor")
    model = hp.HPVADE(adata)
    timed("train", model.train, accelerator="cpu", enable_progress_bar=False, logger=False)
    timed("save", model.save, str(model_path))
    return found


def write_bulk(path: Path, model, n_samples: int, block: int = 1000) -> None:
    """Counts of mixtures (samples x genes) in zarr, made and written a block of samples at a time."""
    import anndata as ad
    import dask.array as da
    import pandas as pd

    profiles = model.get_signature_matrix(normalize="cpm").to_numpy().T / 1e6
    profiles = profiles * np.exp(0.5 * np.random.default_rng(1).standard_normal(profiles.shape[1]))

    def draw(block_info=None) -> np.ndarray:
        (start, stop), _ = block_info[None]["array-location"]
        rng = np.random.default_rng(start)
        mean = rng.dirichlet(np.ones(len(profiles)), stop - start) @ profiles
        return rng.poisson(2e6 * mean / mean.sum(axis=1, keepdims=True)).astype(np.float32)

    rows = tuple(min(block, n_samples - start) for start in range(0, n_samples, block))
    X = da.map_blocks(draw, chunks=(rows, profiles.shape[1:]), dtype=np.float32)
    obs = pd.DataFrame(index=np.char.add("s", np.arange(n_samples).astype(str)))
    ad.AnnData(X, obs=obs, var=pd.DataFrame(index=model.get_var_names())).write_zarr(path)


def deconvolve(path: Path, model_path: Path, n_workers: int) -> dict[str, float]:
    """Seconds of `deconvolve` through Dask, and GB of the largest worker and of this process."""
    import anndata as ad
    from distributed import Client, LocalCluster

    import hpvade as hp

    model = hp.HPVADE.load(str(model_path), accelerator="cpu", adata=False)
    bulk = ad.experimental.read_lazy(path)
    with (
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL"
        ) as cluster,
        Client(cluster) as client,
    ):
        start = time.perf_counter()
        result = model.deconvolve(bulk)
        seconds = time.perf_counter() - start
        workers = client.run(peak_memory)
    assert result.notna().all().all() and len(result) == bulk.n_obs
    return {"seconds": seconds, "worker_gb": max(workers.values()), "client_gb": peak_memory()}


def expression(path: Path, model_path: Path, to_store: int, n_genes: int) -> dict[str, float]:
    """Seconds and GB of `get_cell_type_expression`, to a store from a lazily read bulk, or in memory."""
    import anndata as ad

    import hpvade as hp

    model = hp.HPVADE.load(str(model_path), accelerator="cpu", adata=False)
    bulk = ad.experimental.read_lazy(path) if to_store else ad.read_zarr(path)
    start, cpu = time.perf_counter(), time.process_time()
    store, genes = path.parent / "expression.zarr" if to_store else None, model.get_var_names()[:n_genes]
    table = model.get_cell_type_expression(bulk, genes=genes, store=store)
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "gb": peak_memory()}
    return found | {"table_gb": 3 * 4 * table.n_obs * table.n_vars / 1e9}


def types(path: Path, model_path: Path, n_types: int) -> dict[str, float]:
    """CPU seconds and peaks in GB of a model without networks, `deconvolve` and intervals, 256 samples in memory."""
    from speed import planted_model, timed

    model, bulk = planted_model(n_types, 256, max_epochs=0, n_drawn=8)  # the truth of many samples is large itself
    row = {"made_gb": peak_memory()}
    model.deconvolve(bulk[:8].copy())  # loads the compiled loops
    for name in ("deconvolve", "get_proportion_intervals"):
        _, row[name] = timed(lambda: getattr(model, name)(bulk), 1)  # noqa: B023
        row[f"{name}_gb"] = peak_memory()
    return row


def alone(what: str, *arguments) -> dict[str, float]:
    """Run a part of this script in a process of its own."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])


def table_of_cells(numbers: list[int]) -> None:
    """Table of references."""
    print(
        "| cells | file, GB | setup, CPU s | train(), CPU s | save, CPU s | together, CPU s | peak memory, GB |\n"
        + "|---" * 7
        + "|"
    )
    for n in numbers:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "reference.h5ad"
            write_reference(path, n)
            on_disk = path.stat().st_size / 1e9
            row = alone("_fit", path, Path(folder) / "model")
        together = sum(row[f"{name}_cpu"] for name in ("setup", "train", "save"))
        times = " | ".join(f"{row[f'{name}_cpu']:.1f}" for name in ("setup", "train", "save"))
        print(f"| {n:,} | {on_disk:.1f} | {times} | {together:.0f} | {row['save_gb']:.2f} |", flush=True)


@contextmanager
def trained_model() -> Iterator[tuple[Path, object]]:
    """A folder with a model of 4,000 cells in it, and the model."""
    import anndata as ad

    import hpvade as hp

    with tempfile.TemporaryDirectory() as folder:
        write_reference(Path(folder) / "reference.h5ad", 4000)
        adata = ad.read_h5ad(Path(folder) / "reference.h5ad")
        hp.HPVADE.setup_anndata(adata, "cell_type", sample_key="donor")
        model = hp.HPVADE(adata)
        model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, logger=False)
        model.save(f"{folder}/model")
        yield Path(folder), model


def size(path: Path) -> float:
    """GB of a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e9


def table_of_samples(numbers: list[int], n_workers: int = 2) -> None:
    """Table of cohorts."""
    print(
        "| samples | zarr, GB | workers | seconds | samples/s | largest worker, GB | client, GB |\n" + "|---" * 7 + "|"
    )
    with trained_model() as (folder, model):
        for n in numbers:
            path = folder / f"bulk{n}.zarr"
            write_bulk(path, model, n)
            row = alone("_deconvolve", path, folder / "model", n_workers)
            rate = f"{row['seconds']:.0f} | {n / row['seconds']:,.0f}"
            memory = f"{row['worker_gb']:.2f} | {row['client_gb']:.2f}"
            print(f"| {n:,} | {size(path):.1f} | {n_workers} | {rate} | {memory} |", flush=True)


def table_of_expression(numbers: list[int], n_genes: int = N_GENES) -> None:
    """Table of expression by type: in memory for the first number, to a store for all."""
    print("| samples | to | table, GB | on disk, GB | seconds | CPU s | peak memory, GB |\n" + "|---" * 7 + "|")
    with trained_model() as (folder, model):
        for n, to_store in [(numbers[0], 0), *((n, 1) for n in numbers)]:
            path = folder / f"bulk{n}.zarr"
            if not path.exists():
                write_bulk(path, model, n)
            row = alone("_expression", path, folder / "model", to_store, n_genes)
            on_disk = f"{size(folder / 'expression.zarr'):.1f}" if to_store else "-"
            shutil.rmtree(folder / "expression.zarr", ignore_errors=True)
            times = f"{row['seconds']:.0f} | {row['cpu']:.0f} | {row['gb']:.2f}"
            print(
                f"| {n:,} | {'a store' if to_store else 'memory'} | {row['table_gb']:.1f} | {on_disk} | {times} |",
                flush=True,
            )


def table_of_types(numbers: list[int]) -> None:
    """Table of types: making the model without networks, and 256 samples."""
    columns = "peak of the model, GB | deconvolve, CPU s | peak, GB | intervals, CPU s | peak memory, GB"
    print(f"| types | {columns} |")
    print("|---" * 6 + "|")
    for n in numbers:
        row = alone("_types", ".", ".", n)
        calls = ("deconvolve", "get_proportion_intervals")
        cells = " | ".join(f"{row[name]:.2f} | {row[f'{name}_gb']:.2f}" for name in calls)
        print(f"| {n} | {row['made_gb']:.2f} | {cells} |", flush=True)


def measured(results: Path, first: str) -> pd.DataFrame:
    """The numbers of the table of a Markdown file whose first column is called `first`."""
    lines = results.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in takewhile(str.strip, lines[at:])]
    table = pd.DataFrame(rows[2:], columns=rows[0])
    return table.apply(lambda column: pd.to_numeric(column.str.replace(",", ""), errors="coerce"))


def figure(path: str) -> None:
    """Draw time and memory against cells, samples and types, from RESULTS_scale.md."""
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "scale", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    results = Path(__file__).parent / "RESULTS_scale.md"
    panels = {
        "cells": ({name: f"{name}, CPU s" for name in ("setup", "train()", "save")}, ["peak memory, GB"]),
        "samples": ({"deconvolve()": "seconds"}, ["largest worker, GB", "client, GB"]),
        "types": ({"deconvolve()": "deconvolve, CPU s", "intervals": "intervals, CPU s"}, ["peak memory, GB"]),
    }
    names = {"cells": "cells of the reference", "samples": "bulk samples", "types": "cell types (256 samples)"}
    fig, axes = plt.subplots(2, 3, figsize=(9, 4.2), sharex="col", layout="constrained")
    for (first, (times, memory)), (top, bottom) in zip(panels.items(), axes.T, strict=True):
        table = measured(results, first)
        lines = {top: times, bottom: {column.removesuffix(", GB").removeprefix("peak "): column for column in memory}}
        for axis, columns in lines.items():
            ends = table[list(columns.values())].iloc[-1].rank()
            for name, column in columns.items():
                values = table[column].clip(lower=0.05)  # what a table says as 0.0
                (line,) = axis.plot(table[first], values, marker="o", ms=4)
                place = table[first].iloc[-1], values.iloc[-1]
                apart = 6 * (ends[column] - ends.mean())  # points, where lines end together
                axis.annotate(name, place, (6, apart), textcoords="offset points", va="center", color=line.get_color())
        seconds = table[list(times.values())].clip(lower=0.05).stack()
        decades = np.floor(np.log10(seconds.min())), np.ceil(np.log10(seconds.max()))
        top.set(xscale="log", yscale="log", ylim=10.0 ** np.array(decades))
        bottom.set(ylim=(0, max(2.2, 1.1 * table[memory].max(axis=None))), xlabel=names[first])
    axes[0, 0].set_ylabel("seconds")
    axes[1, 0].set_ylabel("peak memory (GB)")
    fig.savefig(path, metadata={"Date": None})


def main() -> None:
    warnings.simplefilter("ignore")
    parts = {"_fit": fit, "_deconvolve": deconvolve, "_expression": expression, "_types": types}
    if sys.argv[1:2] and sys.argv[1] in parts:
        path, model_path, *rest = sys.argv[2:]
        print(json.dumps(parts[sys.argv[1]](Path(path), Path(model_path), *map(int, rest))))
        return
    tables = {
        "cells": table_of_cells,
        "samples": table_of_samples,
        "types": table_of_types,
        "expression": table_of_expression,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*tables, "figure"])
    parser.add_argument("n", nargs="+", help="numbers, or the file of the figure")
    parser.add_argument("--genes", type=int, help="genes of the table of expression; all when left out")
    args = parser.parse_args()
    if args.what == "figure":
        return figure(*args.n)
    tables[args.what]([int(n) for n in args.n], *([args.genes] if args.genes else []))


if __name__ == "__main__":
    main()
