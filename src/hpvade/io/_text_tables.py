"""Tables of text: encoding, delimiter, header line and decimal sign are found out; what is doubtful is refused."""

import csv
import gzip
import io
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

_DELIMITERS = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "spaces"}
_HEAD = 200  # lines that are looked at
_MAX_ABOVE = 20  # lines of a title above a table, at most
_NUMBER = re.compile(r"[+-]?(?:\d[\d.,'\u00a0\u202f ]*|[.,]\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_HEAD_OF_NAMES = re.compile(
    r"#?(genes?|ensembl|hgnc|symbol|samples?|barcode|cell|transcript|target)([ _.-]?(ids?|names?|symbol))*",
    re.IGNORECASE,
)
_SPACE_AND_NUMBER = re.compile(r"\S +\d+$")
_EMPTY = {"", "na", "nan", "n/a", "#n/a", "null", "none", "-", ".", "#div/0!", "#value!", "#ref!", "#name?", "#num!"}
_SPACES = re.compile(r"(?<=\d)[\u00a0\u202f' ](?=\d{3}(?:\D|$))")


@dataclass
class Cells:
    """The cells of a table: `first`, its first line, and the `rows` below, columns 0, 1, ... of numbers or of text."""

    first: list[str]
    rows: pd.DataFrame
    is_header: bool | None = None
    notes: list[str] = field(default_factory=list)


def read_cells(path: Path) -> Cells:
    """Cells of a text file, gzipped or not."""
    text, notes = _decode(_uncompressed(path), path)
    return parse_cells(text, path.name, notes)


def _uncompressed(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw[:2] != b"\x1f\x8b":
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged or truncated gzip file ({error}). Copy or download it again.") from error


def _decode(raw: bytes, path: Path) -> tuple[str, list[str]]:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16"), ["text in UTF-16"]
    if b"\0" in raw[:100_000]:
        raise ValueError(f"{path} is a binary file, not text. {_READ}")
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return raw.decode("cp1252", errors="replace"), ["text is not UTF-8; read as Windows-1252"]


_READ = (
    "What is read: h5ad and zarr; text tables (csv, tsv, txt, also gzipped) and xlsx with genes as rows or columns; "
    "the output of featureCounts, salmon, kallisto, RSEM, StringTie, HTSeq and STAR."
)


def parse_cells(text: str, name: str, notes: list[str] | None = None) -> Cells:
    """Cells of a table in `text`; errors name it `name`."""
    notes = list(notes or ())
    lines = re.split(r"\r\n|\n|\r", text)
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip(' \t,;|"')]
    if not numbered:
        raise ValueError(f"{name} is empty: it has no line of a table. Copy or write it again.")
    comments = [line for _, line in numbered if line.startswith("#")]
    body = [(i, line) for i, line in numbered if not line.startswith("#")]
    if not body:
        raise ValueError(f"{name} has comments only (lines that begin with #).")
    delimiter, width, trailing = _delimiter([line for _, line in body[:_HEAD]], name)
    split = _splitter(delimiter, trailing)
    above = 0
    while above < min(_MAX_ABOVE, len(body) - 1) and _is_above(split, body, above, width):
        above += 1
    if above:
        notes.append(f"{above} line{'s' * (above > 1)} above the table left out: {body[0][1].strip()[:60]!r}")
        body = body[above:]
    head = body[0]
    first, is_header = split(head[1]), None
    hashed = split(comments[-1].lstrip("#")) if comments else []
    if len(hashed) == width and comments[-1][1:2].strip():  # "# words" are a remark, "#gene" is a header
        first, is_header = hashed, True
    else:
        body = body[1:]
    if len(first) == width - 1:
        first, is_header = ["", *first], True
    if not body:
        raise ValueError(f"{name} has one line only; expected a header and one line per gene or sample.")
    _refuse_ragged(body if len(first) == width else [*body, head], delimiter, split, width, name)
    notes.append(f"fields separated by {_DELIMITERS[delimiter]}")
    try:
        rows = _parse(body, delimiter, width, {0: str})
        if any(rows[column].dtype == object and looks_numeric(rows[column]) for column in rows.columns[1:]):
            rows = _parse(body, delimiter, width, str)  # one notation for all columns
    except pd.errors.ParserError as error:
        raise ValueError(f"{name}: {error}. A quotation mark is not closed, or the file is truncated.") from error
    return Cells(first, rows, is_header, notes)


def _splitter(delimiter: str, trailing: bool):
    def split(line: str) -> list[str]:
        line = line.strip(" ") if delimiter == " " else line
        fields = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
        return fields[:-1] if trailing and fields and not fields[-1] else fields

    return split


def _delimiter(lines: list[str], name: str) -> tuple[str, int, bool]:
    """The delimiter with which most lines have as many fields of numbers, the number of fields, empty ends."""
    best = (0.0, "", 0, False)
    for delimiter in _DELIMITERS:
        rows = [_splitter(delimiter, False)(line) for line in lines]
        counts = Counter(map(len, rows[len(rows) > 1 :]))
        width = max(counts, key=lambda size: (counts[size], size))
        if width < 2:
            continue
        same = [row for row in rows if len(row) == width]
        trailing = width > 2 and all(not row[-1] for row in same)
        cells = [cell for row in same[len(same) > 1 :] for cell in row[1 : width - trailing]]
        numeric = np.mean([bool(_NUMBER.fullmatch(cell)) for cell in cells]) if cells else 0.0
        names = [row[0] for row in same[len(same) > 1 :]]
        score = len(same) / len(rows) * (0.1 + numeric) * (0.5 + 0.5 * len(set(names)) / len(names))
        if delimiter != " " and all(_SPACE_AND_NUMBER.search(name) for name in names):
            score *= 0.95  # "CD3E 1,5" is a name, a space and a decimal comma rather than a name of two words
        if score > best[0] + 1e-9:
            best = (score, delimiter, width - trailing, trailing)
    if not best[1]:
        raise ValueError(
            f"{name} has one field per line; expected names and numbers separated by tabs, commas, semicolons or "
            f"spaces. Its first line is {lines[0][:80]!r}."
        )
    return best[1:]


def _is_above(split, body: list[tuple[int, str]], at: int, width: int) -> bool:
    """Whether a line belongs to a title, not to the table."""
    fields = split(body[at][1])
    below = split(body[at + 1][1])
    if _is_head(below[0]) and len(below) == width and not _is_head(fields[0]):
        return True  # words of a title, and then the header
    if len(fields) == width - 1 and len(below) == width:  # a header without a name for the names, as R writes it
        return width == 2 and " " in fields[0]
    if len(fields) < width:
        return True
    return not fields[-1] if width == 2 else sum(bool(cell) for cell in fields) < 2 and len(below) >= width


def _is_head(cell: str) -> bool:
    """Whether a cell is what people call a column of names."""
    return bool(_HEAD_OF_NAMES.fullmatch(cell))


def _refuse_ragged(body: list[tuple[int, str]], delimiter: str, split, width: int, name: str) -> None:
    for i, line in body:
        fast = len(line.split()) if delimiter == " " else line.count(delimiter) + 1
        if fast != width and len(fields := split(line)) != width:
            others = [
                word for d, word in _DELIMITERS.items() if d not in (delimiter, " ") and line.count(d) >= width - 1
            ]
            raise ValueError(
                f"{name}: line {i} has {len(fields)} fields, the others have {width} (separated by "
                f"{_DELIMITERS[delimiter]}): {line.strip()[:60]!r}. "
                + (f"This line is separated by {others[0]}. " if others else "")
                + "The file is damaged, truncated, or made of two tables."
            )


def _parse(body: list[tuple[int, str]], delimiter: str, width: int, dtype) -> pd.DataFrame:
    separator = r"\s+" if delimiter == " " else delimiter
    table = pd.read_csv(
        io.StringIO("\n".join(line for _, line in body)),
        sep=separator,
        header=None,
        names=range(width + 1),  # one more, for a delimiter at the ends of lines
        index_col=False,
        dtype=dtype,
        keep_default_na=False,
        skipinitialspace=True,
        skip_blank_lines=False,
        low_memory=False,
    )
    return table[list(range(width))]


def is_number(text: str) -> bool:
    """Whether `text` reads as a number, in any notation."""
    return bool(_NUMBER.fullmatch(text.strip()))


def looks_numeric(column: pd.Series) -> bool:
    """Whether most of a column's filled cells read as numbers."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return True
    cells = column.astype(str).str.strip()
    filled = cells[~cells.str.lower().isin(_EMPTY)]
    return bool(len(filled)) and float(filled.head(2000).map(is_number).mean()) > 0.5


def to_numbers(table: pd.DataFrame, rows: pd.Index, columns: pd.Index, name: str) -> tuple[np.ndarray, list[str]]:
    """Values of `table` as float64, with what was found out about their notation.

    Raises
    ------
    ValueError
        Cells that are empty or no numbers, or whose decimal sign is in doubt.
    """
    notes: list[str] = []
    is_text = np.array([not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes], dtype=bool)
    values = np.empty(table.shape)
    values[:, ~is_text] = table.loc[:, ~is_text].to_numpy(dtype=np.float64)
    if is_text.any():
        text = table.loc[:, is_text].astype(str).apply(lambda column: column.str.strip())
        _refuse_cells(text, rows, columns[is_text], name)
        values[:, is_text], notes = _from_text(text, name)
    else:
        _refuse_doubtful_dots(table, name)
    bad = ~np.isfinite(values)
    if bad.any():
        i, j = np.argwhere(bad)[0]
        raise ValueError(
            f"{name}: {bad.sum()} values are not finite, the first in row {rows[i]!r}, column {columns[j]!r}; expected "
            "numbers. Correct them or remove the row."
        )
    return values, notes


def _refuse_cells(text: pd.DataFrame, rows: pd.Index, columns: pd.Index, name: str) -> None:
    found = text.map(is_number).to_numpy()
    if found.all():
        return
    i, j = np.argwhere(~found)[0]
    cell, where = text.iat[i, j], f"row {rows[i]!r}, column {columns[j]!r}"
    n_empty = int(text.map(lambda value: value.lower() in _EMPTY).to_numpy().sum())
    if n_empty == (~found).sum():
        raise ValueError(
            f"{name}: {n_empty} cells are empty or NA, the first in {where}. Fill them in (0 if the gene was not "
            "expressed) or remove these genes; if rows are cut short, the file is truncated."
        )
    is_second = i == 0 and not found[0].any()
    remedy = "Line 2 looks like a second header; remove it." if is_second else "Correct them, or remove these rows."
    raise ValueError(f"{name}: {(~found).sum()} cells are no numbers, the first is {cell!r} in {where}. {remedy}")


def _from_text(text: pd.DataFrame, name: str) -> tuple[np.ndarray, list[str]]:
    """Numbers with decimal commas or separated thousands."""
    cells = text.stack()
    bare = cells.str.replace(_SPACES, "", regex=True)
    notes = ["thousands separated by spaces"] if (bare != cells).any() else []
    decimal, thousands = _signs(bare, name)
    if thousands and bare.str.contains(thousands, regex=False).any():
        bare = bare.str.replace(thousands, "", regex=False)
        notes.append(f"thousands separated by {thousands!r}")
    if decimal == "," and bare.str.contains(",").any():
        bare = bare.str.replace(",", ".", regex=False)
        notes.append("decimal commas")
    try:
        return bare.astype(float).unstack().to_numpy(), notes
    except ValueError as error:
        raise ValueError(
            f"{name}: numbers in more than one notation: {error}. Write the table again with one of them."
        ) from error


def _signs(cells: pd.Series, name: str) -> tuple[str, str]:
    """Decimal sign and separator of thousands of numbers as text."""
    has_comma, has_dot = cells[cells.str.contains(",")], cells[cells.str.contains(".", regex=False)]
    both = cells[cells.str.contains(",") & cells.str.contains(".", regex=False)]
    if len(both):
        last = {max(cell.rfind(","), cell.rfind(".")) == cell.rfind(",") for cell in both}
        if len(last) > 1:
            raise ValueError(
                f"{name}: commas and dots are decimal signs in turn, as in {both.iloc[0]!r}. Write the table again "
                "with one of them."
            )
        return (",", ".") if last.pop() else (".", ",")
    for here, other in ((has_comma, "."), (has_dot, ",")):
        sign = "," if other == "." else "."
        if len(here) and (here.str.count(re.escape(sign)) > 1).any():
            return other, sign  # only thousands come twice
    if not len(has_comma):
        return ".", ","
    grouped = has_comma.str.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}")
    if grouped.all() and not len(has_dot):
        raise ValueError(
            f"{name}: numbers such as {has_comma.iloc[0]!r} may mean {has_comma.iloc[0].replace(',', '')} or "
            f"{has_comma.iloc[0].replace(',', '.')}. Write the table without separators of thousands."
        )
    if len(has_dot):
        if grouped.all():
            return ".", ","
        raise ValueError(
            f"{name}: decimal commas ({has_comma.iloc[0]!r}) and points ({has_dot.iloc[0]!r}) in one table; expected "
            "one decimal sign. Write the table again with one of them."
        )
    return ",", "."


def _refuse_doubtful_dots(table: pd.DataFrame, name: str) -> None:
    """Counts such as 1.234 for 1234 read as numbers; they show by a gap: below 1000 no fractions, above no integers."""
    values = table.head(5000).to_numpy(dtype=np.float64)
    values = values[np.isfinite(values) & (values != 0)]
    fractions = values[values != np.rint(values)]
    whole = values[values == np.rint(values)]
    if not len(fractions) or len(whole) < max(1, 0.05 * len(fractions)) or np.abs(values).max() >= 1000:
        return
    thousandths = np.abs(np.rint(fractions * 1000) - fractions * 1000).max() < 1e-6
    # three decimals, none of them below one: no unit has such values by chance, separated thousands always do
    if thousandths and np.abs(fractions).min() >= 1 and (np.rint(fractions * 1000) % 10 != 0).mean() > 0.5:
        raise ValueError(
            f"{name}: numbers such as {fractions[0]:.3f} among whole ones may mean {fractions[0] * 1000:.0f}. Write "
            "the table without separators of thousands."
        )
