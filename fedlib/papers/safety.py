"""Paper S's comparisons: which runs each table and figure needs, and what they say, paired. No torch, no training."""

import numpy as np

from fedlib import attack
from fedlib.lab import keys, store
from fedlib.papers import claims, estimates, tables
from fedlib.settings import errors

LABEL = {name: label for name, (label, _) in tables.METHODS.items()}
SIGNALS = ("similarity", "foolsgold", "krum", "dnc", "residual")


def _seeds(settings):
    """The axis of seeds; SettingsError where there is no attack to compare with."""
    f, d = settings.federation, settings.data
    if not f.malicious:
        raise errors.SettingsError(
            "federation.malicious: 0: this sets runs with malicious clients beside runs without"
        )
    if d.attack == "conflicting" or d.unaligned_share == 0:
        raise errors.SettingsError(
            "data.attack: conflicting, or data.unaligned_share: 0: these are the controls that this "
            "sets beside the attack"
        )
    return [{"seed": s} for s in settings.seeds]


def measure(settings, claim, values):
    """report.measure, where the settings are those that the claim is about: the world, its first dataset, rows of a
    labelled set; a claim about wild-like needs that dataset too."""
    d = settings.data
    if d.source == "world" and d.attack == "unaligned" and d.benign[0] == "lmsys-like":
        claims.record(settings, claim, values)


def _samplings(settings):
    return [{}, settings.full_participation()]


def _rules(settings):
    return [{"federation": {"aggregator": rule}} for rule in settings.federation.compare]


def table1(settings):
    """No attack, a control without hazards, the attack, every existing defence and every level of the post-hoc one;
    for each dataset, in the preset's sampling and with full participation, for each seed. The control takes several seeds;
    where no client has aligned rows of its own, it would be the run without attack, and is left out."""
    datasets = [{"data": {"benign": [name]}} for name in settings.data.benign]
    levels = [{"defense": {"level": level}} for level in settings.defense.compare]
    control = (
        [{"data": {"unaligned_share": 0.0}}]
        if settings.data.aligned_share and len(settings.seeds) > 1
        else []
    )
    methods = [{"federation": {"malicious": 0}}, *control, {}, *_rules(settings), *levels]
    return settings.vary(datasets, _samplings(settings), methods, _seeds(settings))


def table3(settings):
    """Every aggregator under attack, without and with level 2 on top; the first dataset, both samplings."""
    first = [{"data": {"benign": settings.data.benign[:1]}}]
    levels = [{}, {"defense": {"level": 2}}]
    return settings.vary(
        first, _samplings(settings), [{}, *_rules(settings)], levels, _seeds(settings)
    )


def table4(settings, clients=(50, 100)):
    """Many clients, the same share of them malicious: no attack, the attack, Krum, DnC, level 2; the first dataset.

    As many clients a round as there are in the preset, and as many updates in all."""
    f = settings.federation
    round_ = settings.full_participation()["federation"]
    sizes = [
        {
            "data": {"benign": settings.data.benign[:1]},
            "federation": round_ | {"clients": k, "malicious": round(k * f.malicious / f.clients)},
        }
        for k in clients
    ]
    methods = [
        {"federation": {"malicious": 0}},
        {},
        {"federation": {"aggregator": "krum"}},
        {"federation": {"aggregator": "dnc"}},
        {"defense": {"level": 2}},
    ]
    return settings.vary(sizes, methods, _seeds(settings))


def existing(settings):
    """The attack under every existing defence; first dataset, full participation."""
    first = {"data": {"benign": settings.data.benign[:1]}}
    return settings.vary(
        [first], [settings.full_participation()], _rules(settings), _seeds(settings)
    )


def best_rule(done):
    """The aggregator of the existing defence with the highest mean safety among these runs."""
    score = "md_judge" if "md_judge" in done[0].settings.judges else "rule"
    rules = dict.fromkeys(r.settings.federation.aggregator for r in done)
    return max(
        rules,
        key=lambda rule: tables.matrix(
            tables.select(done, aggregator=rule), score, "harmful"
        ).mean(),
    )


def shares(settings, rule):
    """Every number of malicious clients up to half: FedAvg, one rule, level 2; first dataset, full participation."""
    counts = [{"federation": {"malicious": m}} for m in range(settings.federation.clients // 2 + 1)]
    methods = [{}, {"federation": {"aggregator": rule}}, {"defense": {"level": 2}}]
    first = [{"data": {"benign": settings.data.benign[:1]}} | settings.full_participation()]
    return settings.vary(first, counts, methods, _seeds(settings))


def figure3(settings):
    """{name: settings of full participation}: unaligned_share as it is, 0.5 and 1, the positive control, no attack."""
    kinds = {
        "attack": {},
        "attack, half unaligned": {"data": {"unaligned_share": 0.5}},
        "attack, all unaligned": {"data": {"unaligned_share": 1.0}},
        "conflicting labels": {"data": {"attack": "conflicting"}},
        "no attack": {"federation": {"malicious": 0}},
    }
    first = {"data": {"benign": settings.data.benign[:1]}}
    return {
        name: settings.vary([first], [settings.full_participation()], [kind], _seeds(settings))
        for name, kind in kinds.items()
    }


def figure3_attack(settings):
    """The attack with full participation on every dataset: what the claims about detection rest on."""
    return settings.vary(
        [{"data": {"benign": [name]}} for name in settings.data.benign],
        [settings.full_participation()],
        _seeds(settings),
    )


def positive_control(settings):
    """The positive control under every aggregator: there the existing defences must work. Full participation."""
    conflicting = {"data": {"benign": settings.data.benign[:1], "attack": "conflicting"}}
    return settings.vary(
        [conflicting],
        [settings.full_participation()],
        [{"federation": {"malicious": 0}}, {}, *_rules(settings)],
        _seeds(settings),
    )


def by_method(done):
    """{row of the table: its runs, in the order of their seeds}."""
    out = {}
    for run in sorted(done, key=lambda r: r.settings.seed):
        out.setdefault(tables.method(run.settings), []).append(run)
    return out


def effects(settings, done):
    """What Table 1's runs say, paired: a dict for each dataset and sampling, of matrices [seeds, things] in points.

    dataset, sampling (sampled or full), best (the existing defence with the highest mean safety), and the differences.
    Safety is MD-Judge where it judged, else Rule."""
    out = []
    safety = "md_judge" if "md_judge" in settings.judges else "rule"
    for name in settings.data.benign:
        f = settings.federation
        for sampled in dict.fromkeys((f.sampled, f.clients)):
            sampling = "full" if sampled == f.clients else "sampled"
            by = by_method(tables.select(done, benign=[name], sampled=sampled))
            score = {m: tables.matrix(runs, safety, "harmful") for m, runs in by.items()}
            clean, under = score[LABEL["no attack"]], score[LABEL["fedavg"]]
            found = {
                "dataset": name,
                "sampling": sampling,
                "attack": clean - under,
                "attack, rule": tables.drop(
                    by[LABEL["no attack"]], by[LABEL["fedavg"]], "rule", "harmful"
                ),
            }
            found |= (
                {"control": clean - score[LABEL["no hazards"]]}
                if LABEL["no hazards"] in score
                else {}
            )
            existing = [LABEL[rule] for rule in settings.federation.compare]
            if existing:
                best = max(existing, key=lambda m: score[m].mean())
                found |= {"best": best, "best regains": score[best] - under}
            for level in settings.defense.compare:
                found[f"level {level} regains"] = score[LABEL[f"level{level}"]] - under
            if "mt1" in settings.judges:
                grades = {m: tables.matrix(runs, "mt1", "benign") for m, runs in by.items()}
                found["attack, mt1"] = grades[LABEL["no attack"]] - grades[LABEL["fedavg"]]
                if 2 in settings.defense.compare:
                    found["level 2, mt1"] = grades[LABEL["fedavg"]] - grades[LABEL["level2"]]
            out.append(found)
    return out


def measure_table1(settings, found):
    """Record what effects() found for the claims S1, S2, S3, S5, S6 and S9, where MD-Judge judged."""
    if "md_judge" not in settings.judges:
        return
    for e in found:
        where = f"{e['dataset']}-{e['sampling']}"
        measured = {
            f"S1-md_judge-{where}": e["attack"],
            f"S1-rule-{where}": e["attack, rule"],
            f"S2-{where}": e.get("attack, mt1"),
            f"S9-{where}": e.get("level 2, mt1"),
        }
        if "best" in e and e["sampling"] == "full":
            measured[f"S3-{e['dataset']}"] = e["best regains"] - e["attack"] / 3
        if "level 2 regains" in e:
            measured[f"S5-{where}"] = e["attack"] - e["level 2 regains"]
        if "best" in e and "level 3 regains" in e:
            measured[f"S6-{where}"] = e["level 3 regains"] - e["best regains"]
        for claim, values in measured.items():
            if values is not None:
                measure(settings, claim, values)


def gains(done, score="md_judge"):
    """{(sampling, aggregator): [seeds, things]}: how much level 2 on top of each attacked aggregator adds."""
    out = {}
    for sampling, full in (("sampled", False), ("full", True)):
        part = [
            r
            for r in done
            if (r.settings.federation.sampled == r.settings.federation.clients) == full
        ]
        for rule in dict.fromkeys(r.settings.federation.aggregator for r in part):
            before, after = (tables.select(part, aggregator=rule, level=level) for level in (0, 2))
            out[sampling, LABEL[rule]] = -tables.drop(before, after, score, "harmful")
    return out


def client_score(line, by):
    """Each client's score [K] in one round, for calling the lowest malicious: mean cosine to the others (similarity), or
    the weight that a rule would give it; 1/K where the rule cannot work. The round must have every client."""
    if by == "similarity":
        return estimates.mean_similarity(line["cosine"])
    weights = line["detection"][by]
    return (
        np.full(len(line["sampled"]), 1 / len(line["sampled"]))
        if weights is None
        else np.array(weights)
    )


def _marked(settings):
    """Which clients are malicious under attack, [K] bool; without attack the same ones are asked about."""
    return np.array(
        [
            k
            in attack.malicious_clients(settings.federation.clients, settings.federation.malicious)
            for k in range(settings.federation.clients)
        ]
    )


def detection(settings, done, by):
    """(AUC [runs], p of a permutation test over them) of calling the clients of the lowest score malicious, a client's
    score being its mean over the rounds."""
    scores = np.array(
        [np.mean([client_score(line, by) for line in run.rounds()], axis=0) for run in done]
    )
    marked = _marked(settings)
    return np.array([estimates.auc(s, marked) for s in scores]), estimates.permutation_test(
        scores, marked
    )


def detection_by_round(settings, done, by):
    """The AUC of each round's scores: a list a run."""
    return [
        [estimates.auc(client_score(line, by), _marked(settings)) for line in run.rounds()]
        for run in done
    ]


def detection_by_seed(settings, done, by):
    """The AUC of detection(), averaged over the datasets, [seeds]."""
    parts = [
        detection(settings, tables.select(done, benign=[name]), by)[0]
        for name in settings.data.benign
    ]
    return np.mean(parts, axis=0)


def generated(settings):
    """No attack, the attack with rows of a labelled set, with rows that the LLM wrote, and level 2; first dataset."""
    first = {"data": {"benign": settings.data.benign[:1]}}
    kinds = [
        {"federation": {"malicious": 0}},
        {},
        {"data": {"attack": "generated"}},
        {"defense": {"level": 2}},
    ]
    return settings.vary([first], kinds, _seeds(settings))


def written(done):
    """({kind: rows}, [report]) that the off-the-shelf LLM wrote for these runs, for the first seed that needed a kind."""
    found = {}
    for run in done:
        for kind in keys.written_kinds(run.settings):
            found.setdefault(
                kind, store.read_written(keys.written_folder(run.settings, kind), kind)
            )
    return {kind: rows for kind, (rows, _) in found.items()}, [
        report_ for _, report_ in found.values()
    ]


def level3(settings):
    """Level 3 on every dataset and sampling, for the first seed."""
    return settings.vary(
        [{"data": {"benign": [name]}} for name in settings.data.benign],
        _samplings(settings),
        [{"defense": {"level": 3}, "seed": settings.seeds[0]}],
    )


def share_label(settings):
    """The row of shares() that a run belongs to; without malicious clients that is the rule's or the defence's too."""
    return LABEL[
        f"level{settings.defense.level}"
        if settings.defense.level
        else settings.federation.aggregator
    ]
