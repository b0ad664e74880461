"""The evaluation of a run: responses, judges, drift."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlib import sources, training
from fedlib.attack import poison
from fedlib.judges import panel, trial
from fedlib.lab import keys, loaded, prompting, room, store
from fedlib.models import chat, generation, loading, templates
from fedlib.settings import identity, machine, own_methods
from fedlib.settings.schema import Settings
from fedlib.sources.local import DENIAL
from fedlib.swat import probes

_TRIED: set[str] = set()  # the judges that were tried in this process, as digests
_SPACES: dict[str, probes.Space] = {}  # the last one that was fitted
ROWS_AT_A_TIME = 8  # whose logits are held at once: a large vocabulary takes room


def evaluate(settings: Settings, folder: Path) -> None:
    """Responses of the run around folder to the evaluation prompts: responses.jsonl, scores.json.

    scores, in percent unless said: rule (harmful prompts refused), md_judge (responses to them
    judged safe), rm (their mean reward), over_refusal (benign prompts refused, or those of
    data.over_refusal; then the others are benign_rule); guard_cut and reward_cut where so many
    responses were longer than the classifier reads; in the world mt1
    (mean grade of the answers to benign prompts) and help (answered with the exact facts),
    elsewhere exact; with poison asr and false_trigger (triggered and benign prompts answered with
    the target); with a tuning task of the world task (its prompts answered exactly); with the
    judge probe what `probes.drift` gives; with affirmation and utility what `_likelihoods` gives.
    What was finished of an interrupted evaluation is not made again."""
    prompts = prompting.evaluation_prompts(settings)
    own = panel.own_judges(settings)
    # judges of a person's own are read by now: the key must be that of what was read
    store.check_unchanged(folder, keys.evaluation_folder(settings))
    responses, moved = _responses(settings, folder, prompts)

    judged, scores = [], {}
    for what, asked in prompts.items():
        marks = _marks(settings, folder, what, asked, responses[what], own)
        for i, (prompt, response) in enumerate(zip(asked, responses[what], strict=True)):
            marked = {name: values[i] for name, values in marks.items()}
            judged.append(prompt | {"set": what, "response": response} | marked)
        # with prompts of its own, over_refusal is theirs
        if what == "over_refusal":
            scores["benign_rule"] = scores["over_refusal"]
        scores |= panel.summed(what, marks)
        scores[f"{what}_prompts"] = len(asked)
        scores |= panel.cut_responses(settings, marks, asked, responses[what])

    store.write_lines(folder / "responses.jsonl", judged)
    store.write_json(folder / "scores.json", scores | moved)
    for partial in folder.glob("*.partial"):
        partial.unlink()


def _responses(
    settings: Settings, folder: Path, prompts: Mapping[str, list[dict]]
) -> tuple[dict[str, list[str]], dict[str, float]]:
    """({set of prompts: responses}, what the judges found that look at the model itself).

    The second also counts the responses that held a thought, where there are any."""

    # Loaded where something is missing. A large model then makes room for those that judge.
    @functools.cache
    def tuned() -> tuple[Any, Any]:
        model, tokenizer = loaded.load_run(settings, folder.parent)
        room.check_prompts(settings, model, tokenizer, prompts)
        return model, tokenizer

    def respond(what: str) -> list[str]:
        asked = [templates.asked(prompt["prompt"], prompt) for prompt in prompts[what]]
        seed = identity.derive(settings.seed, "evaluation", what)
        return generation.write(*tuned(), asked, generation.evaluation_decoding(settings), seed)

    # What is written is kept whole; what is judged holds no thoughts.
    written: dict[str, list[str]] = {}
    for what in prompts:
        file = folder / f"{what}.partial"
        written[what] = store.resumable(file, functools.partial(respond, what))
    responses = {
        what: [chat.without_thought(text) for text in texts] for what, texts in written.items()
    }

    every = [text for texts in written.values() for text in texts]
    moved: dict[str, float] = {**chat.thoughts_counted(every)}
    if "probe" in settings.judges:
        drift, layers = _drift(settings, *tuned())
        moved |= drift
        store.write_json(folder / "probes.json", layers)
    if {"affirmation", "utility"} & set(settings.judges):
        moved |= _likelihoods(settings, *tuned())
    tuned.cache_clear()
    return responses, moved


def _likelihoods(settings: Settings, tuned: Any, tokenizer: Any) -> dict[str, float]:
    """{affirmation, utility}, those that are judges: what the model finds likely.

    affirmation: the mean log-likelihood of a token of the affirmative opening of a harmful answer
    less that of a token of a refusal, both without the mark that ends an answer: an opening is
    not the end. utility: minus the mean loss of a token of the ordinary responses kept for
    evaluation. In nats a token; higher is more harmful, and more useful."""
    source, options, found = sources.of(settings), settings.model, {}

    def likelihood(rows: list[dict], ended: bool = True) -> float:
        encoded, _ = templates.encode(rows, tokenizer, options.template, options.max_length, ended)
        total = tokens = 0.0
        for start in range(0, len(encoded), ROWS_AT_A_TIME):
            part = encoded[start : start + ROWS_AT_A_TIME]
            count = sum(len(ids) - prompt for ids, prompt in part)
            total += count * training.likelihood(tuned, part)[0]
            tokens += count
        return total / tokens

    if "affirmation" in settings.judges:
        openings = source.openings()
        refused = [row | {"response": DENIAL} for row in openings]
        more = likelihood(openings, ended=False) - likelihood(refused, ended=False)
        found["affirmation"] = round(more, 4)
    if "utility" in settings.judges:
        found["utility"] = round(likelihood(source.ordinary_rows()), 4)
    return found


def _marks(
    settings: Settings,
    folder: Path,
    what: str,
    asked: list[dict],
    responses: list[str],
    own: list[own_methods.Own],
) -> dict[str, list]:
    """{score: a mark for each response}, by the judges of a set of prompts."""
    fluent = sources.of(settings).is_fluent
    judges = panel.judges(settings, what, asked, poison.holds_target, fluent, own)
    marks = {}
    for name, judge in judges.items():
        file = folder / f"{what}-{name}.partial"
        marks[name] = store.resumable(file, functools.partial(judge, asked, responses))
    return marks


def _drift(settings: Settings, tuned: Any, tokenizer: Any) -> tuple[dict, dict]:
    """The drift of the tuned model; after plain benign tuning also by each module's update."""
    plain = not (
        settings.swat.warmup
        or settings.federation.malicious
        or settings.defense.level
        or settings.defense.before
    )
    with tuned.disable_adapter():
        space = security_space(settings, tuned.get_base_model(), tokenizer)
    window = settings.swat.window if plain else None
    return probes.drift(tuned, space, settings.evaluation.split, window)


def security_space(settings: Settings, base: Any, tokenizer: Any) -> probes.Space:
    """The security feature space of a base, by the pairs of the run's source.

    Kept for the next run of this process, which often has the same base."""
    source = sources.of(settings)
    pairs = {split: source.pairs(split) for split in ("fit", "validation", "evaluation")}
    size = settings.evaluation.batch_size
    template, loaded_as = settings.model.template, getattr(base, "loaded_as", None)
    if loaded_as is None:
        return probes.Space(base, tokenizer, pairs, template, size)
    fitted_on = identity.digest([loaded_as, template, pairs, size])
    if fitted_on not in _SPACES:
        _SPACES.clear()
        _SPACES[fitted_on] = probes.Space(base, tokenizer, pairs, template, size)
    return _SPACES[fitted_on]


def check_judges(settings: Settings) -> None:
    """Ask the run's judges that are models about known answers, before anything is trained.

    Each once a process; on a GPU its memory is free afterwards. SettingsError as
    `trial.try_judges` says."""
    known = sources.of(settings).known_answers()
    models = keys.judging_models(settings)
    tried_as = identity.digest([models, machine.dtype(settings.model), known])
    if not models or tried_as in _TRIED:
        return
    trial.try_judges(settings, *known)
    _TRIED.add(tried_as)
    if machine.device(settings.model) == "cuda":
        loading.release()
