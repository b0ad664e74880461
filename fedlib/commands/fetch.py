"""`fedlib fetch`: the public files that preset real reads, from where they are published."""

import csv
import hashlib
import http.client
import io
import os
import random
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fedlib.settings import identity, machine
from fedlib.settings.errors import DataError

TABLE = machine.ROOT / "fedlib" / "published" / "real_files.yaml"
PATIENCE = 30  # seconds without a byte


def fetch_files(folder: str, host: str = "", table: Mapping[str, Any] | None = None) -> None:
    """Download what is missing in a folder; a line for each file, with its licence.

    A cut download goes on where it stopped (its .part file). A file gets its name only when its
    digest is right; what bears that name already is never replaced. host: in place of the table's
    (published/real_files.yaml).
    DataError where the folder cannot be used, nobody answers, or a file could not be had; a file
    that cannot be had does not stop the others."""
    table = table or yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    host, files = host or table["host"], table["files"]
    place = _made_folder(folder)

    missing = []
    for name, entry in files.items():
        try:
            done = _fetch_one(place, name, entry, host)
            print(f"{name}: {done}; licence: {entry['licence']}", flush=True)
        except DataError as error:
            missing.append(name)
            print(f"fedlib: {name}: {error}", file=sys.stderr)
        except urllib.error.URLError as error:
            raise DataError(f"fetch: no connection to {host}: {error.reason}") from None
        except OSError as error:
            raise DataError(f"fetch: {place}: {error.strerror or error}") from None
    if missing:
        left = f"{len(missing)} of {len(files)} files are not there: {', '.join(missing)}"
        raise DataError(f"fetch: {left} (the lines above say why)")
    print(f'all {len(files)} files are there; use them: -y "data: {{folder: {place.resolve()}}}"')


def _made_folder(folder: str) -> Path:
    place = Path(folder).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise DataError(f"fetch: {place}: a file is in the way of the folder") from None
    except OSError as error:
        raise DataError(f"fetch: {place}: {error.strerror}") from None
    return place


def _fetch_one(place: Path, name: str, entry: Mapping[str, Any], host: str) -> str:
    """Put one file of the table into its place; what was done, in words."""
    file, wanted = place / name, entry["digest"]
    if file.exists():
        found = identity.file_digest(file)
        if found == wanted:
            return "there already"
        raise DataError(f"another file is there (digest {found}, not {wanted}); move it away")

    # 1. the published files, each in a .part file until all are whole
    parts = []
    for number, (path, digest) in enumerate(entry["from"].items(), start=1):
        parts.append(place / f"{name}.{number}.part")
        _download(f"{host}/{path}", parts[-1], digest)

    # 2. what is made of them
    options = dict(entry.get("made", {"by": "copy"}))
    made = MAKERS[options.pop("by")]([part.read_bytes() for part in parts], **options)
    found = hashlib.sha256(made).hexdigest()
    if found != wanted:
        raise DataError(f"what was made of it has the digest {found}, not {wanted}")

    # 3. the name, only now
    new = place / f"{name}.part"
    new.write_bytes(made)
    os.replace(new, file)
    for part in parts:
        part.unlink()
    return f"fetched, {len(made) / 1000:,.0f} KB"


def _download(address: str, part: Path, digest: str) -> None:
    """Have the published file of this digest in a .part file; DataError where it cannot be had."""
    if part.exists() and identity.file_digest(part) == digest:
        return
    went_on = part.exists()
    _receive(address, part)
    found = identity.file_digest(part)
    if found != digest and went_on:
        # the part was the beginning of something else
        part.unlink()
        _receive(address, part)
        found = identity.file_digest(part)
    if found != digest:
        part.unlink()
        raise DataError(f"{address} has the digest {found}, not {digest}; it was not kept")


def _receive(address: str, part: Path) -> None:
    """Download an address into a .part file, from its end on where the server can do that."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            # the part is longer than the file
            part.unlink()
            return _receive(address, part)
        raise DataError(f"{address}: the server answers {error.code} {error.reason}") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise urllib.error.URLError(str(error)) from None

    # A server that ignores Range sends everything, with another status.
    goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
    length = answer.headers.get("Content-Length")
    received = 0
    with answer, open(part, "ab" if goes_on else "wb") as stream:
        try:
            while piece := answer.read(1 << 16):
                received += stream.write(piece)
        except (http.client.HTTPException, ConnectionError, TimeoutError):
            length = length or "more"
    if length and str(received) != length:
        cut = f"cut after {received:,} bytes ({length} were announced)"
        raise DataError(f"{address}: {cut}; the same command goes on from there")


# --- how a file is made of the published ones


def _copy(parts: Sequence[bytes]) -> bytes:
    return parts[0]


def _sample(parts: Sequence[bytes], rows: int, header: bool, drawn_before: Sequence[int]) -> bytes:
    """So many rows of a file of lines `text TAB label`, drawn with seed 0, as CSV."""
    lines = parts[0].decode("utf-8").rstrip("\n").split("\n")[1 if header else 0 :]
    cells = [line.rsplit("\t", 1) for line in lines]

    # The generator had already shuffled files of so many rows.
    generator = random.Random(0)
    for count in drawn_before:
        generator.shuffle(list(range(count)))
    generator.shuffle(cells)
    return _as_csv(["text", "label"], [[text.strip(), label] for text, label in cells[:rows]])


def _labels(parts: Sequence[bytes], models: Sequence[str], characters: int) -> bytes:
    """The answers of several models with people's, GPT-4's and the phrase matching's labels.

    parts: for each model the file with GPT-4's labels, then the one with the phrase matching's."""
    tables = [list(csv.DictReader(io.StringIO(part.decode("utf-8"), newline=""))) for part in parts]
    joined = []
    for number, model in enumerate(models):
        for row, matched in zip(tables[2 * number], tables[2 * number + 1], strict=True):
            answer = [row["id"], row["prompt"], row["completion"][:characters]]
            labels = [row["final_label"], row["gpt4_label"], matched["strmatch_label"]]
            joined.append([model, *answer, *labels])
    columns = ["model", "id", "prompt", "completion"]
    columns += ["human_label", "gpt4_label", "strmatch_label"]
    return _as_csv(columns, joined)


def _as_csv(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([columns, *rows])
    return text.getvalue().encode("utf-8")


MAKERS = {"copy": _copy, "sample": _sample, "labels": _labels}
