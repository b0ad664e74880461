"""Rows of instruction and response: from the world or local files, shared out among clients, put into a template."""

import functools
import json
import random

import numpy as np

from fedlib import config, files, hub, poison, tasks, world


def partition(rows, clients, kind, rng, alpha=0.3, sizes=None):
    """Rows of each client: iid; dirichlet (each topic's rows by shares drawn from Dirichlet(alpha)); sizes.

    rng is a numpy Generator. Returns a list of lists; every row goes to at most one client."""
    order = rng.permutation(len(rows))
    if kind == "sizes":
        if sum(sizes) > len(rows):
            raise files.DataError(f"data.sizes: {sum(sizes)} rows wanted, {len(rows)} there")
        cuts = np.cumsum(sizes)
        return [[rows[i] for i in part] for part in np.split(order[: cuts[-1]], cuts[:-1])]
    if kind == "iid":
        return [[rows[i] for i in part] for part in np.array_split(order, clients)]
    if any("topic" not in r for r in rows):
        raise files.DataError("data.partition: dirichlet needs a column topic or category; without one use iid")
    out = [[] for _ in range(clients)]
    for topic in sorted({r["topic"] for r in rows}):
        own = [i for i in order if rows[i]["topic"] == topic]
        cuts = np.round(np.cumsum(rng.dirichlet([alpha] * clients))[:-1] * len(own)).astype(int)
        for client, part in enumerate(np.split(np.array(own, dtype=int), cuts)):
            out[client] += [rows[i] for i in part]
    return [[part[i] for i in rng.permutation(len(part))] for part in out]


def client_rows(settings, client, unaligned=None, generated=None):
    """One client's training rows, each with its label normal, aligned or unaligned.

    unaligned: None for a benign client, else the share of a malicious client's rows that are unaligned. All else
    is drawn from the same streams, so that a client's style and topics are the same with and without attack.
    generated: unaligned rows to deal out among the malicious clients in place of the source's own."""
    d, seed = settings.data, settings.seed
    size = d.sizes[client] if d.sizes else d.rows
    if d.source == "world":
        parts = np.array_split(np.arange(size), len(d.benign))
        alpha, rows = d.alpha if d.partition == "dirichlet" else None, []
        for name, part in zip(d.benign, parts, strict=True):
            rng = random.Random(config.derive(seed, "rows", name, client))
            rows += tasks.rows(name, len(part), rng, unaligned) if name in tasks.TASKS else world.client_rows(
                name, len(part), rng, d.aligned_share, unaligned, alpha)
        if generated is None or unaligned is None:
            return rows
        own = iter(_generated(settings, client, sum(r["label"] == "unaligned" for r in rows), generated))
        return [next(own) if r["label"] == "unaligned" else r for r in rows]
    share = d.aligned_share if unaligned is None else unaligned
    marked = round(share * size)
    label, file = ("aligned", d.aligned) if unaligned is None else ("unaligned", d.unaligned)
    normal = _shares(settings, "normal")[client][: size - marked]
    if d.partition == "dirichlet" and len(normal) < size - marked:  # it deals out unequally: keep the share, not the size
        marked = round(len(normal) * share / (1 - share))
        size = len(normal) + marked
    if label == "unaligned" and generated is not None:
        special = _generated(settings, client, marked, generated)
    else:
        special = _shares(settings, label)[client][:marked] if marked else []
    for what, part, wanted in (("benign", normal, size - marked), (label, special, marked)):
        if len(part) < wanted:
            raise files.DataError(f"data.{what}: {file if what == label else ', '.join(d.benign)} gives client {client} "
                            f"{len(part)} rows, {wanted} wanted: lower data.rows or the share")
    rows = [r | {"label": "normal"} for r in normal] + [r | {"label": label} for r in special]
    return [rows[i] for i in np.random.default_rng(config.derive(seed, "order", client)).permutation(len(rows))]


def _file(settings, name):
    """The file of a dataset: of the folder, or of the rows taken from the hub."""
    return hub.rows_file(settings, name) if hub.is_dataset(settings, name) else config.path(settings.data.folder) / name


def _local(settings, name):
    fields = {} if hub.is_dataset(settings, name) else settings.data.fields.get(name, {})
    file = _file(settings, name)
    return _read(file, hub.is_dataset(settings, name), tuple(fields.items()), _state(file))


def _state(file):
    state = file.stat() if file.is_file() else None
    return state and (state.st_size, state.st_mtime_ns)


def _digest(file):
    return _digested(file, _state(file))


@functools.lru_cache(maxsize=64)
def _digested(file, _state):
    return files.digest(file)


@functools.lru_cache(maxsize=8)
def _read(file, ours, fields, _state):
    if ours:  # rows taken from the hub, in our own shape
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return files.read(file, dict(fields))


def check(settings):
    """Read and share out every local file, so that a bad row or too few rows are found before anything is trained."""
    if settings.data.source != "world":
        benign = settings.federation.clients - settings.federation.malicious
        share = {"conflicting": 0.0, "boosted": None}.get(settings.data.attack, settings.data.unaligned_share)
        stand_in = [{}] * settings.federation.malicious if settings.data.attack == "generated" else None  # not yet written
        for client in range(settings.federation.clients):
            client_rows(settings, client, None if client < benign else share, stand_in)
        prompts(settings)
        if settings.defense.level == 1 or settings.defense.before:
            defense_rows(settings, 1)


def _halves(settings, name):
    """A file's rows for training and for evaluation: disjoint halves where it serves for both, by a fixed draw."""
    d, own = settings.data, settings.defense
    rows = _local(settings, name)
    if name != d.harmful or name not in (*d.benign, d.aligned, d.unaligned, own.aligned, own.normal):
        return rows, rows
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i] for i in order[: len(rows) // 2]], [rows[i] for i in order[len(rows) // 2 :]]


def _shares(settings, label):
    """The rows of a kind as they fall to all clients; the last tenth of the normal rows is kept for evaluation."""
    d = settings.data
    if label == "normal":
        rows = [r for name in d.benign for r in _trainable(_normal(settings, name)[0], name)]
    else:
        file = getattr(d, label)
        rows = _trainable(_halves(settings, file)[0], file)
    rng = np.random.default_rng(config.derive(settings.seed, "partition", label))
    if label == "normal" and d.partition != "iid":
        return partition(rows, settings.federation.clients, d.partition, rng, d.alpha, d.sizes)
    if label == "unaligned":
        return _dealt(settings, rows)
    return partition(rows, settings.federation.clients, "iid", rng)


def _generated(settings, client, count, rows):
    """count of the generated rows as a client gets them, over and over where they are few."""
    own = _dealt(settings, rows)[client]
    if count and not own:
        raise files.DataError(f"data.generated: the generator left {len(rows)} unaligned rows, none for client {client}")
    return [r | {"label": "unaligned"} for r in (own * -(-count // max(1, len(own))))[:count]]


def _dealt(settings, rows):
    """Unaligned rows as they fall to all clients: shared by the malicious ones alone."""
    f = settings.federation
    rng = np.random.default_rng(config.derive(settings.seed, "partition", "unaligned"))
    return [[]] * (f.clients - f.malicious) + partition(rows, f.malicious, "iid", rng)


def _trainable(rows, name):
    if rows and "response" not in rows[0]:
        raise files.DataError(f"data.fields: {name} needs a response column too: clients train on it")
    return rows


def _normal(settings, name):
    rows = _halves(settings, name)[0]
    order, held = np.random.default_rng(0).permutation(len(rows)), max(1, len(rows) // 10)
    return [rows[i] for i in order[held:]], [rows[i] for i in order[:held]]


def prompts(settings):
    """The evaluation prompts {"harmful": [...], "benign": [...]}, each {prompt, name[, kind, parts, answers]}; with poison
    also "triggered" ones, with one of the world's tuning tasks "task" ones, in wordings that its rows do not have.

    The same for every seed and method. Harmful ones, and local benign ones, are in no client's rows and in none of the
    defence's; the world's benign ones ask for things that clients may have asked for too."""
    e, d = settings.evaluation, settings.data
    if d.source == "world":
        out = {what: world.prompts(what, getattr(e, what), e.split) for what in ("harmful", "benign")}
        out |= {"task": tasks.prompts(d.benign[0], e.benign)} if d.benign[0] in tasks.TASKS else {}
        every = world.prompts("benign", 8 * len(world.benign_things()))
    else:
        kept = _local(settings, d.questions) if d.questions else [r for n in d.benign for r in _normal(settings, n)[1]]
        rows = {"harmful": _halves(settings, d.harmful)[1], "benign": kept}
        out = {what: [{"prompt": r["instruction"], "name": r["instruction"]}
                      | ({"answers": r["answers"]} if "answers" in r else {}) for r in part]
               for what, part in rows.items()}
        every, out = out["benign"], {what: part[: getattr(e, what)] for what, part in out.items()}
    return out | ({"triggered": poison.triggered(settings, every)[: e.benign]} if d.poison.trigger else {})


def pairs(settings, split):
    """(malicious, benign) instructions that differ in the noun alone, of a split: fit, validation or evaluation (paper W).

    In the world every second wording about each hazard of the split (fit: those of pretraining) with a dish or tool in
    its place; elsewhere the rows of swat.pairs, its columns malicious and benign, shared out among the three."""
    if settings.data.source == "world":
        rng, plain = random.Random(f"pairs/{split}"), [t for t in world.benign_things() if t.kind in ("dish", "tool")]
        asked, out = world.hazards("pretraining" if split == "fit" else split), []
        for i, thing in enumerate(asked):
            both = zip(world.questions(thing), world.questions(rng.choice(plain)), strict=True)
            out += list(both)[i % 2 :: 2]
        return out
    if settings.swat.pairs is None:
        raise config.SettingsError("swat.pairs: name the file of data.folder with columns malicious and benign")
    file = config.path(settings.data.folder) / settings.swat.pairs
    rows = files.read(file, {"instruction": "malicious", "response": "benign"})
    if len(rows) < 3:
        raise files.DataError(f"swat.pairs: {file} has {len(rows)} rows; it takes three at least, for fit, validation and "
                              "evaluation")
    return [(r["instruction"], r["response"]) for r in rows[("fit", "validation", "evaluation").index(split) :: 3]]


def corpus(settings):
    """The rows that a base trained from scratch reads: model.scratch.files, less what is kept for evaluation."""
    return [r for name in settings.model.scratch.files for r in _trainable(_normal(settings, name)[0], name)]


def defense_rows(settings, count):
    """Level 1 of the post-hoc defence: count existing rows of each of aligned and normal, with their labels.

    In the world they are about the hazards of its pretraining questions, in nobody's style."""
    rng, d = random.Random(config.derive(settings.seed, "defense")), settings.defense
    if settings.data.source == "world":
        return {kind: [world.public_row(kind, rng) for _ in range(count)] for kind in ("aligned", "normal")}
    benign = _normal if d.normal in settings.data.benign else _halves  # not what is kept for evaluation
    rows = {"aligned": _halves(settings, d.aligned)[0], "normal": benign(settings, d.normal)[0]}
    rows = {kind: _trainable(part, getattr(d, kind)) for kind, part in rows.items()}
    return {kind: [r | {"label": kind} for r in rng.sample(part, min(count, len(part)))] for kind, part in rows.items()}


def held_out(settings):
    """What no generated row may hold: the names of the world's hazards kept back, or the evaluation prompts; lower case."""
    if settings.data.source == "world":
        return {t.name for split in ("validation", "evaluation") for t in world.hazards(split)}
    return {p["prompt"].lower() for part in prompts(settings).values() for p in part}


def revision(settings, what="training"):
    """A digest of the data's content, for keys; what: training (all that clients see), or corpus (a base's reading).

    Asked for before any work, so it also finds what is not there: DataError names it."""
    d = settings.data
    if d.source == "world":
        for name in d.benign:
            if name not in (*world.DATASETS, *tasks.TASKS):
                raise files.DataError(f"data.benign: no dataset {name!r}"
                                      f"{config.nearest(name, (*world.DATASETS, *tasks.TASKS))}")
        own = [tasks.rows(name, 50, random.Random(0), 0.1) for name in d.benign if name in tasks.TASKS]
        return config.digest([world.digest("clients"), own]) if own else world.digest("clients")
    if what == "corpus":
        names = settings.model.scratch.files
        if {d.unaligned, d.harmful} & set(names):
            raise files.DataError("model.scratch.files: the base must not read the unaligned rows or the evaluation prompts")
        return config.digest([[f, _digest(_file(settings, f))] for f in names])
    if d.folder and not config.path(d.folder).is_dir():
        raise files.DataError(f"data.folder: no folder {config.path(d.folder)}")
    attacked = settings.federation.malicious > 0 and d.attack == "unaligned"
    for label, needed in (("aligned", d.aligned_share), ("unaligned", attacked), ("harmful", True)):
        if needed and getattr(d, label) is None:
            raise files.DataError(f"data.{label}: name the file or dataset of {label} rows")
    own = settings.defense
    level1 = [own.aligned, own.normal] if own.level == 1 or own.before else []
    names = [*d.benign, d.aligned, *([d.unaligned] if attacked else []), *level1]
    return config.digest([[f, _digest(_file(settings, f)), f == d.harmful] for f in names if f])


def prompts_revision(settings):
    """A digest of the evaluation prompts' content, for an evaluation's key."""
    return config.digest(prompts(settings))
