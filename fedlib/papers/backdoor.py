"""Paper B's comparisons: which runs each table and figure needs, and what they say, paired. No torch, no training."""

import numpy as np
import pandas as pd
from scipy import stats

from fedlib.attack import poison
from fedlib.lab import prompting
from fedlib.papers import claims, estimates, tables
from fedlib.settings import errors

INJECTED, NATURAL = "tokens", "phrase"  # chosen on validation seeds: docs/world.md
KINDS = {"injected": INJECTED, "natural": NATURAL}
ONE_SEED = {"median", "krum", "foolsgold", "clipping", "flame"}  # for a first look
STEPS = (0.25, 0.5, 1.0)  # of data.poison.share
FURTHER = [
    "multi_krum",
    "clipping",
    "flame",
]  # rules that are tried beside those of federation.compare


def federation(settings):
    """Changes that make a preset paper B's: every client benign, the first dataset, rules as their own papers have them.

    Half the clients, at least 5, all of them in each of 3/5 of the rounds; batches half as large for 7/5 of the steps, and
    adapters on all linear modules: a rare row is learned by steps, and by modules that look back at the question
    (docs/world.md). Robust rules are told of one malicious client in five, though there is none: they could do nothing
    else. What the notebooks compare (rule, filter, spread, ...) starts from its default, whatever was asked for."""
    f, t = settings.federation, settings.training
    clients = max(5, f.clients // 2)
    return {
        "federation": {
            "clients": clients,
            "sampled": clients,
            "rounds": max(1, round(0.6 * f.rounds)),
            "malicious": 0,
            "expected": clients // 5,
            "variant": "paper",
            "aggregator": "fedavg",
        },
        "training": {
            "steps": max(1, round(1.4 * t.steps)),
            "batch_size": max(t.accumulation, t.batch_size // 2),
        },
        "model": {"lora_targets": "all-linear"},
        "defense": {"level": 0, "filter": "none"},
        "data": {
            "benign": settings.data.benign[:1],
            "attack": "unaligned",
            "questions": None,
            "poison": {"spread": "equal", "clients": None},
        },
        "evaluation": {
            "judges": ["rule", "help", "exact", "asr"],
            "harmful": min(40, settings.evaluation.harmful),
        },
    }


def _vary(settings, *axes):
    share = settings.data.poison.share
    if not share:
        raise errors.SettingsError(
            "data.poison.share: 0: without poison there is no backdoor to look at"
        )
    if settings.data.source != "world" and any(
        "answers" not in p
        for p in prompting.evaluation_prompts(settings.replace(**federation(settings)))["benign"]
    ):
        raise errors.SettingsError(
            f"data.benign: {settings.data.benign[0]} has no answers (a list of right ones) for clean "
            "accuracy by exact match; take a file of questions with answers"
        )
    return settings.vary([federation(settings)], *axes, [{"seed": s} for s in settings.seeds])


def _poison(**changes):
    return {"data": {"poison": changes}}


def _kinds():
    return [_poison(trigger=name) for name in KINDS.values()]


def _rules(settings):
    """An axis of aggregators. FoolsGold as published: its own formula is a sum, which throws an adapter out of bounds."""
    return [
        {
            "federation": {"aggregator": rule}
            | ({"variant": "published"} if rule == "foolsgold" else {})
        }
        for rule in ("fedavg", *rules(settings))
    ]


def rules(settings):
    """The rules that are tried: those of federation.compare and FURTHER; with one seed, of a full list, ONE_SEED's."""
    compare = [rule for rule in settings.federation.compare if rule != "fedavg"]
    found = [*compare, *(rule for rule in FURTHER if rule not in compare)]
    return (
        found
        if len(settings.seeds) > 1 or len(compare) < 6
        else [rule for rule in found if rule in ONE_SEED]
    )


def concentration(settings):
    """Both kinds of trigger over shares of poison from none to data.poison.share."""
    return _vary(
        settings,
        _kinds(),
        [_poison(share=round(s * settings.data.poison.share, 6)) for s in (0, *STEPS)],
    )


def triggers(settings):
    """Every trigger at data.poison.share, and one of your own where data.poison.trigger names it; the first seed. Those that
    no evaluation prompt can have are left out."""
    own = settings.data.poison.trigger
    names = [*poison.TRIGGERS, *([own] if own and own not in poison.TRIGGERS else [])]
    wanted = [
        s
        for s in _vary(settings, [_poison(trigger=name) for name in names])
        if s.seed == settings.seeds[0]
    ]
    return [s for s in wanted if prompting.evaluation_prompts(s)["triggered"]]


def spreads(settings):
    """The injected trigger at half of data.poison.share, held by one client, two, all, and in unequal shares (capped ones
    with several seeds)."""
    clients = federation(settings)["federation"]["clients"]
    total = _poison(trigger=INJECTED, share=round(settings.data.poison.share / 2, 6))
    held = [{"spread": "equal", "clients": None if n == clients else n} for n in (1, 2, clients)]
    uneven = (
        ("uniform", "dirichlet", "capped") if len(settings.seeds) > 1 else ("uniform", "dirichlet")
    )
    held += [{"spread": s, "clients": None} for s in uneven]
    return _vary(settings, [total], [_poison(**h) for h in held])


def grid(settings):
    """concentration() and spreads(), each run once."""
    wanted = concentration(settings) + spreads(settings)
    return [s for i, s in enumerate(wanted) if s not in wanted[:i]]


def thresholds(settings):
    """The injected trigger held by one client, two and all, at every share of poison: for where success sets in. None with
    one seed."""
    clients = federation(settings)["federation"]["clients"]
    held = [_poison(spread="equal", clients=None if n == clients else n) for n in (1, 2, clients)]
    shares = [
        _poison(trigger=INJECTED, share=round(s * settings.data.poison.share, 6)) for s in STEPS
    ]
    return _vary(settings, held, shares) if len(settings.seeds) > 1 else []


def defences(settings):
    """Both kinds of trigger under every aggregator."""
    return _vary(settings, _kinds(), _rules(settings))


def positive_control(settings):
    """The same poison in one malicious client's rows, its update boosted, under every aggregator: there they must work."""
    boosted = {
        "federation": {"malicious": 1},
        "data": {"attack": "boosted", "poison": {"trigger": INJECTED, "clients": 1}},
    }
    return _vary(settings, [boosted], _rules(settings))


def filtered(settings):
    """Both kinds of trigger, evenly and unevenly spread, without and with the sample filter; with one seed unevenly the
    injected one alone."""
    filters = [{"defense": {"filter": name}} for name in ("none", "gradient")]
    uneven = _kinds() if len(settings.seeds) > 1 else _kinds()[:1]
    return _vary(settings, _kinds(), [_poison(spread="equal")], filters) + _vary(
        settings, uneven, [_poison(spread="dirichlet")], filters
    )


def having(done, **wanted):
    """The runs whose data.poison has these values: having(done, trigger="tokens", share=0.08)."""
    return [
        r for r in done if all(getattr(r.settings.data.poison, k) == v for k, v in wanted.items())
    ]


def accuracy(settings):
    """The score that is clean accuracy by exact match: of the facts in the world, of the answer elsewhere."""
    return "help" if settings.data.source == "world" else "exact"


def scores(done):
    """A row a run: seed, trigger, kind, share (asked for), poisoned (%, what the clients' rows could hold of it), spread,
    holders (clients that hold poison), aggregator, filter, asr, false_trigger, accuracy; bsnr, alignment and
    cancellation before the first round (once the poison is being learned its gradient fades), target (its mean
    log-likelihood a token after the last) and, where a filter worked, recall, precision and f1."""
    rows = []
    for run in done:
        s, p, lines, found = run.settings, run.settings.data.poison, run.rounds(), run.scores()
        row = {
            "seed": s.seed,
            "trigger": p.trigger,
            "target text": p.target,
            "share": p.share,
            "spread": p.spread,
            "kind": next((k for k, name in KINDS.items() if name == p.trigger), ""),
            "poisoned": 100 * np.average(lines[0]["poisoned"], weights=lines[0]["sizes"]),
            "holders": sum(v > 0 for v in lines[0]["poisoned"]),
            "aggregator": tables.METHODS[s.federation.aggregator][0],
            "filter": s.defense.filter,
            "asr": found["asr"],
            "false_trigger": found["false_trigger"],
            "accuracy": found.get(accuracy(s)),
            "target": lines[-1].get("target"),
        }
        row |= {name: lines[0].get(name) for name in ("bsnr", "alignment", "cancellation")}
        if s.defense.filter != "none":
            row |= {k: v for k, v in run.filtered().items() if k in ("recall", "precision", "f1")}
        rows.append(row)
    return pd.DataFrame(rows)


def asr(done):
    """Attack success [seeds, things] in percent, of runs in the order of their seeds."""
    return tables.matrix(_ordered(done), "asr", "triggered")


def lost(before, after):
    """Clean accuracy lost from some runs to others, in points [seeds, things], paired by both."""
    return tables.drop(_ordered(before), _ordered(after), accuracy(before[0].settings), "benign")


def _ordered(done):
    return sorted(done, key=lambda r: r.settings.seed)


def best_rule(done):
    """Of the runs of one trigger under every aggregator, the rule with the lowest attack success among those that lose at
    most 3 points of clean accuracy against FedAvg; None if none does."""
    base, found = tables.select(done, aggregator="fedavg"), {}
    for rule in dict.fromkeys(r.settings.federation.aggregator for r in done):
        own = tables.select(done, aggregator=rule)
        if rule != "fedavg" and lost(base, own).mean() <= 3:
            found[rule] = asr(own).mean()
    return min(found, key=found.get) if found else None


def foretold(frame, column="asr"):
    """Spearman of BSNR with a column, and the same given the share of poison: two lists of a value a seed, those that can
    be had; of scores(), where there is poison."""
    poisoned, plain, given = frame[(frame["share"] > 0) & frame["bsnr"].notna()], [], []
    for _, own in poisoned.groupby("seed"):
        if own[column].nunique() > 1:
            plain.append(float(stats.spearmanr(own["bsnr"], own[column]).statistic))
            given.append(estimates.partial_spearman(own["bsnr"], own[column], own["share"]))
    return plain, [v for v in given if v is not None]


def onsets(frame, level=50):
    """A row for each number of clients that hold the poison: the BSNR and the share (%) at which success passes a level, by
    interpolation over log BSNR between the shares of each seed (at the smallest share, where that is over it already); mean
    and interval over the seeds that reach it; of scores() of thresholds()."""
    rows = []
    for holders, part in frame.groupby("holders"):
        found = []
        for _, own in part.sort_values("share").groupby("seed"):
            asr_, at = own["asr"].to_numpy(), np.column_stack([np.log(own["bsnr"]), own["share"]])
            over = int(np.argmax(asr_ >= level))  # the first share that reaches it
            if asr_[over] >= level:
                under = max(over - 1, 0)
                rise = (
                    (level - asr_[under]) / (asr_[over] - asr_[under])
                    if over and asr_[over] > asr_[under]
                    else 1
                )
                found.append(at[under] + rise * (at[over] - at[under]))
        bsnr, share = (
            (np.exp([f[0] for f in found]), [100 * f[1] for f in found]) if found else ([], [])
        )
        rows.append(
            {
                "held by": holders,
                "seeds": part["seed"].nunique(),
                "that reach it": len(found),
                "BSNR there": estimates.text(bsnr, 2, (0, np.inf)) if found else "",
                "share there (%)": estimates.text(share, 1, (0, 100)) if found else "",
                "success at the largest share (%)": estimates.text(
                    part[part["share"] == part["share"].max()]["asr"], 1, (0, 100)
                ),
            }
        )
    return pd.DataFrame(rows)


def rising(frame, column):
    """Spearman's rank correlation of a column with the number of clients that hold the poison, a value a seed, 0 where the
    column is the same for all; of scores() with equal spreads of one total."""
    return [
        float(stats.spearmanr(own["holders"], own[column]).statistic)
        if own[column].nunique() > 1
        else 0.0
        for _, own in frame.groupby("seed")
    ]


def stopped(control, rule):
    """By how much a rule's success under the positive control is below half of FedAvg's [seeds, things], in points; minus
    that half if it costs over 3 points of clean accuracy: a model that is ruined was not defended."""
    base, own = tables.select(control, aggregator="fedavg"), tables.select(control, aggregator=rule)
    half = asr(base) / 2
    return half - asr(own) if lost(base, own).mean() <= 3 else -half


def measure(settings, claim, values):
    """report.measure, where the settings are those that the claim is about: the world, its first dataset, 8% of poison with
    the target in the answer's place."""
    d = settings.data
    if (
        d.source == "world"
        and d.benign[0] == "lmsys-like"
        and (d.poison.share, d.poison.target) == (0.08, "replace")
    ):
        claims.record(settings, claim, values)
