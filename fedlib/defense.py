"""The server's post-hoc defence: tune the aggregated model on aligned and normal rows, half and half (paper S)."""

import json
import time

from fedlib import config, data, model, store, synthesis, training


def rows(settings, tuned, tokenizer):
    """(rows [N], reports): as many aligned as normal ones, defense.rows in all or what there is.

    By defense.level: 1 existing rows, 2 written by the off-the-shelf LLM, 3 by the attacked model `tuned` itself."""
    half, reports = settings.defense.rows // 2, []
    if settings.defense.level == 1:
        parts = data.defense_rows(settings, half)
    else:
        parts, asked = {}, settings.replace(model={"template": settings.defense.template})
        for kind in ("aligned", "normal"):
            if settings.defense.level == 2:
                parts[kind], report = store.written(settings, kind)
            else:
                parts[kind], report = synthesis.write(tuned, tokenizer, kind, asked, settings.seed)
            reports.append(report)
    half = min(half, *map(len, parts.values()))
    if not half:
        empty = next(kind for kind, part in parts.items() if not part)
        raise ValueError(f"defense.level: {settings.defense.level}: not one {empty} row is left of what was written")
    return [row for part in parts.values() for row in part[:half]], reports


def execute(settings, folder):
    """Defend the run without this defence into folder: data.jsonl, rounds.jsonl, adapter/.

    defense.rounds of training.steps steps, AdamW afresh each round, the learning rate on a cosine of their own."""
    tuned, tokenizer = model.load_run(settings, store.run_folder(store.attacked(settings)), trainable=True)
    chosen, reports = rows(settings, tuned, tokenizer)
    (folder / "data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in chosen), encoding="utf-8")
    used = {"rows": len(chosen), "written": reports}
    (folder / "data.json").write_text(json.dumps(used, indent=1) + "\n", encoding="utf-8")
    encoded, dropped = data.encode(chosen, tokenizer, settings.model.template, settings.model.max_length)
    with open(folder / "rounds.jsonl", "w", encoding="utf-8") as log:
        for round_ in range(settings.defense.rounds):
            began = time.perf_counter()
            rate = training.learning_rate(settings, round_, settings.defense.rounds)
            losses, tokens = training.tune(tuned, encoded, settings, rate, config.derive(settings.seed, "defense", round_))
            line = {"round": round_, "learning_rate": rate, "losses": [round(v, 5) for v in losses], "dropped": dropped,
                    "seconds": round(time.perf_counter() - began, 3), "tokens": tokens}
            log.write(json.dumps(line) + "\n")
    model.save_adapter(tuned, settings, folder / "adapter")
