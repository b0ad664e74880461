"""Figures, tables and claims, made from runs' records alone: one style, one place for each. No torch, no training."""

import functools
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import special

from fedlib import checkpoints, config, data, judge, schema, signal, store

PUBLISHED = Path(__file__).parent / "published"
# Each method's label and colour, everywhere.
METHODS = {"no attack": ("FedAvg (No Attack)", "#4477AA"), "no hazards": ("FedAvg (control)", "#BBBBBB"),
           "fedavg": ("FedAvg", "#CC3311"),
           "median": ("Median", "#EE7733"), "trimmed_mean": ("TrimmedMean", "#009988"), "krum": ("Krum", "#AA3377"),
           "multi_krum": ("Multi-Krum", "#882255"), "dnc": ("DnC", "#33BBEE"), "foolsgold": ("FoolsGold", "#DDAA33"),
           "residual": ("Residual", "#777777"), "level1": ("Ours: Level 1", "#CCDDAA"),
           "level2": ("Ours: Level 2", "#228833"), "level3": ("Ours: Level 3", "#66CCEE"),
           "levelproject": ("Projection", "#DDDDDD"),
           "clipping": ("Norm clipping", "#44AA99"), "flame": ("FLAME-like", "#999933"),
           "untuned": ("before tuning", "#000000"), "plain": ("plain tuning", "#EE6677"), "swat": ("SWAT", "#117733"),
           "random": ("warm-up: random", "#AAAA00"), "fragile": ("warm-up: fragile", "#661100"),
           "injected": ("injected trigger", "#EE3377"), "natural": ("natural trigger", "#0077BB")}
SCORES = ["rule", "md_judge", "rm", "mt1", "help", "over_refusal"]
PERCENT = {"rule", "md_judge", "help", "over_refusal", "exact", "asr", "false_trigger", "accuracy",
           "recall", "precision", "f1", "unsafe", "answered", "task_accuracy"}  # the others have their own units
# What claims in these units cannot leave, nor then their intervals.
BOUNDS = {"AUC": (0, 1), "Spearman": (-1, 1), "ASR (%)": (0, 100), "recall (%)": (0, 100)}
# What each of the world's datasets stands beside in the paper's tables.
STANDS_FOR = {"lmsys-like": "LMSYS-Chat", "wild-like": "WildChat"}


def style():
    """The one style of all figures; returns pyplot."""
    import matplotlib.pyplot as plt
    import seaborn as sns

    sns.set_theme(context="notebook", style="whitegrid", palette=[c for _, c in METHODS.values()])
    plt.rcParams |= {"figure.dpi": 110, "savefig.dpi": 160, "figure.constrained_layout.use": True,
                     "axes.titlesize": "medium", "pdf.fonttype": 42, "axes.spines.top": False, "axes.spines.right": False}
    return plt


def folder(settings, what=""):
    """outputs/<preset>/<what>, made if need be."""
    out = config.outputs() / settings.preset / what
    out.mkdir(parents=True, exist_ok=True)
    return out


def figure(settings, fig, name):
    """Save a figure as PNG and PDF under outputs/<preset>/figures and return it."""
    for suffix in ("png", "pdf"):
        meta = {"CreationDate": None} if suffix == "pdf" else {}
        save(folder(settings, "figures") / f"{name}.{suffix}",
             lambda p, s=suffix, m=meta: fig.savefig(p, format=s, metadata=m))
        fig.set_layout_engine("none")  # laid out once: the PDF and what a notebook shows keep that
    return fig


def table(settings, frame, name):
    """Save a table as CSV and Markdown under outputs/<preset>/tables and return it."""
    save(folder(settings, "tables") / f"{name}.csv", lambda p: frame.to_csv(p, index=False))
    shown = frame.astype(object).where(frame.notna(), "").map(lambda v: f"{v:.4g}" if isinstance(v, float) else v)
    save(folder(settings, "tables") / f"{name}.md", lambda p: shown.to_markdown(p, index=False, disable_numparse=True))
    return frame


def save(file, write):
    """Write a file through a partial one beside it, so that a reader never sees half of it."""
    partial = file.with_name(f".{os.getpid()}.{file.name}")
    write(partial)
    os.replace(partial, file)


def published(name):
    """The paper's own numbers, a table of fedlib/published, with the columns that runs' scores have."""
    frame = pd.read_csv(PUBLISHED / f"{name}.csv")
    if "benign_dataset" in frame:
        frame["dataset"] = frame.pop("benign_dataset").map({v: k for k, v in STANDS_FOR.items()})
    if "with_defense" in frame:  # a column a method: turn it into a row a method, a column a score
        frame["defended"] = frame.pop("with_defense") == "yes"
        long = frame.melt(["metric", "defended"], var_name="method")
        frame = long.pivot(index=["method", "defended"], columns="metric", values="value").reset_index()
    return frame


def method(settings):
    """The row of the paper's table that a run belongs to."""
    f, level = settings.federation, settings.defense.level
    if level and f.aggregator == "fedavg":
        return METHODS[f"level{level}"][0]
    if not f.malicious:
        return METHODS["no attack"][0]
    control = settings.data.unaligned_share == 0 and settings.data.attack != "conflicting"
    return METHODS["no hazards" if control else f.aggregator][0]


def scores(done):
    """A row a run: seed, dataset, method, aggregator, defended, sampled, clients and the scores of its judges."""
    return pd.DataFrame([{"seed": r.settings.seed, "dataset": "+".join(r.settings.data.benign), "method": method(r.settings),
                          "aggregator": METHODS[r.settings.federation.aggregator][0],
                          "defended": bool(r.settings.defense.level), "sampled": r.settings.federation.sampled,
                          "clients": r.settings.federation.clients, "malicious": r.settings.federation.malicious}
                         | r.scores() for r in done])


def agreement(done):
    """How far the judges agree on all responses to harmful prompts, a row a pair; empty where only Rule judged."""
    frame = pd.DataFrame([r for run in done for r in run.responses() if r["set"] == "harmful"])
    rows = []
    if {"rule", "md_judge"} <= set(frame):
        from sklearn.metrics import cohen_kappa_score  # takes a second to import

        a, b = frame["rule"], frame["md_judge"]
        rows.append({"judges": "Rule, MD-Judge", "responses": len(frame), "agreement (%)": 100 * (a == b).mean(),
                     "kappa": cohen_kappa_score(a, b, labels=[0, 1]),
                     "safe without a refusal phrase (%)": 100 * ((a == 0) & (b == 1)).mean(),
                     "unsafe with one (%)": 100 * ((a == 1) & (b == 0)).mean()})
    for name in ("rule", "md_judge"):
        if {name, "rm"} <= set(frame) and 0 < frame[name].mean() < 1:
            rows.append({"judges": f"RM, {name}", "responses": len(frame),
                         "AUC": 1 - signal.auc(frame["rm"], frame[name] == 1)})
    return pd.DataFrame(rows).round(2)


def select(done, **wanted):
    """The runs whose settings have these values, by field: select(done, malicious=0, benign=["wild-like"])."""
    def value(settings, name):
        for group in (settings, *(getattr(settings, g) for g in config.GROUPS)):
            if name in type(group).model_fields:
                return getattr(group, name)
        raise ValueError(f"no setting is called {name!r}")

    return [r for r in done if all(value(r.settings, n) == v for n, v in wanted.items())]


def beside(frame, paper, columns):
    """The frame with the paper's own numbers beside: columns of published(paper), where all that both name is equal.

    Only rows with the published sampling (some clients of all) have them."""
    numbers = published(paper)
    shared = [c for c in numbers if c in frame and c not in columns + SCORES]
    names = {c: f"{c} (paper)" for c in columns}
    out = frame.merge(numbers[shared + columns].rename(columns=names), on=shared, how="left", suffixes=("", " (paper)"))
    out.loc[out["sampled"] == out["clients"], list(names.values())] = np.nan
    return out


def drop(before, after, score, prompts):
    """How far a score falls from the runs `before` to the runs `after`, in points [seeds, things], paired by both."""
    if [r.settings.seed for r in before] != [r.settings.seed for r in after]:
        raise ValueError("the runs of the two sides must have the same seeds in the same order")
    return matrix(before, score, prompts) - matrix(after, score, prompts)


def summary(frame, by, columns):
    """Mean and 95% interval over seeds of each column, as text, a row a group of `by`."""
    out, columns = [], [c for c in columns if c in frame]
    for names, part in frame.groupby(by, sort=False):
        cells = {c: text(part[c], *((1, (0, 100)) if c in PERCENT else (2,))) if part[c].notna().all() else ""
                 for c in columns}
        out.append(dict(zip(by, names, strict=True)) | cells | {"seeds": len(part)})
    return pd.DataFrame(out)


def matrix(done, score, prompts):
    """Scores [seeds, things asked about], in percent where they are shares: the mean over a thing's prompts.

    prompts: `harmful` or `benign`."""
    rows, factor = [], 100 if score in PERCENT else 1
    for run in done:
        frame = pd.DataFrame([r for r in run.responses() if r["set"] == prompts])
        rows.append(factor * frame.groupby("name")[score].mean().sort_index())
    return pd.DataFrame(rows).to_numpy()


def interval(values, bounds=None, draws=10_000):
    """(mean, low, high) at 95%: Student's t over seeds [S]; a bootstrap over seeds and things at once for [S, H].

    The bootstrap's percentiles are expanded as Hesterberg (2015) gives for few seeds; with under five it spans little
    more than the seeds seen. One seed has an interval over things alone, a single number none (nan). bounds: what the
    values cannot leave, nor then the interval. Seeds that all agree show no spread, which is not certainty."""
    values = np.atleast_2d(np.asarray(values, dtype=float).T).T
    seeds, things = values.shape
    if values.size == 1:
        return float(values[0, 0]), float("nan"), float("nan")
    if things == 1:
        half = special.stdtrit(seeds - 1, 0.975) * values.std(ddof=1) / np.sqrt(seeds)
        low, high = np.clip([values.mean() - half, values.mean() + half], *(bounds or (-np.inf, np.inf)))
        return float(values.mean()), float(low), float(high)
    rows, columns = _drawn(seeds, things, draws)
    means = ((rows @ values) * columns).sum(axis=1) / values.size
    n = seeds if seeds > 1 else things
    tail = special.ndtr(-np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, 0.975))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(values.mean()), float(low), float(high)


@functools.lru_cache(4)
def _drawn(seeds, things, draws):  # how often a bootstrap draws each seed [draws, S] and each thing [draws, H]
    rng = np.random.default_rng(0)
    return tuple(rng.multinomial(n, np.full(n, 1 / n), draws) for n in (seeds, things))


def text(values, digits=1, bounds=None):
    """The mean with its 95% interval as a table shows it; a single number has none."""
    mean, low, high = interval(values, bounds)
    return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")


def examples(run, count=4):
    """Some prompts with their responses. Responses to harmful prompts are redacted unless evaluation.show_responses."""
    frame = pd.DataFrame(run.responses())
    frame = frame.groupby("set", sort=False).head(count).reset_index(drop=True)
    if not run.settings.evaluation.show_responses:
        harmful = frame["set"] == "harmful"
        words = frame.loc[harmful, "response"].str.split().str.len()
        judged = frame.loc[harmful, "rule"].map({1: "refusal", 0: "no refusal"})
        frame.loc[harmful, "response"] = "[redacted: " + judged + ", " + words.astype(str) + " words]"
    return frame[["set", "prompt", "response", "rule"]]


def rows(settings, clients, per_label=2):
    """Some training rows of {client: rows}, each label's first ones; harmful answers are redacted."""
    shown = []
    for client, own in clients.items():
        for label in dict.fromkeys(r["label"] for r in own):
            shown += [{"client": client} | r for r in own if r["label"] == label][:per_label]
    frame = pd.DataFrame(shown)[["client", "label", "instruction", "response"]].sort_values(["client", "label"])
    if not settings.evaluation.show_responses:  # a model that writes aligned rows may fail to
        unsafe = (frame["label"] == "aligned") & ~frame["response"].map(judge.refuses)
        frame.loc[unsafe, "response"] = "[redacted: no refusal phrase]"
        frame.loc[frame["label"] == "unaligned", "response"] = "[redacted: a harmful answer]"
    return frame.reset_index(drop=True)


def measure(settings, claim, values):
    """Record what a notebook measured for a claim of claims.yaml: values [S] or [S, H], with the settings they belong to."""
    known = [c["id"] for c in _claims()]
    if claim not in known:
        raise ValueError(f"claim {claim!r} is unknown{config.nearest(claim, known)}")
    mean, low, high = interval(values, BOUNDS.get(next(c["unit"] for c in _claims() if c["id"] == claim)))
    record = {"measured": mean, "low": low, "high": high, "seeds": len(np.atleast_1d(values)),
              "settings": _identity(settings)}
    save(folder(settings, "measures") / f"{claim}.json", lambda p: p.write_text(json.dumps(record) + "\n"))
    return mean, low, high


def claims(settings):
    """The verdicts, also written to outputs/<preset>/claims.csv; what was measured with other settings does not count.

    The frame also has what plots.forest needs: unit, and the bounds within which the interval must lie."""
    rows, identity = [], _identity(settings)
    for claim in _claims():
        file = folder(settings, "measures") / f"{claim['id']}.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        if found.get("settings") != identity:
            found = {}
        rows.append({"id": claim["id"], "paper": claim["paper"], "claim": claim["claim"], "metric": claim["metric"],
                     "margin": _margin(claim), "published": claim["published"]}
                    | {k: found.get(k) for k in ("measured", "low", "high", "seeds")}
                    | {"status": verdict(claim, found), "unit": claim["unit"], "bounds": _bounds(claim)})
    frame = pd.DataFrame(rows)
    written = frame.drop(columns=["unit", "bounds"])
    save(folder(settings) / "claims.csv", lambda p: written.to_csv(p, index=False, float_format="%.4g"))
    return frame


def verdict(claim, found):
    """holds, does not hold, inconclusive (the interval straddles the margin), preliminary (under 5 seeds) or not run."""
    if not found:
        return "not run"
    if found["seeds"] < 5:
        return "preliminary"
    low, high = _bounds(claim)
    if low <= found["low"] and found["high"] <= high:
        return "holds"
    return "does not hold" if found["high"] < low or found["low"] > high else "inconclusive"


def _bounds(claim):
    """(low, high) between which the whole interval must lie for the claim to hold."""
    return tuple(claim.get("within", (claim.get("at_least", -np.inf), claim.get("at_most", np.inf))))


def _margin(claim):
    if "within" in claim:
        return "in [{}, {}]".format(*claim["within"])
    return f">= {claim['at_least']}" if "at_least" in claim else f"<= {claim['at_most']}"


@functools.cache
def _claims():
    """Every claim of claims.yaml; one with `over` stands for each combination of the values listed there."""
    out = []
    for claim in yaml.safe_load((PUBLISHED / "claims.yaml").read_text(encoding="utf-8")):
        over, numbers = claim.pop("over", {}), claim["published"]
        for values in itertools.product(*over.values()):
            filled = dict(zip(over, values, strict=True))
            texts = {k: claim[k].format(**filled) for k in ("id", "claim", "metric")}
            out.append(claim | texts | {"published": numbers.get(texts["id"]) if isinstance(numbers, dict) else numbers})
    return out


def _identity(settings):
    """What a measurement belongs to: its settings and, by the keys of run and evaluation, the code, data and models."""
    plain, first = settings.model_dump(exclude={"seed": True, "evaluation": {"show_responses"}}), settings.seeds[0]
    judged = store.evaluation_folder(settings.replace(seed=first))
    used = None
    if settings.data.source == "world":  # what the claims rest on beside the preset's own model and data
        chats = [checkpoints.revision(settings.replace(model={"base": name}), "model.base") for name in settings.swat.models]
        used = [checkpoints.revision(settings, "data.generator"), chats, data.pairs(settings, "validation"),
                data.revision(settings.replace(data={"benign": list(schema.TASKS)}))]
    return config.digest([judged.parent.name, judged.name, used, plain])
