"""The JSON file beside every result: what it was made of, and how."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ._run import IN_FOLDER, Run, plain, sha256

SUFFIX = ".provenance.json"
_PACKAGES = ("hpvade", "torch", "scvi-tools", "anndata", "numpy", "pandas", "scipy")


def place(path: Path) -> Path:
    """Where the provenance of a result is: beside a file or a zarr store, in any other folder."""
    inside = path.is_dir() and path.suffix.lower() != ".zarr"
    return path / IN_FOLDER if inside else path.with_name(path.name + SUFFIX)


def record(run: Run, part: Path, target: Path) -> str:
    """What is known of `part`, which is about to become `target`, as JSON.

    It is the same for the same inputs, options and versions: no date, no machine, no path but those that were typed.
    """
    document = {
        "command": run.command,
        "options": run.options,
        "inputs": [{"path": str(path), "sha256": known} for path, known in run.inputs.items()],
        "model": run.model,
        "seed": run.options.get("seed"),
        "versions": versions(),
        "output": {"path": str(target), "sha256": sha256(part)},
    }
    return json.dumps(plain(document), indent=1, allow_nan=False) + "\n"


def versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
