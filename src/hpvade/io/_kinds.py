"""What a file holds, told by its content and not by its name, and the readers of whole files."""

import csv
import datetime
import io
from os import PathLike
from pathlib import Path

import h5py
from anndata import AnnData, read_h5ad, read_zarr

from ._modalities import read_modality, split_path
from ._text_tables import _READ, Cells, parse_cells, read_cells

_REFUSED = {
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls); save it as .xlsx or .csv",
    b"%PDF": "a PDF; save the table as .csv",
    b"PAR1": "a Parquet file; write it as .csv or .h5ad",
    b"BZh": "compressed with bzip2; uncompress it, or use gzip",
    b"\xfd7zXZ": "compressed with xz; uncompress it, or use gzip",
    b"RDX": "an R object; write it from R with write.csv(x, 'table.csv')",
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"%%MatrixMarket": "a matrix without names; pass the folder that holds it with its features and barcodes",
}


def as_path(path) -> Path:
    """A Path; TypeError for what names no file, such as a table in memory, and ValueError for an address."""
    if not isinstance(path, str | PathLike):
        raise TypeError(
            f"Got a {type(path).__name__}; expected the name of a file or folder. A table in memory needs no reading: "
            "a DataFrame of samples x genes is bulk as it is."
        )
    if "://" in str(path):
        raise ValueError(f"{path} is an address; expected a file. Download it first.")
    return Path(path)


def file_kind(path: Path) -> str:
    """``"h5ad"``, ``"mudata"``, ``"10x_h5"``, ``"zarr"``, ``"10x_mtx"``, ``"folder"``, ``"xlsx"`` or ``"text"``.

    Raises
    ------
    FileNotFoundError
        Nothing is there.
    ValueError
        The file is of a kind that is not read; the message says of which one.
    """
    file, modality = split_path(path)
    if not file.exists() or (modality is not None and file_kind(file) != "mudata"):
        raise FileNotFoundError(f"{path} does not exist.")
    if modality is not None:
        return "mudata"
    if path.is_dir():
        if (path / "mod").is_dir() and (path / "obs").is_dir():
            return "mudata"
        if any((path / name).exists() for name in (".zgroup", ".zattrs", "zarr.json")):
            return "zarr"
        return "10x_mtx" if any(path.glob("*matrix.mtx*")) else "folder"
    with path.open("rb") as stream:
        start = stream.read(2048)
    if not start:
        raise ValueError(f"{path} is empty (0 bytes). Copy or write it again.")
    if b"\x89HDF" in (start[:4], start[512:516]):  # an h5mu file says what it is in the first 512 bytes
        return _hdf5_kind(path)
    if start[:4] == b"PK\x03\x04":
        if path.suffix.lower() == ".xlsx" or b"[Content_Types].xml" in start or b"xl/" in start:
            return "xlsx"
        raise ValueError(f"{path} is a zip archive; unpack it first. {_READ}")
    for magic, what in _REFUSED.items():
        if start.startswith(magic):
            raise ValueError(f"{path} is {what}.")
    head = start.lstrip().lower()
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ValueError(f"{path} is a web page, not a table: the download went wrong. Download the file itself.")
    if head[:1] in (b"{", b"["):
        raise ValueError(f"{path} is JSON, not a table. {_READ}")
    return "text"


def _hdf5_kind(path: Path) -> str:
    try:
        with h5py.File(path) as file:
            if "matrix" in file and "row_attrs" in file:
                raise ValueError(f"{path} is a loom file; write it as .h5ad, as with scanpy.read_loom. {_READ}")
            if "matrix" in file or any("barcodes" in file[name] for name in file if isinstance(file[name], h5py.Group)):
                return "10x_h5"
            if {"mod", "obs"} <= set(file):
                return "mudata"
            if "X" in file or {"obs", "var"} <= set(file):
                return "h5ad"
            found = ", ".join(list(file)[:6])
    except OSError as error:
        raise ValueError(f"{path} is a damaged or truncated HDF5 file ({error}). Copy or download it again.") from error
    raise ValueError(f"{path} is an HDF5 file, but neither an h5ad nor a 10x one; it holds {found}. {_READ}")


def read_whole(path: Path, kind: str) -> AnnData:
    """The AnnData in an h5ad file or a zarr folder, or one modality of a MuData; an error names the file."""
    if kind == "mudata":
        return read_modality(*split_path(path))
    try:
        return read_zarr(path) if kind == "zarr" else read_h5ad(path)
    except Exception as error:
        what = "a zarr folder" if kind == "zarr" else "an h5ad file"
        raise ValueError(f"{path} cannot be read as {what}: {error}. Write it again with anndata.") from error


def read_sheet(path: Path, sheet: str | None = None) -> Cells:
    """Cells of a sheet of an xlsx file; the first one with a table by default."""
    try:
        import openpyxl
    except ImportError as error:
        raise ImportError(
            f"{path}: reading .xlsx needs openpyxl: `pip install openpyxl`, or save the sheet as .csv."
        ) from error
    try:
        with path.open("rb") as stream:  # a stream: openpyxl refuses other endings
            book = openpyxl.load_workbook(io.BytesIO(stream.read()), read_only=True, data_only=True)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as an Excel file: {error}. Save it again.") from error
    if sheet is not None and sheet not in book.sheetnames:
        raise ValueError(f"{path} has no sheet {sheet!r}; its sheets are {book.sheetnames}.")
    sheets = [book[sheet]] if sheet is not None else book.worksheets
    texts = [(one.title, _as_text(one)) for one in sheets]
    texts = [(title, text) for title, text in texts if text.count("\n") > 1 and text.count("\t") > 1]
    if not texts:
        raise ValueError(
            f"{path} has no sheet with a table; expected names and numbers in at least two rows and columns."
        )
    title, text = texts[0]
    notes = [f"sheet {title!r}"]
    if len(texts) > 1:
        notes.append(f"other sheets with tables are not read: {', '.join(repr(name) for name, _ in texts[1:])}")
    return parse_cells(text, f"{path.name}, sheet {title!r}", notes)


def _as_text(sheet) -> str:
    """A sheet with tabs between its cells; dates, which once were genes, as year-month-day."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
    for row in sheet.iter_rows(values_only=True):
        writer.writerow([_cell(value) for value in row])
    return stream.getvalue()


def _cell(value) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime.datetime | datetime.date):
        return value.strftime("%Y-%m-%d")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return " ".join(str(value).split())


def read_any_cells(path: Path, kind: str, sheet: str | None = None) -> Cells:
    """Cells of a table of text or of an Excel sheet."""
    return read_sheet(path, sheet) if kind == "xlsx" else read_cells(path)
