"""The role ``measured``: a number out of a table of ``benchmarks/RESULTS*.md``, read when the pages are built.

``{measured}`RESULTS_peers.md :: Medians beside hpvade's default :: Scaden 1.1.2 :: RMSE` `` is the cell in the row that
begins with ``Scaden 1.1.2`` and the column ``RMSE`` of the first such table below the first line that holds the text
of the second part. A row may be named by several cells: ``hoek x ref_pbmc3k & default``. What is not found once fails
the build, so that no page can keep a number that nobody measured.
"""

import re
from functools import cache
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@cache
def tables(file: str) -> list[tuple[int, list[list[str]]]]:
    """Tables of a file: the line of the head, and the rows of cells, head first."""
    found, lines = [], (BENCHMARKS / file).read_text(encoding="utf-8").splitlines()
    for i, line in enumerate(lines):
        if re.fullmatch(r"\|[\s:|-]+\|", line.strip()) and i and "|" in lines[i - 1]:
            rows = [lines[i - 1]]
            for row in lines[i + 1 :]:
                if not row.lstrip().startswith("|"):
                    break
                rows.append(row)
            found.append((i - 1, [[cell.strip(" `") for cell in row.strip().strip("|").split("|")] for row in rows]))
    return found


def lookup(text: str) -> str:
    """Return the cell that ``file :: heading :: row :: column`` names; KeyError where there is none, or several."""
    file, heading, row, column = (part.strip() for part in text.split("::"))
    lines = (BENCHMARKS / file).read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if heading in line), None)
    if start is None:
        raise KeyError(f"{file} has no line with {heading!r}")
    wanted = [part.strip() for part in row.split("&")]
    for at, (head, *rows) in tables(file):
        if at < start or column not in head:
            continue
        hits = [cells for cells in rows if cells[: len(wanted)] == wanted]
        if len(hits) == 1:
            return hits[0][head.index(column)]
        if hits:
            raise KeyError(f"{file}, {heading!r}: {len(hits)} rows are {row!r}")
    raise KeyError(f"{file}, {heading!r}: no table has a row {row!r} and a column {column!r}")


def measured(name, rawtext, text, lineno, inliner, options=None, content=None):
    """Role of docutils."""
    from docutils import nodes

    try:
        value = lookup(text)
    except (KeyError, OSError, ValueError) as error:
        return [], [inliner.reporter.error(f"measured: {error}", line=lineno)]
    return [nodes.Text(value)], []


def setup(app):
    from docutils.parsers.rst import roles

    roles.register_local_role("measured", measured)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
