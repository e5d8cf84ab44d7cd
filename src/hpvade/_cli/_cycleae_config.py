"""The configuration file of ``hpvade cycleae train``: template, validation, job script."""

import json
from pathlib import Path

from ._errors import UsageError

EDIT = "EDIT_ME"
REQUIRED = {
    "data_dir": "folder with the chunks",
    "expr_glob": "pattern of the expression files in it, such as human_counts_*.npz",
    "meta_glob": "pattern of the metadata files, such as human_metadata_*.csv (.pkl needs --allow-pickle)",
    "vocab": "metadata_vocab.json of `hpvade cycleae preprocess`",
    "specs": "metadata_field_specs.json of `hpvade cycleae preprocess`",
    "output_dir": "folder for the results; it must not exist, unless the run is resumed",
}
OPTIONAL = {
    "include": ([], "fields to use; those marked `using` in the specifications when empty"),
    "genes": (None, "text file with one gene name per line; by default genes.txt beside the chunks"),
    "split_by": (None, "metadata column whose groups are held out as a whole"),
    "missing": ("category", "cells without a value: category, mask or error"),
    "latent_dim": (128, "size of every head's hidden encoding"),
    "activation": ("linear", "linear or relu"),
    "scale": ("log1p", "log1p or counts"),
    "nonnegative": (False, "keep weights at zero or above, as published; false for better counterfactuals"),
    "learning_rate": (1e-3, "of both optimisers; 1.0e-4 as published"),
    "batch_size": (128, "cells per step"),
    "num_epochs": (10, "passes over the data"),
    "num_workers": (1, "threads that read the next chunks"),
    "prefetch_factor": (1, "chunks per thread that may wait"),
    "batch_workers": (0, "threads that make the next minibatches"),
    "batch_prefetch_factor": (2, "minibatches per thread that may wait"),
    "seed": (0, "same seed, same result"),
    "device": ("auto", "auto, cpu, gpu or mps"),
}
_CHOICES = {
    "missing": ("category", "mask", "error"),
    "activation": ("linear", "relu"),
    "scale": ("log1p", "counts"),
    "device": ("auto", "cpu", "gpu", "mps"),
}
_LEAST = {"latent_dim": 1, "batch_size": 1, "num_epochs": 1, "num_workers": 0, "prefetch_factor": 1}
_LEAST |= {"batch_workers": 0, "batch_prefetch_factor": 1, "seed": 0}


def template() -> str:
    """A commented configuration, the values to fill in marked."""
    lines = ["# Configuration of `hpvade cycleae train --config FILE`. Paths are relative to where the command runs."]
    lines += [f"{name}: {EDIT}  # {text}" for name, text in REQUIRED.items()]
    lines += ["", "# What follows has defaults."]
    lines += [f"{name}: {json.dumps(value)}  # {text}" for name, (value, text) in OPTIONAL.items()]
    return "\n".join(lines) + "\n"


def job_script(config: Path) -> str:
    """A Slurm job script for a configuration; the directives marked are to be filled in."""
    return f"""#!/bin/bash
#SBATCH --job-name=cycleae
#SBATCH --partition={EDIT}
#SBATCH --account={EDIT}
#SBATCH --time={EDIT}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --output=%x-%j.out
#SBATCH --requeue

set -euo pipefail
export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"

# a job that was interrupted and queued again goes on from its last checkpoint
resume=""
if [ "${{SLURM_RESTART_COUNT:-0}}" -gt 0 ]; then resume="--resume"; fi
srun hpvade cycleae train --config {config.name} $resume
"""


def read_config(path: Path | None, given: dict) -> dict:
    """Settings of a file, with those given on the command line on top; UsageError that lists all that is wrong."""
    import yaml

    settings = {}
    if path is not None:
        try:
            settings = yaml.safe_load(path.read_text("utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"{path} cannot be read as YAML: {error}") from error
        if not isinstance(settings, dict):
            raise UsageError(f"{path} holds a {type(settings).__name__}; expected `key: value` lines.")
    settings = settings | {name: value for name, value in given.items() if value not in (None, [])}
    known = [*REQUIRED, *OPTIONAL]
    wrong = [f"unknown key {name}" for name in settings if name not in known]
    wrong += [f"missing value of {name} ({REQUIRED[name]})" for name in REQUIRED if settings.get(name) in (None, "")]
    wrong += [f"{name} is still {EDIT}" for name, value in settings.items() if EDIT in str(value)]
    settings = {name: value for name, (value, _) in OPTIONAL.items()} | settings
    wrong += [text for name, value in settings.items() if name in known and (text := _wrong_value(name, value))]
    if wrong:
        where = f"{path}: " if path is not None else ""
        raise UsageError(f"{where}{'; '.join(wrong)}. Known keys: {', '.join(known)}.")
    return {name: settings[name] for name in known}


def _wrong_value(name: str, value) -> str | None:
    """What is wrong with a value, or None."""
    if EDIT in str(value) or (name in REQUIRED and value in (None, "")):
        return None
    if name in _CHOICES and value not in _CHOICES[name]:
        return f"{name} is {value!r}, expected one of {', '.join(_CHOICES[name])}"
    if name in _LEAST and not (isinstance(value, int) and not isinstance(value, bool) and value >= _LEAST[name]):
        return f"{name} is {value!r}, expected a whole number of at least {_LEAST[name]}"
    if name == "learning_rate" and not (isinstance(value, int | float) and 0 < value < float("inf")):
        return f"{name} is {value!r}, expected a number above 0 (YAML reads 1e-4 as text: write 1.0e-4)"
    if name == "nonnegative" and not isinstance(value, bool):
        return f"{name} is {value!r}, expected true or false"
    if name == "include" and not (isinstance(value, list) and all(isinstance(field, str) for field in value)):
        return f"{name} is {value!r}, expected a list of names"
    if name in (*REQUIRED, "genes", "split_by") and value is not None and not isinstance(value, str):
        return f"{name} is {value!r}, expected text"
    return None
