"""Benchmarks in units of one case and one seed, kept in a file so that a run can be stopped and taken up again."""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass
class Part:
    """One table: what is measured for each case and seed, and how the records become a table."""

    cases: list[str]
    measure: Callable[[Path | None, str, int], list[dict]]
    table: Callable[[pd.DataFrame], pd.DataFrame]
    seeds: list[int] | None = None  # those asked for when None


def run(description: str, parts: dict[str, Part]) -> None:
    """Command line of a benchmark: measure what is not recorded yet, then print the tables of the parts asked for."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="development data; parts on planted data do without")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--cases", nargs="+", help="some cases only")
    parser.add_argument("--records", type=Path, help="file to keep records in (JSON lines)")
    args = parser.parse_args()
    records = _read(args.records)
    for name in args.only:
        part = parts[name]
        for case in [case for case in part.cases if not args.cases or case in args.cases]:
            for seed in args.seeds if part.seeds is None else part.seeds:
                if (name, case, seed) in records:
                    continue
                cpu = time.process_time()
                records[name, case, seed] = part.measure(args.folder, case, seed)
                _write(args.records, name, case, seed, records[name, case, seed])
                print(f"<!-- {name}, {case}, seed {seed}: {time.process_time() - cpu:.0f} CPU s -->", flush=True)
        rows = [
            {"case": case, "seed": seed} | row
            for (of, case, seed), found in records.items()
            if of == name and case in part.cases
            for row in found
        ]
        if rows:
            print(f"\n### {name}\n\n{markdown(part.table(pd.DataFrame(rows)))}\n", flush=True)


def medians(*by: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A table with the median over seeds of all numbers, grouped by columns, and the number of seeds."""

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        groups = rows.groupby(list(by), sort=False)
        return groups.median(numeric_only=True).drop(columns="seed").assign(seeds=groups["seed"].nunique())

    return table


def as_measured(rows: pd.DataFrame) -> pd.DataFrame:
    """A table of what was measured once."""
    return rows.set_index("case").drop(columns="seed")


def markdown(table: pd.DataFrame) -> str:
    """The table with its index, numbers to three places."""
    table = table.reset_index()
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1]]
    for row in table.itertuples(index=False):
        lines.append(["-" if v != v else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _read(path: Path | None) -> dict[tuple[str, str, int], list[dict]]:
    if path is None or not path.exists():
        return {}
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return {(record["part"], record["case"], record["seed"]): record["rows"] for record in found}


def _write(path: Path | None, part: str, case: str, seed: int, rows: list[dict]) -> None:
    if path is not None:
        with path.open("a") as file:
            print(json.dumps({"part": part, "case": case, "seed": seed, "rows": rows}, default=float), file=file)
