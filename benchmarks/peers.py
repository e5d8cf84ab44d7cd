"""Peers that install from PyPI, each in an environment of its own, on the rows of `accuracy.py` and scored as there.

    python benchmarks/peers.py DATA_FOLDER [--only hoek] [--peers rectangle autogenes] [--steps scaden=1000]
                               [--limit 900] [--work DIR] [--accuracy FILE.csv] [--score-only] [--output FILE.md]

The work folder keeps the environments, the inputs and every prediction as CSV: what is there is not run again (delete
it to do so), and --score-only makes the table from it alone. A peer that fails to install, fails on a row or takes
more than --limit CPU seconds is reported as such. --accuracy adds the medians that `accuracy.py --output` wrote.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from _cohorts import Row, rows

import hpvade as hp

DRIVERS = Path(__file__).parent / "peers"
METRICS = ["per_type_r", "rmse", "rmse_skill", "ccc"]
ONE_THREAD = dict.fromkeys(
    ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"]
    + ["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"],
    "1",
)


@dataclass
class Peer:
    """How to install and to run one peer; its driver is `peers/run_NAME.py`."""

    title: str
    package: str
    requirements: list[str]
    steps: int | None = None  # its published training length
    unit: str = ""
    variables: dict[str, str] = field(default_factory=dict)


PEERS = {
    "rectangle": Peer("Rectangle", "rectanglepy", ["rectanglepy==1.7.0"]),
    "scaden": Peer(
        "Scaden", "scaden", ["scaden==1.1.2", "tf_keras"], 5000, "steps", {"TF_USE_LEGACY_KERAS": "1"}
    ),  # written for Keras 2
    "tape": Peer(
        "TAPE", "scTAPE", ["scTAPE==1.1.2", "torch==2.13.0"], 128, "epochs", {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    ),  # it loads whole pickled models
    "autogenes": Peer("AutoGeneS", "autogenes", ["autogenes==1.0.4", "scanpy"], 5000, "generations"),
}


class Failure(RuntimeError):
    """A peer gave no usable prediction; the message goes into the table."""


def call(command: list, log: Path, limit: int | None = None, **options) -> None:
    """Run a command into a log file; its last line is the message of a failure."""

    def restrict() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 30))  # SIGXCPU, then SIGKILL

    command, clock = list(map(str, command)), 10 * limit if limit else None  # a command that hangs uses no processor
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=restrict if limit else None,
            **options,
        )
        try:
            code = process.wait(clock)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise Failure(f"stopped after {clock} s by the clock") from None
            raise
    if code == -signal.SIGXCPU:
        raise Failure(f"stopped after {limit} CPU s")
    if code < 0:
        raise Failure(f"ended by {signal.Signals(-code).name}")
    if code:
        lines = log.read_text(errors="replace").split("\n")
        raise Failure(next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {code}"))


def cpu_seconds() -> float:
    """What all commands so far have used; unlike the clock's, the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def environment(name: str, work: Path) -> tuple[Path, str]:
    """The interpreter of a peer's environment, made at the first call, and the peer's version."""
    peer, folder = PEERS[name], work / "env" / name
    python, version = folder / "bin" / "python", folder / "version.txt"
    if not version.exists():
        folder.mkdir(parents=True, exist_ok=True)
        call([sys.executable, "-m", "venv", "--clear", folder], work / f"env_{name}.log")
        call([python, "-m", "pip", "install", *peer.requirements], work / f"env_{name}.log")
        ask = f"from importlib.metadata import version; print(version({peer.package!r}))"
        call([python, "-c", ask], version.with_suffix(".tmp"))
        version.with_suffix(".tmp").rename(version)
    return python, version.read_text().strip()


def linear(row: Row) -> ad.AnnData:
    """The bulk without logarithm; per million, unless it is TPM as published."""
    values = row.bulk.to_df().astype(float)
    values = np.exp2(values) if row.input_type == "log2" else values
    if row.bulk.uns.get("units") != "TPM":
        values = 1e6 * values.div(values.sum(axis=1), axis=0)
    return ad.AnnData(values, obsm={row.truth_key: row.bulk.obsm[row.truth_key]})


def write_inputs(row: Row, bulk: ad.AnnData, folder: Path) -> None:
    """The files that every driver reads; plain enough for old versions of AnnData."""
    folder.mkdir(parents=True, exist_ok=True)
    obs = row.adata.obs[["cell_type"]]
    ad.AnnData(row.adata.X, obs=obs, var=pd.DataFrame(index=row.adata.var_names)).write_h5ad(folder / "reference.h5ad")
    ad.AnnData(bulk.X, obs=pd.DataFrame(index=bulk.obs_names), var=pd.DataFrame(index=bulk.var_names)).write_h5ad(
        folder / "bulk.h5ad"
    )
    (folder / "row.json").write_text(json.dumps({"name": row.name, "truth_in_rna": row.truth_in_rna}))


def run(name: str, folder: Path, work: Path, steps: int | None, limit: int) -> None:
    """One peer on one row: the prediction and a record of how it came about, or the error alone."""
    peer, scratch, prediction = PEERS[name], folder / f"{name}_files", folder / f"{name}.csv"
    record = {"version": "", "seconds": None, "steps": steps, "error": None}
    try:
        python, record["version"] = environment(name, work)
        scratch.mkdir(exist_ok=True)
        command = [python, DRIVERS / f"run_{name}.py", folder, folder / f"{name}.tmp"]
        variables = {**os.environ, **ONE_THREAD, **peer.variables, "MPLBACKEND": "Agg", "PYTHONHASHSEED": "0"}
        start = cpu_seconds()
        call(command + (["--steps", steps] if steps else []), folder / f"{name}.log", limit, cwd=scratch, env=variables)
        record["seconds"] = cpu_seconds() - start
        (folder / f"{name}.tmp").rename(prediction)
    except Failure as error:
        record["error"] = str(error)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1))


def mean_counts(row: Row) -> pd.DataFrame:
    """Mean counts per cell of every type, genes x types; per million where the truth is in RNA, so NNLS is, too."""
    member = pd.get_dummies(row.adata.obs["cell_type"]).astype(float)
    means = pd.DataFrame(row.adata.X.T @ member.to_numpy(), row.adata.var_names, member.columns) / member.sum()
    return 1e6 * means / means.sum() if row.truth_in_rna else means


def read_prediction(row: Row, name: str, folder: Path) -> tuple[pd.DataFrame, dict]:
    """A stored prediction that covers every sample and every scored type, and its record."""
    if not (folder / f"{name}.json").exists():
        raise Failure("not run")
    record = json.loads((folder / f"{name}.json").read_text())
    if record["error"]:
        raise Failure(record["error"])
    predicted = pd.read_csv(folder / f"{name}.csv", index_col=0).set_axis(row.bulk.obs_names)
    if missing := set(row.mapping) - set(predicted.columns):
        raise Failure(f"no answer for {', '.join(sorted(missing))}")
    if silent := predicted.isna().any(axis=1).sum():
        raise Failure(f"no answer for {silent} of {len(predicted)} samples")
    return predicted, record


def score(row: Row, bulk: ad.AnnData, folder: Path, peers: list[str]) -> pd.DataFrame:
    """Every peer's line of the table, then NNLS and the constant."""
    lines = {name: {"model": PEERS[name].title, "note": ""} for name in peers}
    for name, line in lines.items():
        try:
            bulk.obsm[name], record = read_prediction(row, name, folder)
        except Failure as error:
            line["note"] = str(error)
            continue
        line["model"] += f" {record['version']}"
        line["seconds"] = record["seconds"]
        if record["steps"] != PEERS[name].steps:
            line["note"] = f"{record['steps']:,} of {PEERS[name].steps:,} {PEERS[name].unit}"
    keys = [name for name in peers if name in bulk.obsm]
    scores = hp.tl.evaluate(bulk, row.truth_key, prediction_key=keys, mapping=row.mapping, signature=mean_counts(row))[
        METRICS
    ]
    lines |= {"nnls": {"model": "NNLS", "note": ""}, "constant": {"model": "constant", "note": ""}}
    table = pd.DataFrame.from_dict(lines, orient="index").join(scores)
    return table.assign(row=row.name.replace(" | ", " x "))


def own(path: Path) -> pd.DataFrame:
    """HPVADE's medians over seeds from the CSV of `accuracy.py`, without baselines and ablations."""
    table = pd.read_csv(path)
    table = table[table["model"].isin(["default", "spec"])]
    medians = table.groupby(["row", "model"], sort=False)[METRICS].median().reset_index()
    medians["row"] = medians["row"].str.replace(" | ", " x ")
    return medians.assign(model="hpvade " + medians["model"], note="median over seeds", seconds=np.nan)


def markdown(results: pd.DataFrame) -> str:
    """All rows; medians over the rows that a model has, over those that all have, and beside hpvade's."""

    def cells(values: pd.Series) -> str:
        figures = ["-" if pd.isna(v) else f"{v:.3f}" for v in values[METRICS]]
        return " | ".join([*figures, "" if pd.isna(values["seconds"]) else f"{values['seconds']:.0f}"])

    head, bar = "per-type r | RMSE | RMSE skill | CCC | CPU s |", "|---|---|---|---|---|---|---|"
    text = [f"| row | model | {head} note |", bar + "---|"]
    for _, line in results.iterrows():
        text.append(f"| {line['row']} | {line['model']} | {cells(line)} | {line['note'].replace('|', '/')} |")
    scored = results[results["rmse"].notna()].fillna({"per_type_r": 0.0})
    n_models, n_rows = scored["model"].nunique(), results["row"].nunique()
    common = scored[scored.groupby("row")["model"].transform("size") == n_models]
    for title, part in (("every row a model has", scored), ("the rows that all models have", common)):
        groups = part.groupby("model", sort=False)
        sizes, medians = groups.size(), groups[[*METRICS, "seconds"]].median()
        text += ["", f"Medians over {title}", "", f"| model | rows | {head}", bar]
        text += [f"| {name} | {sizes[name]} of {n_rows} | {cells(values)} |" for name, values in medians.iterrows()]
    return "\n".join(text + beside(scored)) + "\n"


def beside(scored: pd.DataFrame) -> list[str]:
    """Every model against hpvade's default on the rows that it has; nothing without --accuracy."""
    own_name = "hpvade default"
    if own_name not in set(scored["model"]):
        return []
    ours = scored[scored["model"] == own_name].set_index("row")
    text = ["", "Medians beside hpvade's default over the rows of each model", ""]
    text += ["| model | rows | r | hpvade's r | RMSE | hpvade's RMSE | rows with r below | rows with RMSE above |"]
    text += ["|---|---|---|---|---|---|---|---|"]
    for name, theirs in scored[scored["model"] != own_name].set_index("row").groupby("model", sort=False):
        same = ours.loc[theirs.index]
        medians = [f"{part[metric].median():.3f}" for metric in ("per_type_r", "rmse") for part in (theirs, same)]
        wins = [(theirs["per_type_r"] < same["per_type_r"]).sum(), (theirs["rmse"] > same["rmse"]).sum()]
        text.append("| " + " | ".join(map(str, [name, len(theirs), *medians, *wins])) + " |")
    return text


def steps_of(values: list[str]) -> dict[str, int | None]:
    """The training length of every peer, the published one unless given as PEER=NUMBER."""
    steps = {name: peer.steps for name, peer in PEERS.items()}
    for value in values:
        name, _, number = value.partition("=")
        if steps.get(name) is None or not number.isdigit() or int(number) < 1:
            known = ", ".join(f"{n}={s}" for n, s in steps.items() if s)
            raise SystemExit(f"--steps {value}: expected PEER=NUMBER; the published lengths are {known}.")
        steps[name] = int(number)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--steps", nargs="+", default=[], metavar="PEER=NUMBER")
    parser.add_argument("--limit", type=int, default=900, help="CPU seconds for one peer on one row")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hpvade_peers")
    parser.add_argument("--accuracy", type=Path, metavar="FILE.csv")
    parser.add_argument("--score-only", action="store_true")
    parser.add_argument("--output", type=Path, metavar="FILE.md")
    args = parser.parse_args()
    steps, work, tables = steps_of(args.steps), args.work.resolve(), []
    for row in rows(args.folder, args.only):
        bulk, folder = linear(row), work / "rows" / "".join(c if c.isalnum() else "_" for c in row.name)
        if not args.score_only and not (folder / "row.json").exists():
            write_inputs(row, bulk, folder)
        for name in args.peers:
            if not args.score_only and not (folder / f"{name}.csv").exists():
                run(name, folder, work, steps[name], args.limit)
        tables.append(score(row, bulk, folder, args.peers))
        print(tables[-1].to_string(index=False, float_format="%.3f"), flush=True)
    results = pd.concat(tables, ignore_index=True)
    if args.accuracy:
        beside = own(args.accuracy)
        results = pd.concat([results, beside[beside["row"].isin(results["row"])]], ignore_index=True)
        results = results.sort_values("row", key=lambda r: pd.factorize(r)[0], kind="stable")
    table = markdown(results)
    print("\n" + table)
    if args.output:
        args.output.write_text(table)


if __name__ == "__main__":
    main()
