"""The Hugging Face hub: commits, small files, what is wrong as one line each. No torch."""

import contextlib
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlib.settings.errors import DataError, SettingsError

HEX_DIGITS = set("0123456789abcdef")
# The hub and its clients raise these from packages that may not be installed: known by name.
OUT_OF_REACH = ("ConnectError", "ConnectTimeout", "ReadTimeout")


def parts(name: str) -> tuple[str, str | None]:
    """(OWNER/NAME, commit or None) of a model's name OWNER/NAME[@COMMIT]."""
    bare, _, revision = name.partition("@")
    return bare, revision or None


def commit(name: str, kind: str = "model") -> str:
    """The commit, 40 hex digits, that a name OWNER/NAME[@REVISION] means now.

    kind: model or dataset. The hub is asked once a process, also where its answer is an error. A
    name that holds a whole commit needs no network. DataError says what to do."""
    revision = parts(name)[1]
    if revision and len(revision) == 40 and set(revision) <= HEX_DIGITS:
        return revision
    found, error = _commit(name, kind)
    if found is None:
        raise DataError(error)
    return found


@functools.cache
def _commit(name: str, kind: str) -> tuple[str | None, str]:
    """(commit, "") or (None, the error's line), so that an error is kept as well."""
    try:
        return _newest(name, kind), ""
    except DataError as error:
        return None, str(error)


def _newest(name: str, kind: str) -> str:
    bare, revision = parts(name)
    # Of a model, the file's folder is named by the commit; offline the file fetched before will do.
    if kind == "model":
        return model_file(name, "config.json").parent.name

    from huggingface_hub import HfApi

    with explained(name, kind):
        return str(HfApi().dataset_info(bare, revision=revision, timeout=20).sha)


def model_file(name: str, file: str) -> Path:
    """The local copy of a small file of a model on the hub, fetched once.

    The folder in which it lies is named by the commit. DataError says what to do."""
    from huggingface_hub import hf_hub_download

    bare, revision = parts(name)
    with explained(name, "model"):
        return Path(hf_hub_download(bare, file, revision=revision))


def check_weights(name: str, kind: str, report: Mapping[str, Any]) -> None:
    """DataError where a checkpoint lacks weights: transformers makes them up, at random.

    name: the folder or name on the hub; kind: the model's class; report: what from_pretrained says
    with output_loading_info. Weights that have no place in the model are named on stderr."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise DataError(
            f"{name}: as a {kind} it lacks {_some(missing)}, which would be made up at random: "
            "name a checkpoint that holds all weights"
        )
    unused = sorted(report["unexpected_keys"])
    if unused:
        print(f"{name}: a {kind} has no place for {_some(unused)}: left out", file=sys.stderr)


def _some(names: Sequence[str]) -> str:
    """How many weights, and the name of the first."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"the weight {names[0]}{more}"


@contextlib.contextmanager
def explained(name: str, kind: str) -> Iterator[None]:
    """Turns the hub's exceptions into a DataError of one line that says what to do.

    name: what was asked for; kind: model or dataset. Our own errors pass unchanged."""
    from huggingface_hub.utils import logging

    # The hub's client writes a line for each try, and those would hide ours.
    logging.set_verbosity_error()
    try:
        yield
    except (SettingsError, DataError):
        raise
    except Exception as error:
        text = _advice(name, kind, error)
        raise DataError(f"{name.removesuffix('@main')}: {text}") from None


def _advice(name: str, kind: str, error: Exception) -> str:
    """What went wrong and what to do about it; the causes of an error count as well."""
    from huggingface_hub import errors as of_hub

    causes = list(_causes(error))
    kinds = {type(cause).__name__ for cause in causes}
    bare = name.partition("@")[0].partition(":")[0]
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{bare}"

    def caused_by(*classes: type[BaseException]) -> bool:
        return any(isinstance(cause, classes) for cause in causes)

    # A gated repository is also one "not found", so the order of these questions matters.
    gated = any("is a gated dataset" in str(cause) for cause in causes)
    if gated or caused_by(of_hub.GatedRepoError):
        return f"gated: accept its terms at {page}, then log in: hf auth login (or set HF_TOKEN)"
    if caused_by(of_hub.RevisionNotFoundError):
        return f"no such commit; see {page}/commits/main"
    if "DatasetNotFoundError" in kinds or caused_by(of_hub.RepositoryNotFoundError):
        return f"not on the hub, or not for you: see {page}, or log in: hf auth login"
    if kinds & set(OUT_OF_REACH) or caused_by(
        ConnectionError, TimeoutError, of_hub.LocalEntryNotFoundError
    ):
        return _offline(name, kind)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _offline(name: str, kind: str) -> str:
    """What to do where the hub is out of reach."""
    copies = {
        "dataset": "put a copy into data.folder",
        "model": "name a folder that holds a copy",
    }
    # Without a commit in the name, the hub must be asked which one is the newest.
    loose = name.endswith("@main") or (kind == "model" and "@" not in name)
    pin = ", or pin a commit that was fetched before: @COMMIT" if loose else ""
    return (
        "the hub is out of reach and it was not fetched before: "
        f"go online once, or {copies[kind]}{pin}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that caused it, and so on."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
