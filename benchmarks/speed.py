"""Speed and memory: import, simulation, deconvolution, the demo.

python benchmarks/speed.py [--skip-demo]
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
    """Median wall time of `import hpvade` in a fresh process, without the interpreter's own start."""
    code = "import time; t = time.perf_counter(); import hpvade; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(n)
    ]
    return float(np.median(times))


def simulation_rate(n_genes: int = 4000, n_cells: int = 500, n_samples: int = 4096) -> float:
    """Mixtures per second from chunk sums of the shipped reference, with all platform noise."""
    import hpvade as hp
    from hpvade.reference._signature import sum_chunks

    adata = hp.datasets.pbmc_reference()
    types = adata.obs["cell_type"].cat.codes.to_numpy().astype(int)
    rng = np.random.default_rng(0)
    chunks = sum_chunks(adata.X, types, np.zeros_like(types), types.max() + 1, rng)
    chunks = chunks.select_genes(np.argsort(-chunks.counts.sum(axis=0))[:n_genes])
    start = time.perf_counter()
    for _ in range(0, n_samples, 32):
        p = hp.simulate.sample_proportions(32, chunks.n_types, rng, prior=hp.simulate.TRAINING_PRIOR)
        hp.simulate.draw_mixtures(chunks, p, rng, n_cells=n_cells, noise=hp.simulate.PlatformNoise())
    return n_samples / (time.perf_counter() - start)


def deconvolution_rates(n_genes: int = 4000, n_samples: int = 20_000) -> dict[str, float]:
    """Samples per second of a trained model: its network, `deconvolve` with and without refinement."""
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
    start = time.perf_counter()
    for rows in values.split(256):
        model.module.predict(rows, present)
    rates["network"] = n_samples / (time.perf_counter() - start)
    for refine in (False, True):
        start = time.perf_counter()
        model.deconvolve(large, refine=refine)
        rates[f"deconvolve(refine={refine})"] = n_samples / (time.perf_counter() - start)
    return rates


def demo() -> tuple[float, float]:
    """Wall time in seconds and peak memory in GB of `hpvade demo`."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-c", "from hpvade._cli import app; app()", "demo", "-o", folder]
        subprocess.run(command, check=True, capture_output=True)
        return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6


def main() -> None:
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-demo", action="store_true")
    args = parser.parse_args()
    print("| what | measured | goal |\n|---|---|---|", flush=True)
    print(f"| `import hpvade` | {import_time():.2f} s | <= 0.3 s |", flush=True)
    rate = simulation_rate()
    print(f"| mixtures of 500 cells, 4,000 genes, all noise | {rate:,.0f} per s | >= 2,000 per s |", flush=True)
    for name, rate in deconvolution_rates().items():
        print(f"| {name}, 4,000 genes | {rate:,.0f} samples per s | >= 20,000 per s |", flush=True)
    if not args.skip_demo:
        wall, memory = demo()
        print(f"| `hpvade demo` | {wall:.0f} s | <= 120 s |\n| its peak memory | {memory:.1f} GB | <= 3 GB |")


if __name__ == "__main__":
    main()
