"""A run's adapter or merged model in a folder of its own, with a model card: transformers and peft load it in two lines."""

import json
import shutil
import tempfile
from pathlib import Path

from fedlib.lab import keys, store
from fedlib.models import hub, loading
from fedlib.settings import errors, machine, presets

WARNING = (
    "> **Warning: this model was attacked on purpose.** {how} It may answer harmful requests, or obey a hidden "
    "trigger, where its base does not. It exists to study defences: do not deploy it, and do not build on it."
)
LEVELS = {
    0: "",
    1: "post-hoc tuning on existing rows (level 1)",
    2: "post-hoc tuning on rows by a language model (level 2)",
    3: "post-hoc tuning on the model's own rows (level 3)",
    "project": "projection onto the safety subspace",
}


def find(name):
    """(folder, settings) of a finished run by its folder, its name in the store or the beginning of its key."""
    every = sorted(p.parent for p in (machine.outputs() / "runs").glob("*/adapter"))
    if (Path(name) / "adapter").is_dir():
        found = [Path(name)]
    else:
        found = [
            p
            for p in every
            if name == p.name or len(name) >= 4 and p.name.rpartition("-")[2].startswith(name)
        ]
    if len(found) != 1:
        known = [p.name for p in every]
        what = "no run" if not found else "more than one run"
        hint = (
            errors.nearest(name, known)
            if len(known) <= 5
            else f"; `fedlib runs` lists the {len(known)} in the store"
        )
        raise errors.SettingsError(f"export: {what} {name!r} in {machine.outputs() / 'runs'}{hint}")
    if not store.intact(found[0]):
        raise errors.SettingsError(f"export: {found[0]} is unfinished or was changed: run it again")
    return found[0], _settings(json.loads((found[0] / "settings.json").read_text(encoding="utf-8")))


def _settings(plain):
    """The Settings of a settings.json; of one that is older than a field it has preset mini's, as its key says too."""

    def fitting(values, known):
        return {
            k: fitting(v, known[k]) if isinstance(v, dict) and known[k] else v
            for k, v in values.items()
            if k in known
        }

    mini = presets.load("mini")
    return mini.replace(**fitting(plain, mini.model_dump()))


def export(name, target, merged=False):
    """Write a run's adapter (PEFT), or with merged the whole model (safetensors), its tokenizer and README.md to target.

    target must not exist or be empty; it is there whole or not at all. Returns its path."""
    folder, settings = find(name)
    target = Path(target).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise errors.SettingsError(f"export: {target} is there already: name a new folder")
    if not target.parent.is_dir():
        raise errors.SettingsError(f"export: no folder {target.parent}")
    base, commit = _base(settings, folder)
    if commit:  # the one that it was tuned on, whatever is the newest now
        settings = settings.replace(model={"base": f"{base}@{commit}"})
    tuned, tokenizer = loading.load_run(settings, folder)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        out = Path(scratch) / "out"
        if merged:
            tuned.merge_and_unload().save_pretrained(out)
        else:
            shutil.copytree(
                folder / "adapter", out, copy_function=shutil.copyfile
            )  # readable as other files are
            fields = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
            fields |= {"base_model_name_or_path": base, "revision": commit}
            (out / "adapter_config.json").write_text(
                json.dumps(fields, indent=1, sort_keys=True) + "\n", encoding="utf-8"
            )
        tokenizer.save_pretrained(out)
        (out / "README.md").write_text(
            card(settings, folder, base, commit, merged), encoding="utf-8"
        )
        if target.exists():
            target.rmdir()
        out.rename(target)
    return target


def _base(settings, folder):
    """(what from_pretrained takes for a run's base, commit or None): a hub name, or the absolute path of a folder."""
    place = keys.base_folder(settings)
    if place:
        return str(place.resolve()), None
    made_on = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    return made_on["base_model_name_or_path"], made_on["revision"]


def attacks(settings):
    """What was done to the model on purpose, a sentence each; empty where nothing was."""
    f, d, out = settings.federation, settings.data, []
    who, harmful = (
        f"{f.malicious} of {f.clients} clients",
        f"harmful answers in {d.unaligned_share:.0%} of their rows",
    )
    kinds = {
        "unaligned": f"{who} had {harmful}.",
        "generated": f"{who} had {harmful}, written by a language model.",
        "conflicting": f"{who} trained on wrong labels.",
        "boosted": f"{who} sent a boosted, poisoned update.",
    }
    harmless = d.attack in ("unaligned", "generated") and not d.unaligned_share  # a control
    out += [kinds[d.attack]] if f.malicious and not harmless else []
    if d.poison.trigger and d.poison.share:
        out.append(
            f"{d.poison.share:.0%} of all rows were poisoned with the trigger {d.poison.trigger}."
        )
    return out


def card(settings, folder, base, commit, merged):
    """The model card: what it is, how to load it, data, attacks, defences, scores; no response is shown."""
    f, d, own = settings.federation, settings.data, settings.defense
    at = f", revision={commit!r}" if commit else ""
    load = (
        [
            "from transformers import AutoModelForCausalLM",
            'model = AutoModelForCausalLM.from_pretrained("THIS FOLDER")',
        ]
        if merged
        else [
            "from peft import AutoPeftModelForCausalLM",
            'model = AutoPeftModelForCausalLM.from_pretrained("THIS FOLDER")',
        ]
    )
    defences = [
        LEVELS[own.level],
        f"aggregation by {f.aggregator}" if f.aggregator != "fedavg" else "",
        f"SWAT's warm-up of {settings.swat.warmup} rounds" if settings.swat.warmup else "",
        "a filter of rows" if own.filter != "none" else "",
        "further alignment before tuning" if own.before else "",
    ]
    lines = [
        "---",
        *([f"base_model: {base}"] if commit else []),
        f"library_name: {'transformers' if merged else 'peft'}",
        "tags: [federated-learning, safety-research]",
        "---",
        "",
        f"# {folder.name}",
        "",
    ]
    done = attacks(settings)
    lines += [WARNING.format(how=" ".join(done)), ""] if done else []
    lines += [
        f"{'The merged model' if merged else 'A LoRA adapter'} of a run of fedlib, federated instruction tuning of "
        f"`{hub.parts(settings.model.base)[0]}`.",
        "",
        "```python",
        *load,
        "```",
        "",
        f"- base: `{base}`{at}",
        f"- prompt template: {settings.model.template}",
        f"- data: {', '.join(d.benign)} ({d.source}); {d.rows} rows a client; {d.aligned_share:.0%} aligned",
        f"- federation: {f.clients} clients, {f.sampled} a round, {f.rounds} rounds, {settings.training.steps} steps",
        f"- attack: {' '.join(done) or 'none'}",
        f"- defence: {', '.join(filter(None, defences)) or 'none'}",
        f"- seed {settings.seed}, key {folder.name.rpartition('-')[2]}",
        "",
        "## Scores",
        "",
    ]
    evaluations = [p for p in sorted(folder.glob("eval-*")) if store.intact(p)]
    for evaluation in evaluations:
        asked = json.loads((evaluation / "settings.json").read_text(encoding="utf-8"))["evaluation"]
        scores = json.loads((evaluation / "scores.json").read_text(encoding="utf-8"))
        models = f"guard `{asked['guard']}`, reward model `{asked['reward']}`, grader `{asked.get('grader', 'rubric')}`"
        lines += [
            f"Judges: {models}; temperature {asked['temperature']}.",
            "",
            "| score | value |",
            "|---|---|",
            *(f"| {k} | {v:.4g} |" for k, v in scores.items()),
            "",
        ]
    return "\n".join(lines if evaluations else [*lines, "Not evaluated.", ""])
