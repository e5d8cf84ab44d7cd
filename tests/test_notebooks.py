"""Notebooks run from top to bottom and end as they were stored."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def _text(cell) -> list[str]:
    return [output["data"]["text/plain"] for output in cell.outputs if "text/plain" in output.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_ends_as_stored(path, tmp_path):
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    NotebookClient(fresh, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    last = [cell for cell in fresh.cells if cell.cell_type == "code"][-1]
    stored_last = [cell for cell in stored.cells if cell.cell_type == "code"][-1]
    assert _text(stored_last), f"{path.name} was stored without outputs: run `jupyter execute --inplace {path.name}`"
    assert _text(last) == _text(stored_last)
