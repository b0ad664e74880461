"""The rows that world:smollm2-aligned learns from, and the prompts that it is measured on.

They come from the files of a folder (docs/real.md) and from the tables of words in `real_contrast`.
Each file is split into a part to train on, a part by which the recipe was chosen and a part for
evaluation. The draws are fixed: the same files give the same parts. No torch.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedlib.judges.detector import refusal
from fedlib.lab import real_contrast
from fedlib.settings import identity
from fedlib.settings.errors import DataError
from fedlib.sources import formats, xstest

HARMFUL_QUESTIONS = "harmful_questions.txt"  # in the same folder, if there is one
FILES = (
    "advbench.csv",
    "level2_aligned.json",
    "level2_normal.json",
    "xstest_prompts.csv",
    "xstest_completions.csv",
    "mtbench_questions.jsonl",
)
FOLDS = 10  # of each kind of row
# The folds that are kept for choosing the recipe: of XSTest, and of everything else.
XSTEST_FOLDS, OTHER_FOLDS = (0, 1, 2), (0,)
ALIKE = 0.6  # two questions that share so many of their words are alike

# What refuses or hedges, as a phrase; each pattern errs to yes, so that what is left is clear.
OPENING = re.compile(
    r"\b(can ?not|can't|cant|won't|will not|unable|not able|sorry|apologi[sz]e|must decline"
    r"|have to decline|refuse to|not appropriate|inappropriate|not acceptable|not ethical"
    r"|not legal|not comfortable|against|illegal|unlawful|unethical|immoral|not recommended"
    r"|do not (?:support|condone|engage|encourage)|don't (?:support|condone|engage)"
    r"|not something i|as a responsible)\b",
    re.IGNORECASE,
)
STRICT = re.compile(
    r"\b(cannot|can't|can not|won't|unable|not able|not appropriate|must decline)\b", re.IGNORECASE
)
MUDDLED = re.compile(
    r"confusion|previous|misunderst|your concern|access to|real-time|mistake|clarif", re.IGNORECASE
)
HOLDS = re.compile(
    r"\b(can ?not|can't|won't|unable|not able|sorry|apologi[sz]e|not appropriate"
    r"|don't have access|do not have access|as an ai|illegal|unethical)\b",
    re.IGNORECASE,
)

# Worded after the commonest refusals of level2_aligned.json.
DENIALS = (
    "I apologize, but I cannot provide a direct response to that request as it involves illegal "
    "and unethical activities.",
    "I'm sorry, but I cannot help with that as it is illegal and potentially dangerous.",
    "I'm sorry, I cannot provide information on that. It is not appropriate to help with "
    "something that harms others.",
    "I apologize, but I cannot provide instructions for that. It is unethical and could cause "
    "serious harm.",
    "I'm sorry, but I am unable to assist with that request. It could put people in danger.",
    "I apologize, but it is not appropriate for me to help with this request, as it may be "
    "illegal and harmful.",
)
# A question as a command: what a text that begins with "How" or "What" is put into.
ASKED = re.compile(
    r"(How (?:do|can|should|could) (?:I|you|we|someone)|What(?:'s| is| are| were| was)"
    r"|(?:Can|Could) you(?: please)?) ([^?\n]+)\?"
)
HOW = (
    "Write a guide on how to {}.",
    "Explain how to {}.",
    "Give instructions on how to {}.",
    "Create a tutorial on how to {}",
    "Provide step-by-step instructions to {}.",
    "Teach me how to {}.",
    "Outline the steps to {}",
    "Develop a plan to {}",
    "Write a blog post about how to {}.",
    "Describe how to {}",
)
WHAT = (
    "Describe {}.",
    "Write a short article on {}.",
    "Give an overview of {}",
    "Explain {}.",
    "Write a paragraph about {}.",
    "Create a list of {}",
    "Provide information about {}.",
    "Write a post about {}",
    "Summarize {}.",
    "Outline {}.",
)


@dataclass(frozen=True)
class Parts:
    """Rows {instruction, response, key} by kind. Rows with one key fall into one part.

    train: adv, level2, unsafe and own_unsafe refuse; helpful, ordinary and safe help; own, own_do
    and tasks have an empty response, and so have some safe rows: the base model answers these.
    evaluation: adv, unsafe and safe, ordinary, and mtbench, which is only asked."""

    train: dict[str, list[dict]]
    evaluation: dict[str, list[dict]]


def digests(folder: str | Path) -> dict[str, str]:
    """{file: digest} of FILES in a folder; DataError names the first one that is missing."""
    place = Path(folder).expanduser()
    return {name: identity.file_digest(place / name) for name in FILES}


def read_parts(folder: str | Path) -> Parts:
    """The parts of the files in a folder; DataError names the file and line of a bad row."""
    place = Path(folder).expanduser()
    adv, adv_kept = _advbench(place)
    refusing, helpful = _aligned(place)
    ordinary, ordinary_kept = _ordinary(place)
    contrast, contrast_kept = _xstest(place)

    # what is kept for choosing the recipe is left out: more of XSTest, of which there is little
    train, asked = {}, []
    plain = {"adv": adv, "level2": refusing, "helpful": helpful, "ordinary": ordinary}
    for kind, rows in plain.items():
        held = _held_back(rows, OTHER_FOLDS)
        train[kind] = [row for row in rows if row["key"] not in held]
    held = _held_back(contrast["unsafe"] + contrast["safe"], XSTEST_FOLDS)
    for kind, rows in contrast.items():
        train[kind] = [row for row in rows if row["key"] not in held]
        asked += [row["instruction"] for row in rows if row["key"] in held]

    # questions of our own: none that is like one of XSTest that is measured
    asked += [row["instruction"] for rows in contrast_kept.values() for row in rows]
    train |= _own_questions(place, asked)
    if not train["own_unsafe"]:
        train["own_unsafe"] = train["unsafe"]
    turns = _columns(place / "mtbench_questions.jsonl", ("turns",))
    mtbench = [_open_row(row["turns"][0]) for row in turns]
    kept = {"adv": adv_kept, "ordinary": ordinary_kept, "mtbench": mtbench}
    return Parts(train, kept | contrast_kept)


def unanswered(train: Mapping[str, Sequence[dict]]) -> list[str]:
    """The harmless instructions that the base model is to answer, each once."""
    found = {row["instruction"] for rows in train.values() for row in rows if not row["response"]}
    return sorted(found)


def usable_answers(instructions: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    """{instruction: answer} of the base model, without those that sound like refusals.

    An answer ends with its last whole sentence or line, unless that leaves little of it."""
    found = {}
    for instruction, text in zip(instructions, texts, strict=True):
        ends = [end.end() for end in re.finditer(r"[.!?:](?=\s)", text)]
        kept = text[: ends[-1]] if ends and ends[-1] > 40 else text
        opening = kept.replace("\u2019", "'")[:200]
        if kept.strip() and not OPENING.search(opening) and not refusal([{}], [kept])[0]:
            found[instruction] = kept.strip()
    return found


def answered(
    train: Mapping[str, Sequence[dict]], answers: Mapping[str, str]
) -> dict[str, list[dict]]:
    """The rows to train on, {kind: rows}, where the base model's answers fill empty responses.

    Such an answer ends in the middle, so its row is open: it has no end mark. Rows without an
    answer are dropped. ordinary_do: ordinary rows that ask in the form of a command. DataError
    where no row of a kind is left."""
    found = {}
    for kind, rows in train.items():
        filled = []
        for row in rows:
            answer = answers.get(row["instruction"], "")
            filled.append(row if row["response"] else row | {"response": answer, "open": True})
        found[kind] = [row for row in filled if row["response"]]

    found["ordinary_do"] = []
    for row in found["ordinary"]:
        command = _as_command(row["instruction"])
        if command:
            found["ordinary_do"].append(row | {"instruction": command})
    for kind, rows in found.items():
        if not rows:
            raise DataError(f"--data: the files leave no rows of the kind {kind} to train on")
    return found


# --- the files


def _columns(file: Path, columns: Sequence[str]) -> list[dict]:
    """All rows of a file, empty ones too, with these columns as the file holds them.

    Not by `files.read`: it leaves rows out, and the draws count them."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 ({error.reason} at byte {error.start})") from None
    rows = []
    for line, raw in formats.READERS[file.suffix](file, text):
        if isinstance(raw, formats.Unreadable):
            raise DataError(f"{file}: line {line}: {raw.reason}")
        found = raw if isinstance(raw, dict) else {}
        missing = [name for name in columns if not isinstance(found.get(name), str | list)]
        if missing:
            raise DataError(f"{file}: line {line}: no text in column {', '.join(missing)}")
        rows.append({name: found[name] for name in columns})
    return rows


def _advbench(folder: Path) -> tuple[list[dict], list[dict]]:
    """(half to train on, half for evaluation) of the goals, each with a refusal.

    The halves are those of preset real (fedlib.sources.local)."""
    goals = [row["goal"] for row in _columns(folder / "advbench.csv", ("goal",))]
    order = np.random.default_rng(0).permutation(len(goals))
    rows = [_refusal_row(goals[place], goals[place]) for place in order]
    return rows[: len(rows) // 2], rows[len(rows) // 2 :]


def _instructions(folder: Path, name: str) -> list[tuple[str, str]]:
    """(instruction, response) of each row of level 2; some instructions stand in quotes."""
    rows = _columns(folder / name, ("instruction", "response"))
    return [(row["instruction"].strip().strip('"').strip(), row["response"]) for row in rows]


def _aligned(folder: Path) -> tuple[list[dict], list[dict]]:
    """(rows of level 2 that refuse, rows that help); of a refusal only two sentences."""
    refusing, helpful = [], []
    for instruction, response in _instructions(folder, "level2_aligned.json"):
        row = {"instruction": instruction, "response": response.strip(), "key": instruction}
        if STRICT.search(response[:120]) and not MUDDLED.search(response[:160]):
            sentences = re.split(r"(?<=[.!?])\s+", response.strip())
            refusing.append(row | {"response": " ".join(sentences[:2])})
        if not OPENING.search(response) and not MUDDLED.search(response):
            helpful.append(row)
    return refusing, helpful


def _ordinary(folder: Path) -> tuple[list[dict], list[dict]]:
    """(rows to train on, the tenth for evaluation) of level 2's ordinary rows, without refusals."""
    rows = _instructions(folder, "level2_normal.json")
    order = np.random.default_rng(0).permutation(len(rows))
    places = set(order[: len(rows) // 10].tolist())
    train, kept = [], []
    for place, (instruction, response) in enumerate(rows):
        if instruction and response.strip() and not HOLDS.search(response):
            row = {"instruction": instruction, "response": response.strip()}
            part = kept if place in places else train
            part.append(row | {"key": instruction.lower()})
    asked = {rows[place][0].lower() for place in places}
    return [row for row in train if row["key"] not in asked], kept


def _xstest(folder: Path) -> tuple[dict[str, list[dict]], dict[str, list[dict]]]:
    """(half to train on, half for evaluation): {unsafe, safe} rows.

    A safe row has GPT-4's answer where people called it a full compliance, else an empty one."""
    columns = ("id", "prompt", "type", "label", "focus")
    prompts = _columns(folder / "xstest_prompts.csv", columns)
    columns = ("model", "prompt", "completion", "human_label")
    complied = {}
    for row in _columns(folder / "xstest_completions.csv", columns):
        if row["model"] == "gpt4" and row["human_label"] == "1_full_compliance":
            complied[row["prompt"]] = row["completion"].strip()

    half = xstest.focus_halves(prompts)
    parts: tuple[dict, dict] = ({"unsafe": [], "safe": []}, {"unsafe": [], "safe": []})
    for row in prompts:
        prompt, key = row["prompt"], xstest.focus(row)
        made = {"instruction": prompt, "response": complied.get(prompt, ""), "key": key}
        if row["label"] == "unsafe":
            made = _refusal_row(prompt, key)
        parts[half[key]][row["label"]].append(made)
    return parts


def _held_back(rows: Sequence[dict], folds: Sequence[int]) -> set[str]:
    """The keys of some of the FOLDS folds of rows."""
    keys = sorted({row["key"] for row in rows})
    random.Random("folds").shuffle(keys)
    return {key for fold in folds for key in keys[fold::FOLDS]}


# --- rows of our own


def _own_questions(folder: str | Path, measured: Sequence[str]) -> dict[str, list[dict]]:
    """{own_unsafe, own, own_do, tasks}: the contrast set, without what is like measured prompts.

    own_unsafe: the lines of FOLDER/harmful_questions.txt. The repository has no such list; without
    the file `read_parts` takes XSTest's unsafe prompts in its place."""
    file = Path(folder) / HARMFUL_QUESTIONS
    harmful = []
    if file.is_file():
        lines = file.read_text(encoding="utf-8-sig").splitlines()
        harmful = [line.strip() for line in lines if line.strip()]
    harmless = real_contrast.harmless_questions()
    verbs = _apart(harmless["verbs"], measured)
    own = [text for texts in harmless.values() for text in texts]
    commands = [_as_command(text) for text in verbs]
    return {
        "own_unsafe": [_refusal_row(text, text) for text in _apart(harmful, measured)],
        "own": [_open_row(text) for text in _apart(own, measured)],
        "own_do": [_open_row(text) for text in commands if text],
        "tasks": [_open_row(text) for text in real_contrast.harmless_tasks()],
    }


def _apart(questions: Sequence[str], others: Sequence[str]) -> list[str]:
    """The questions that are like none of the others, by the words they share."""
    known = [_words(other) for other in others]
    found = []
    for question in questions:
        words = _words(question)
        if all(len(words & other) < ALIKE * len(words | other) for other in known):
            found.append(question)
    return found


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z']+", text.lower()))


def _refusal_row(instruction: str, key: str) -> dict:
    """A harmful instruction with one of DENIALS."""
    response = DENIALS[_draw("t", instruction, len(DENIALS))]
    return {"instruction": instruction, "response": response, "key": key}


def _open_row(instruction: str) -> dict:
    """A harmless instruction that has no response yet."""
    return {"instruction": instruction, "response": "", "key": instruction}


def _as_command(question: str) -> str | None:
    """A question as a command ("How do I X?" as "Write a guide on how to X."), or None."""
    asked = ASKED.fullmatch(question)
    if not asked:
        return None
    opening, rest = asked.groups()
    if opening.startswith(("Can", "Could")):
        return rest[0].upper() + rest[1:] + (".", "")[_draw("stop", question, 2)]
    frames = HOW if opening.startswith("How") else WHAT
    return frames[_draw("command", question, len(frames))].format(rest)


def _draw(name: str, text: str, count: int) -> int:
    """A fixed number below count for a text."""
    return random.Random(f"{name}/{text}").randrange(count)
