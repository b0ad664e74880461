"""TODO: what this room is for."""

import contextlib
import functools
import itertools
from pathlib import Path

from fedlib.settings import errors


def parts(name):
    """(OWNER/NAME, commit or None) of a model's name OWNER/NAME[@COMMIT]."""
    bare, _, commit_ = name.partition("@")
    return bare, commit_ or None


def commit(name, kind="model"):
    """The 40 hex digits of the commit that a name OWNER/NAME[@REVISION] means now, asked for once a process, also where the
    answer is an error; a whole commit needs no network."""
    revision = parts(name)[1]
    if revision and len(revision) == 40 and set(revision) <= set("0123456789abcdef"):
        return revision
    found, error = _commit(name, kind)
    if error:
        raise errors.DataError(error)
    return found


@functools.cache
def _commit(name, kind):
    try:
        return _newest(name, kind), None
    except errors.DataError as error:
        return None, str(error)


def _newest(name, kind):
    bare, revision = parts(name)
    if kind == "model":  # falls back on what was fetched before
        return model_file(name, "config.json").parent.name
    from huggingface_hub import HfApi

    with explained(name, kind):
        return HfApi().dataset_info(bare, revision=revision, timeout=20).sha


def model_file(name, file):
    """The Path of a small file of a model on the hub, fetched once; the folder it lies in is named by the commit."""
    from huggingface_hub import hf_hub_download

    bare, revision = parts(name)
    with explained(name, "model"):
        return Path(hf_hub_download(bare, file, revision=revision))


@contextlib.contextmanager
def explained(name, kind):
    """The hub's exceptions as one line that says what to do."""
    from huggingface_hub import errors
    from huggingface_hub.utils import logging

    bare = name.partition("@")[0].partition(":")[0]
    page = f"https://huggingface.co/{'datasets/' if kind == 'dataset' else ''}{bare}"
    logging.set_verbosity_error()  # a line for each of its tries would hide ours
    try:
        yield
    except (errors.SettingsError, errors.DataError):
        raise
    except Exception as error:
        chain = list(itertools.takewhile(bool, _causes(error)))
        if any(
            isinstance(e, errors.GatedRepoError) or "is a gated dataset" in str(e) for e in chain
        ):
            text = (
                f"gated: accept its terms at {page}, then log in: hf auth login (or set HF_TOKEN)"
            )
        elif any(isinstance(e, errors.RevisionNotFoundError) for e in chain):
            text = f"no such commit; see {page}/commits/main"
        elif any(
            isinstance(e, errors.RepositoryNotFoundError)
            or type(e).__name__ == "DatasetNotFoundError"
            for e in chain
        ):
            text = f"not on the hub, or not for you: see {page}, or log in: hf auth login"
        elif any(
            isinstance(e, ConnectionError | TimeoutError | errors.LocalEntryNotFoundError)
            or type(e).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout")
            for e in chain
        ):
            copy = (
                "put a copy into data.folder"
                if kind == "dataset"
                else "name a folder that holds a copy"
            )
            loose = name.endswith("@main") or kind == "model" and "@" not in name
            pin = ", or pin a commit that was fetched before: @COMMIT" if loose else ""
            text = f"the hub is out of reach and it was not fetched before: go online once, or {copy}{pin}"
        else:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise errors.DataError(f"{name.removesuffix('@main')}: {text}") from None


def _causes(error):
    while error:
        yield error
        error = error.__cause__ or error.__context__
