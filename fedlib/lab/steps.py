"""What makes each stored thing: fetches rows and models, hands values to the core, writes files.

A run needs its base, perhaps the robustness of the base's modules and rows that a language model
writes; then comes the federation, perhaps a post-hoc defence, then the evaluation. `make` makes
what is missing of these, each under a key."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fedlib import federation, sources, synthesis
from fedlib.attack import poison
from fedlib.callbacks import BackdoorSignal, Callback, Detection, Record, TuningProgress
from fedlib.defense import filters, posthoc
from fedlib.federation import State
from fedlib.lab import client_data, judging, keys, loaded, prompting, room, rounds, store
from fedlib.models import adapter, generation, loading, templates
from fedlib.settings import machine, own_methods
from fedlib.settings.errors import DataError
from fedlib.settings.groups import WRITTEN_FILES
from fedlib.settings.schema import Settings
from fedlib.swat import modules, probes

TRIGGERED_PROBES = 32  # triggered questions by which the target's likelihood is followed
FOLLOWED = 48  # validation instructions that a tuning is followed by
# How a tuning is followed; in no run's key.
FOLLOWING = {"temperature": 0.0, "benign": 100, "max_new_tokens": 32}


# --- what is made, and in which order


def make(settings: Settings, wait: bool = True, nodes: Any = None) -> None:
    """Make what is missing of a run in this process, and its evaluation. Each is kept once done.

    nodes: as in `run_federation`. store.Busy if another process is at one of them and not wait."""
    if not store.intact(keys.evaluation_folder(settings)):
        judging.check_judges(settings)
    loaded.make_base(settings, wait)
    if settings.swat.warmup:
        make_robustness(settings, wait)

    # a post-hoc defence starts from the same run without it
    folder = keys.run_folder(settings)
    wanted = [settings]
    if settings.defense.level != 0:
        wanted = [keys.attacked(settings), settings]
    for one in wanted:
        for kind in keys.written_kinds(one):
            make_written(one, kind, wait)
        step = run_posthoc if one.defense.level else run_federation
        if nodes is not None and step is run_federation:
            step = functools.partial(run_federation, nodes=nodes)
        store.ensure(one, keys.run_folder(one), step, wait)

    store.check_unchanged(folder, keys.run_folder(settings))
    store.ensure(settings, keys.evaluation_folder(settings), judging.evaluate, wait)


def make_unless_busy(settings: Settings) -> bool:
    """Make what is missing of a run in this worker process; False if another process is at it."""
    try:
        make(settings, wait=False)
    except store.Busy:
        return False
    # the next run, or another notebook's, needs the memory
    if machine.device(settings.model) == "cuda":
        loading.release()
    return True


def make_robustness(settings: Settings, wait: bool = True) -> None:
    """Find the robust modules of the run's base if that is not done yet."""
    loaded.make_base(settings, wait)
    store.ensure(settings, keys.robustness_folder(settings), find_robust_modules, wait)


def make_written(settings: Settings, kind: str, wait: bool = True) -> None:
    """Have the off-the-shelf LLM write the rows of a kind if they are missing."""
    if settings.data.generator != WRITTEN_FILES:
        loaded.make_base(settings.replace(model={"base": settings.data.generator}), wait)
    step = functools.partial(have_rows_written, kind=kind)
    store.ensure(settings, keys.written_folder(settings, kind), step, wait)


def _encoder(settings: Settings, tokenizer: Any) -> Callable[[Sequence[dict]], list]:
    """encode(rows, ended=True) -> encoded rows, in the run's template and length."""
    options = settings.model

    def encode(given: Sequence[dict], ended: bool = True) -> list:
        return templates.encode(given, tokenizer, options.template, options.max_length, ended)[0]

    return encode


# --- the federation


def run_federation(settings: Settings, folder: Path, nodes: Any = None) -> None:
    """Run the federation into folder: rounds.jsonl, adapter/; on the way what a resume needs.

    nodes: `flower.nodes.Nodes`, whose clients train in the place of this process; without them
    federation.engine says where clients train."""
    rule = federation.aggregation_rule(settings.federation)
    federation.check_rule(settings.federation, rule)
    base, tokenizer = loaded.load_base(settings)
    # a federation whose rows are on hosts of their own has no evaluation
    at_home = nodes is None or not nodes.own_rows
    if at_home:
        room.check_prompts(settings, base, tokenizer, prompting.evaluation_prompts(settings))
    tuned = adapter.attach_lora(base, settings.model, settings.seed)
    encode = _encoder(settings, tokenizer)
    notes = sources.of(settings).notes() if at_home else []
    if notes:
        store.write_json(folder / "notes.json", notes)

    # the rows of all clients that will ever be sampled
    sampled = _sampled_ever(settings) if at_home else []
    rows = {client: client_data.client_rows(settings, client) for client in sampled}
    if settings.defense.filter != "none":
        chosen = own_methods.method("defense.filter", settings.defense.filter)
        rows, found = filters.filtered(chosen, tuned, rows, encode)
        store.write_json(folder / "filter.json", found)
    clients, dropped = federation.encode_clients(rows, tokenizer, settings.model)
    room.check_rows(settings, base, clients.values())
    if at_home:
        # methods of a person's own are all read by now: the key must be that of what was read
        store.check_unchanged(folder, keys.run_folder(settings))
        sizes = {client: len(encoded) for client, encoded in clients.items()}
        thoughts = {client: templates.thoughts(own) for client, own in rows.items()}
    else:
        # as the clients tell them
        sizes, dropped, thoughts = nodes.sizes, nodes.dropped, nodes.thoughts
    record = Record(settings.federation, sizes, dropped, thoughts)
    callbacks = [record, *_callbacks(settings, tokenizer, rows, sizes)]

    if settings.defense.before:
        _strengthen(tuned, settings, encode)
    start = state = _resumed(tuned, settings, folder)
    warmup = warmup_modules(tuned, settings) if settings.swat.warmup else None
    tuned.eval()  # as a local training leaves it: callbacks look at it wherever clients train
    with _engine(settings, nodes) as exchange:
        if exchange is not None and warmup is not None:
            exchange.warmup = sorted(warmup)
        for record, state in federation.run_rounds(
            tuned, clients, settings, callbacks, start, warmup, rule, exchange
        ):
            kept = {"global": state.adapter}
            if state.history is not None:
                kept["history"] = state.history
            rounds.keep_round(folder, record, kept)

    adapter.set_vector(tuned, state.adapter)
    loaded.save_adapter(tuned, settings, folder)


def _strengthen(tuned: Any, settings: Settings, encode: Callable[[Sequence[dict]], list]) -> None:
    """Tune the adapter on existing safety rows before the first round (defense.before)."""
    parts = sources.of(settings).defense_rows(settings.defense.rows // 2)
    aligned = encode([row for part in parts.values() for row in part])
    posthoc.strengthen(tuned, aligned, settings.training, settings.defense.before, settings.seed)


def _engine(settings: Settings, nodes: Any) -> contextlib.AbstractContextManager[Any]:
    """A block in which clients can train: gives an `Exchange`, or None where they train here."""
    if nodes is not None:
        nodes.connect()
        return contextlib.nullcontext(nodes)
    if settings.federation.engine == "local":
        return contextlib.nullcontext()
    # Flower is wanted only here, and takes seconds to import
    from fedlib.flower import simulation

    return simulation.simulated(settings)


def warmup_modules(tuned: Any, settings: Settings) -> set[str]:
    """The names of the modules that SWAT's warm-up trains, of what was found about the base."""
    found = store.read_robustness(keys.robustness_folder(settings))
    chosen = modules.choose_cells(found, settings.swat.modules, settings.seed)
    return modules.module_names(tuned, chosen, settings.swat.window)


def _sampled_ever(settings: Settings) -> list[int]:
    """The clients that are sampled in any round."""
    options = settings.federation
    sampled: set[int] = set()
    for index in range(options.rounds):
        sampled |= set(
            federation.sample_clients(options.clients, options.sampled, settings.seed, index)
        )
    return sorted(sampled)


def _resumed(tuned: Any, settings: Settings, folder: Path) -> State:
    """The state that an interrupted run had reached, or the first one."""
    first = federation.first_state(tuned, settings.federation)
    kept, done = rounds.resume(folder)
    if kept is None:
        return first
    history = kept["history"].to(first.history) if first.history is not None else None
    return State(done, kept["global"].to(first.adapter), history)


def _callbacks(settings: Settings, tokenizer: Any, rows: dict, sizes: dict) -> list[Callback]:
    """What is looked at after each round of a run beside the record itself.

    rows: none where clients keep them; then a backdoor's signal is not looked at."""
    found: list[Callback] = [Detection(sizes, settings.federation.variant)]
    if settings.data.poison.trigger and rows:
        triggered = prompting.evaluation_prompts(settings)["triggered"][:TRIGGERED_PROBES]
        target, source = settings.data.poison.target, sources.of(settings)
        targets = poison.target_probes(triggered, target, source.right_answer)
        found.append(BackdoorSignal(rows, targets, _encoder(settings, tokenizer)))
    if settings.federation.clients == 1:
        found.append(_tuning_progress(settings, tokenizer))
    return found


def _tuning_progress(settings: Settings, tokenizer: Any) -> TuningProgress:
    """A single tuner is followed by greedy answers to validation instructions and by its task."""
    fixed = settings.replace(evaluation=FOLLOWING)
    source = sources.of(fixed)
    asks = []
    if source.has_pairs():
        asks = [malicious for malicious, _ in source.pairs("validation")[::2]][:FOLLOWED]
    answers = [
        prompt | {"instruction": prompt["prompt"], "response": prompt["answers"][0]}
        for prompt in source.task_prompts(prompting.evaluation_prompts(fixed))
    ]
    encoded = _encoder(settings, tokenizer)(answers)
    return TuningProgress(tokenizer, asks, encoded, generation.evaluation_decoding(fixed))


# --- the post-hoc defence


def run_posthoc(settings: Settings, folder: Path) -> None:
    """Defend the run without this defence into folder: data.jsonl, rounds.jsonl, adapter/.

    Where it is projected, there is only the adapter, and projected.json; after a defence of a
    person's own only the adapter."""
    attacked = keys.run_folder(keys.attacked(settings))
    tuned, tokenizer = loaded.load_run(settings, attacked, trainable=True)

    if own_methods.is_own(settings.defense.level):
        _run_own_defense(settings, folder, tuned, tokenizer)
        return
    if settings.defense.level == "project":
        alignment = adapter.read_alignment(keys.alignment_file(settings))
        store.write_json(folder / "projected.json", posthoc.project(tuned, alignment))
        (folder / "rounds.jsonl").touch()
        loaded.save_adapter(tuned, settings, folder)
        return

    def chosen_rows() -> dict:
        rows, reports = defense_rows(settings, tuned, tokenizer)
        return {"rows": rows, "written": reports}

    # models wrote these rows: a resume takes what there is
    data = store.resumable(folder / "data.partial", chosen_rows)
    chosen = data["rows"]
    store.write_lines(folder / "data.jsonl", chosen)
    store.write_json(folder / "data.json", {"rows": len(chosen), "written": data["written"]})

    options = settings.model
    encoded, dropped = templates.encode(chosen, tokenizer, options.template, options.max_length)
    thoughts = templates.thoughts(chosen)
    if not encoded:
        raise DataError(
            f"defense.level: {settings.defense.level}: the prompts of all {dropped} rows fill "
            f"model.max_length, {options.max_length}, by themselves"
        )

    room.check_rows(settings, tuned, [encoded])
    state, start = rounds.resume(folder)
    if state:
        adapter.set_vector(tuned, state["adapter"])
    for record in posthoc.tune_rounds(
        tuned, encoded, settings.training, settings.defense.rounds, settings.seed, start
    ):
        record |= {"dropped": dropped} | ({"thoughts": thoughts} if thoughts else {})
        rounds.keep_round(folder, record, {"adapter": adapter.get_vector(tuned)})
    loaded.save_adapter(tuned, settings, folder)
    (folder / "data.partial").unlink()


def _run_own_defense(settings: Settings, folder: Path, tuned: Any, tokenizer: Any) -> None:
    """Put what a person's own defence makes of the attacked adapter in its place."""
    method = own_methods.method("defense.level", settings.defense.level)
    store.check_unchanged(folder, keys.run_folder(settings))
    offered = {
        "model": tuned,
        "tokenizer": tokenizer,
        "encode": _encoder(settings, tokenizer),
        "training": settings.training,
        "rounds": settings.defense.rounds,
        "seed": settings.seed,
    }
    if "rows" in method.asks:
        parts = sources.of(settings).defense_rows(settings.defense.rows // 2)
        room.check_rows(settings, tuned, map(offered["encode"], parts.values()))
        offered["rows"] = parts
    found = posthoc.repaired(method, adapter.get_vector(tuned), **offered)
    adapter.set_vector(tuned, found)
    (folder / "rounds.jsonl").touch()
    loaded.save_adapter(tuned, settings, folder)


def defense_rows(settings: Settings, tuned: Any, tokenizer: Any) -> tuple[list[dict], list[dict]]:
    """(rows, reports): as many aligned as normal ones, defense.rows in all or what there is.

    By defense.level: 1 existing rows, 2 written by the off-the-shelf LLM, 3 by the attacked model
    `tuned` itself."""
    level, count = settings.defense.level, settings.defense.rows
    parts: dict[str, list[dict]] = {}
    reports: list[dict] = []
    if level == 1:
        parts = sources.of(settings).defense_rows(count // 2)
    for kind in ("aligned", "normal") if level in (2, 3) else ():
        if level == 2:
            parts[kind], report = store.read_written(keys.written_folder(settings, kind), kind)
        else:
            parts[kind], report = _asked_to_write(
                settings, tuned, tokenizer, kind, settings.defense.template
            )
        reports.append(report)
    try:
        return posthoc.halves(parts, count), reports
    except ValueError as error:
        raise ValueError(f"defense.level: {level}: {error}") from None


# --- rows that a language model writes


def have_rows_written(settings: Settings, folder: Path, kind: str) -> None:
    """The off-the-shelf LLM, data.generator, writes rows of a kind into folder.

    With data.generator: files such rows are there already: they are taken from the files of the
    defence, data.generated of them."""
    if settings.data.generator == WRITTEN_FILES:
        made = sources.of(settings).defense_rows(settings.data.generated)[kind]
        report = {"kind": kind, "asked": settings.data.generated, "kept": len(made)}
        store.write_lines(folder / f"{kind}.jsonl", made)
        store.write_json(folder / f"{kind}.json", report)
        return
    with_generator = settings.replace(model={"base": settings.data.generator})
    generator, tokenizer = loaded.load_base(with_generator)
    # in the generator's own chat template
    made, report = _asked_to_write(settings, generator, tokenizer, kind, "chat")
    store.write_lines(folder / f"{kind}.jsonl", made)
    store.write_json(folder / f"{kind}.json", report)


def _asked_to_write(
    settings: Settings, model: Any, tokenizer: Any, kind: str, template: str
) -> tuple[list[dict], dict]:
    prompts = templates.prompts_file(settings.data.prompts)
    decoding = dataclasses.replace(
        generation.evaluation_decoding(settings),
        template=template,
        max_new_tokens=room.tokens_to_write(settings, model, tokenizer, prompts[kind], template),
    )
    return synthesis.write_rows(
        model,
        tokenizer,
        kind,
        prompts,
        settings.data.generated,
        decoding,
        prompting.held_out(settings),
        settings.seed,
    )


# --- the robustness of a base's modules


def find_robust_modules(settings: Settings, folder: Path) -> None:
    """The robustness of the modules of model.base and its Mods_Rob into folder: robustness.json."""
    base, tokenizer = loaded.load_base(settings)
    space, options = judging.security_space(settings, base, tokenizer), settings.swat
    found = probes.robustness(base, space, options)
    chosen, trace = probes.robust_subset(base, space, options, found)
    if not chosen:
        what = f"swat.threshold: {options.threshold}" if trace else f"swat.share: {options.share}"
        raise ValueError(
            f"{what}: not one cell of {settings.model.base} fits; raise it, or lower swat.noise"
        )
    cells = []
    for (kind, layer), harm in found.items():
        size = modules.adapter_cost(base, [(kind, layer)], options.window)
        cells.append({"type": kind, "layer": layer, "size": size} | harm)
    untouched = [list(values) for values in space.untouched(base, "validation")]
    report = {"cells": cells, "robust": chosen, "trace": trace, "probes": untouched}
    store.write_json(folder / "robustness.json", report)
