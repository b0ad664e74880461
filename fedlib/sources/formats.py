"""Rows as a file holds them: JSON, JSONL, CSV or Parquet, packed by gzip or not.

Each row comes with its line, or with its number in a Parquet file. What cannot be read as a row is
`Unreadable`, so that the rows beside it can still be used."""

import codecs
import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlib.settings import groups, identity
from fedlib.settings.errors import DataError, SettingsError

# The marks by which a file may say how its text is encoded. UTF-32's first: it begins as UTF-16's.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Text packs to a tenth or a thirtieth. Beyond this a file is made to fill a machine's memory.
TIMES_PACKED, SMALL = 200, 2**26
SPACE = re.compile(r"[ \t\r\n]*")  # between the parts of JSON

# How files of another format begin than their ending says, and what to do.
OTHERS = {
    b"\x1f\x8b": "is packed by gzip: add .gz to its name",
    b"PAR1": "is a Parquet file: name it .parquet",
    b"PK\x03\x04": "is a ZIP file, as Excel's are: unpack it, or save the sheet as CSV (UTF-8)",
}

Numbered = Iterator[tuple[int, Any]]


@dataclass(frozen=True)
class Unreadable:
    """Stands in the place of a row that cannot be read, and says why."""

    reason: str


def numbered_rows(file: Path) -> list[tuple[int, Any]]:
    """(line, row) for every row of a file, as the file holds it, or `Unreadable` for a row.

    DataError where the file is missing or cannot be read as a whole, or has no rows."""
    if not file.is_file():
        raise DataError(f"{file}: no such file{identity.nearest_file(file)}")

    ending = file.name.lower()
    known = next((known for known in groups.ENDINGS if ending.endswith(known)), None)
    if known is None:
        raise DataError(f"{file}: must be one of {', '.join(groups.ENDINGS)}")
    if known == ".parquet":
        rows = list(_parquet_rows(file))
    else:
        rows = list(READERS[known.removesuffix(".gz")](file, _text(file)))

    if not rows:
        raise DataError(f"{file}: holds no rows")
    return rows


def unit(file: Path) -> str:
    """What the numbers of a file's rows count: lines, or rows."""
    return "row" if file.name.lower().endswith(".parquet") else "line"


# --- text -------------------------------------------------------------------------------------


def _text(file: Path) -> str:
    """A file's text. Bytes that are no UTF-8 stay in it as lone surrogates, row by row."""
    content = file.read_bytes()
    packed = file.name.lower().endswith(".gz")
    other = next((what for mark, what in OTHERS.items() if content.startswith(mark)), None)
    if other and not packed:
        raise DataError(f"{file}: {other}")
    if packed:
        try:
            content = _unpacked(file, content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file}: not a whole gzip file ({error})") from None

    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        problem = f"{error.reason} at byte {error.start}"
        raise DataError(f"{file}: not {encoding.upper()} ({problem})") from None
    if "\0" in text[:100]:
        raise DataError(f"{file}: holds zero bytes: is it UTF-16? save it as UTF-8")
    return text


def _unpacked(file: Path, packed: bytes) -> bytes:
    """A gzip file's content; DataError where a small file would unpack to gigabytes."""
    most = max(SMALL, TIMES_PACKED * len(packed))
    with gzip.open(io.BytesIO(packed)) as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise DataError(
            f"{file}: unpacks to more than {TIMES_PACKED} times its size, as no rows of text do"
        )
    return content


def _csv_rows(file: Path, text: str) -> Numbered:
    csv.field_size_limit(max(len(text) + 1, csv.field_size_limit()))
    delimiter = _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [name.strip() for name in next(filter(None, reader), [])]
    _no_column_twice(file, columns)
    if text.count('"') % 2:
        _no_quote_is_left_open(file, text, delimiter)

    # an empty line is no row
    for cells in filter(None, reader):
        if len(cells) > len(columns):
            reason = "more cells than columns; quote a cell that holds a comma"
            yield reader.line_num, Unreadable(reason)
        else:
            yield reader.line_num, dict(itertools.zip_longest(columns, cells))


def _delimiter(text: str) -> str:
    """What stands between the columns' names: a comma, else a semicolon or a tab."""
    header = text.lstrip().partition("\n")[0]
    return next((sign for sign in ",;\t" if sign in header), ",")


def _no_column_twice(file: Path, columns: list[str]) -> None:
    twice = sorted({name for name in columns if name and columns.count(name) > 1})
    if twice:
        raise DataError(f"{file}: two columns are called {twice[0]!r}: rename one")


def _no_quote_is_left_open(file: Path, text: str, delimiter: str) -> None:
    """DataError where a quote opens that nothing closes: all that follows would be one cell."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begins = 1
    try:
        for _ in reader:
            begins = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise DataError(
                f"{file}: line {begins}: a quote opens in this row and never closes"
            ) from None


# --- JSON -------------------------------------------------------------------------------------


def _jsonl_rows(file: Path, text: str) -> Numbered:
    """A row a line; a list of rows under this ending is read all the same."""
    first, *others = [line for line in text.split("\n") if line.strip()] or [""]
    is_list = first.lstrip().startswith("[") and not (others and _is_json(first))
    return _listed_rows(file, text) if is_list else _lines(text)


def _json_rows(file: Path, text: str) -> Numbered:
    """The rows of a list; objects line by line, and an object of columns, are read all the same."""
    whole = text.strip()
    first = whole.partition("\n")[0]
    if first.startswith("{") and first != whole and _is_json(first):
        return _lines(text)
    if whole.startswith("{"):
        return _rows_of_columns(file, whole)
    return _listed_rows(file, text)


def _parsed(text: str) -> Any:
    """What JSON says; ValueError where it is none."""
    try:
        return DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError):
        raise ValueError("a number is too long, or lists are nested too deep") from None


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """An object of JSON: of a name that stands there twice one value would be lost."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else Unreadable("a name stands in it twice")


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _is_json(text: str) -> bool:
    try:
        _parsed(text)
    except ValueError:
        return False
    return True


def _rows_of_columns(file: Path, text: str) -> Numbered:
    """The rows of an object that holds a list for each column, all as long."""
    content = _parsed(text) if _is_json(text) else {}
    columns = content.values() if isinstance(content, dict) else []
    lengths = {len(column) if isinstance(column, list) else -1 for column in columns}
    if len(lengths) != 1 or lengths == {-1}:
        lists = [name for name in content if isinstance(content[name], list)]
        hint = f"; {lists[0]!r} in it is a list: keep only that" if lists else ""
        raise DataError(f"{file}: line 1: must be a list of rows{hint}")
    for number, cells in enumerate(zip(*columns, strict=True), 1):
        yield number, dict(zip(content, cells, strict=True))


def _lines(text: str) -> Numbered:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            yield line, _parsed(content)
        except ValueError as error:
            yield line, Unreadable(f"not valid JSON ({getattr(error, 'msg', error)})")


def _listed_rows(file: Path, text: str) -> Numbered:
    """The objects of a JSON list one by one, so that the line of each is known."""
    at = _after_space(text, 0)
    if text[at : at + 1] != "[":
        raise DataError(f"{file}: line 1: must be a list of rows")
    at = _after_space(text, at + 1)

    line, counted = 1, 0
    while text[at : at + 1] != "]":
        line += text.count("\n", counted, at)
        counted = at
        row, at = _json_value(file, text, at)
        yield line, row

    end = _after_space(text, at + 1)
    if end < len(text):
        line = text.count("\n", 0, end) + 1
        raise DataError(f"{file}: line {line}: not valid JSON (text after the list)")


def _json_value(file: Path, text: str, at: int) -> tuple[Any, int]:
    """The value of a JSON list that starts here, and where the next one or the list's end is."""
    try:
        value, at = DECODER.raw_decode(text, at)
        at = _after_space(text, at)
        following = text[at : at + 1]
        if following == ",":
            return value, _after_space(text, at + 1)
        if following != "]":
            raise json.JSONDecodeError("Expecting ',' or ']'", text, at)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: line {error.lineno}: not valid JSON ({error.msg})") from None
    except (ValueError, RecursionError):
        line = text.count("\n", 0, at) + 1
        raise DataError(
            f"{file}: line {line}: a number is too long, or lists nest too deep"
        ) from None
    return value, at


def _after_space(text: str, at: int) -> int:
    """The place of the first character from here on that is no space."""
    found = SPACE.match(text, at)
    return found.end() if found else at


READERS = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}


# --- Parquet ----------------------------------------------------------------------------------


def _parquet_rows(file: Path) -> Numbered:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise SettingsError(
            f"{file}: Parquet needs the package pyarrow: pip install -e .[hub]"
        ) from None
    try:
        opened = parquet.ParquetFile(file)
        count, columns = opened.metadata.num_rows, opened.schema_arrow.names
        fits = count <= max(SMALL, TIMES_PACKED * file.stat().st_size)
        rows = opened.read().to_pylist() if fits else []
    # names and cells that cannot be decoded, numbers out of any range
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        problem = str(error).partition("\n")[0][:200]
        raise DataError(f"{file}: not a whole Parquet file ({problem})") from None
    if not fits:
        raise DataError(f"{file}: {count:,} rows in so small a file")
    _no_column_twice(file, columns)
    yield from enumerate(rows, 1)
