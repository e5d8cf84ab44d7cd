"""Speed and memory: import, simulation, deconvolution, the demo. Times are CPU seconds unless a column says wall.

python benchmarks/speed.py [--skip-demo]
OMP_NUM_THREADS=2 python benchmarks/speed.py --engine
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np


def import_time(n: int = 7) -> float:
    """Median CPU time of `import hpvade` in a fresh process, without the interpreter's own start."""
    code = "import time; t = time.process_time(); import hpvade; print(time.process_time() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(n)
    ]
    return float(np.median(times))


def simulation_rate(n_genes: int = 4000, n_cells: int = 500, n_samples: int = 4096) -> float:
    """Mixtures per CPU second from chunk sums of the shipped reference, with all platform noise."""
    import hpvade as hp
    from hpvade.reference._signature import sum_chunks

    adata = hp.datasets.pbmc_reference()
    types = adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    rng = np.random.default_rng(0)
    chunks = sum_chunks(adata.X, types, np.zeros_like(types), types.max() + 1, rng)
    chunks = chunks.select_genes(np.argsort(-chunks.counts.sum(axis=0))[:n_genes])
    start = time.process_time()
    for _ in range(0, n_samples, 32):
        p = hp.simulate.sample_proportions(32, chunks.n_types, rng, prior=hp.simulate.TRAINING_PRIOR)
        hp.simulate.draw_mixtures(chunks, p, rng, n_cells=n_cells, noise=hp.simulate.PlatformNoise())
    return n_samples / (time.process_time() - start)


def deconvolution_rates(n_genes: int = 4000, n_samples: int = 20_000) -> dict[str, float]:
    """Samples per CPU second of a trained model: its network, `deconvolve` with and without refinement."""
    import anndata as ad
    import torch

    import hpvade as hp

    reference, bulk = hp.datasets.planted_cohort(n_types=8, n_genes=n_genes, n_cells=800, n_samples=100)
    hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
    model = hp.HPVADE(reference, n_genes=n_genes)
    model.train(max_epochs=2, accelerator="cpu", enable_progress_bar=False)
    counts = bulk.X.toarray() if hasattr(bulk.X, "toarray") else np.asarray(bulk.X)
    large = ad.AnnData(np.tile(counts.astype(np.float32), (n_samples // 100, 1)), var=bulk.var[[]])
    rates = {}
    values, present = torch.from_numpy(large.X), torch.ones(n_genes, dtype=torch.bool)
    model.module.predict(values[:256], present)
    start = time.process_time()
    for rows in values.split(256):
        model.module.predict(rows, present)
    rates["network"] = n_samples / (time.process_time() - start)
    for refine in (False, True):
        _, cpu = timed(lambda: model.deconvolve(large, refine=refine))  # noqa: B023
        rates[f"deconvolve(refine={refine})"] = n_samples / cpu
    return rates


def timed(function, n: int = 3) -> tuple[float, float]:
    """Median wall time and CPU time in seconds."""
    times = []
    for _ in range(n):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return tuple(np.median(times, axis=0))


def planted_model(n_types: int, n_samples: int, *, max_epochs: int, n_genes: int = 4000, n_drawn: int = 1000):
    """A model of planted types, and bulk of `n_drawn` samples, repeated; what it has learned changes no speed."""
    import anndata as ad

    import hpvade as hp

    reference, bulk = hp.datasets.planted_cohort(
        n_types=n_types, n_genes=n_genes, n_cells=max(800, 15 * n_types), n_samples=min(n_samples, n_drawn)
    )
    hp.HPVADE.setup_anndata(reference, labels_key="cell_type")
    model = hp.HPVADE(reference, n_genes=n_genes)
    model.train(max_epochs=max_epochs, accelerator="cpu", enable_progress_bar=False)
    counts = bulk.X.toarray() if hasattr(bulk.X, "toarray") else np.asarray(bulk.X)
    repeated = np.resize(np.arange(len(counts)), n_samples)
    return model, ad.AnnData(counts.astype(np.float32)[repeated], var=bulk.var[[]])


def engine(n_samples: int = 5000) -> None:
    """Rows of a table: samples and types per second, beside a loop of `scipy.optimize.nnls` over the same markers."""
    import torch
    from scipy.optimize import nnls

    model, bulk = planted_model(8, n_samples, max_epochs=2)
    module = model.module
    shares = torch.from_numpy(bulk.X / bulk.X.sum(axis=1, keepdims=True))
    present, depth = torch.ones(bulk.n_vars, dtype=torch.bool), torch.full((n_samples,), 5e6)
    anchor = torch.full((n_samples, 8), 1 / 8)
    start = time.perf_counter()
    genes, _ = module.refine(shares[:4], present, depth[:4], anchor[:4])
    print(f"| first call in a process, compiled loops from disk | {time.perf_counter() - start:.2f} s | | | |")
    genes = genes.numpy()
    design, response = module.signature().detach().numpy()[genes].astype(float), bulk.X[:, genes].astype(float)
    loop = timed(lambda: [nnls(design, row) for row in response])
    calls = {
        f"loop of `scipy.optimize.nnls`, {len(genes)} markers": None,
        "the regression alone": lambda: module.refine(shares, present, depth, anchor, anchor_weight=0.02),
        "`deconvolve()`": lambda: model.deconvolve(bulk),
        "`deconvolve(baseline=False)`": lambda: model.deconvolve(bulk, baseline=False),
        "`deconvolve(refine=False)`": lambda: model.deconvolve(bulk, refine=False),
        "`get_proportion_intervals()`": lambda: model.get_proportion_intervals(bulk, n_draws=20),
    }
    for name, call in calls.items():
        wall, cpu = loop if call is None else timed(call)
        rate, ratio = n_samples / wall, cpu / loop[1]
        print(f"| {name} | {wall:.2f} s | {cpu:.2f} s | {rate:,.0f} | {ratio:.1f} |", flush=True)
    for n_types in (60, 150):
        model, bulk = planted_model(n_types, 256, max_epochs=0)
        wall, cpu = timed(lambda: model.deconvolve(bulk))  # noqa: B023
        print(f"| `deconvolve()`, {n_types} types, 256 samples | {wall:.2f} s | {cpu:.2f} s | {256 / wall:,.0f} | |")


def children(command: list[str]) -> tuple[float, float]:
    """CPU seconds of a process, and the peak memory in GB of the largest so far."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss / 1e6


def help_time(n: int = 5) -> float:
    """Median CPU time of `hpvade --help` in a fresh process."""
    command = [sys.executable, "-c", "from hpvade._cli import app; app()", "--help"]
    return float(np.median([children(command)[0] for _ in range(n)]))


def demo() -> tuple[float, float]:
    """CPU time and peak memory in GB of `hpvade demo`."""
    with tempfile.TemporaryDirectory() as folder:
        return children([sys.executable, "-c", "from hpvade._cli import app; app()", "demo", "-o", folder])


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-demo", action="store_true")
    parser.add_argument("--engine", action="store_true", help="the table of the engine, and no other")
    args = parser.parse_args()
    if args.engine:
        print("| what | wall | CPU | samples per s | CPU / loop |\n|---|---|---|---|---|", flush=True)
        return engine()
    print("| what | measured | goal |\n|---|---|---|", flush=True)
    print(f"| `import hpvade` | {import_time():.2f} s | <= 0.1 s |", flush=True)
    print(f"| `hpvade --help` | {help_time():.2f} s | <= 0.5 s |", flush=True)
    rate = simulation_rate()
    print(f"| mixtures of 500 cells, 4,000 genes, all noise | {rate:,.0f} per CPU s | >= 2,000 per s |", flush=True)
    for name, rate in deconvolution_rates().items():
        print(f"| {name}, 4,000 genes | {rate:,.0f} samples per CPU s | >= 20,000 per s |", flush=True)
    if not args.skip_demo:
        cpu, memory = demo()
        print(f"| `hpvade demo` | {cpu:.0f} s | <= 120 s |\n| its peak memory | {memory:.1f} GB | <= 3 GB |")


if __name__ == "__main__":
    main()
