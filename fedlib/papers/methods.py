"""Each method's label and colour, the same in every table and figure."""

import zlib
from pathlib import Path

from fedlib.settings import own_methods

# name in the settings or in a record: (label, colour)
METHODS: dict[str, tuple[str, str]] = {
    "no attack": ("FedAvg (No Attack)", "#4477AA"),
    "no hazards": ("FedAvg (control)", "#BBBBBB"),
    "fedavg": ("FedAvg", "#CC3311"),
    "median": ("Median", "#EE7733"),
    "trimmed_mean": ("TrimmedMean", "#009988"),
    "krum": ("Krum", "#AA3377"),
    "multi_krum": ("Multi-Krum", "#882255"),
    "dnc": ("DnC", "#33BBEE"),
    "foolsgold": ("FoolsGold", "#DDAA33"),
    "residual": ("Residual", "#777777"),
    "level1": ("Repair: level 1", "#CCDDAA"),
    "level2": ("Repair: level 2", "#228833"),
    "level3": ("Repair: level 3", "#66CCEE"),
    "levelproject": ("Projection", "#DDDDDD"),
    "clipping": ("Norm clipping", "#44AA99"),
    "flame": ("FLAME-like", "#999933"),
    "untuned": ("before tuning", "#000000"),
    "plain": ("plain tuning", "#EE6677"),
    "swat": ("SWAT", "#117733"),
    "random": ("warm-up: random", "#AAAA00"),
    "fragile": ("warm-up: fragile", "#661100"),
    "injected": ("injected trigger", "#EE3377"),
    "natural": ("natural trigger", "#0077BB"),
}

# What methods of a person's own are drawn in: no other method has these.
OWN_COLOURS = (
    "#7B3294",
    "#A6761D",
    "#00CC66",
    "#FF66CC",
    "#1F3A93",
    "#B15928",
    "#5E8C31",
    "#D95F02",
)


class _Labels(dict[str, str]):
    """Labels by name; a method of a person's own gets its label and colour when it is asked for."""

    def __missing__(self, name: str) -> str:
        if not own_methods.is_own(name):
            raise KeyError(name)
        place, _, called = name.rpartition(":")
        label = f"{called} ({Path(place).name})"

        # the same colour in every figure, unless another of one's own has it
        free = [colour for colour in OWN_COLOURS if colour not in COLOUR.values()] or OWN_COLOURS
        wanted = OWN_COLOURS[zlib.crc32(label.encode()) % len(OWN_COLOURS)]
        COLOUR.setdefault(label, wanted if wanted in free else free[0])
        self[name] = label
        return label


LABEL = _Labels({name: label for name, (label, _) in METHODS.items()})
COLOUR = dict(METHODS.values())  # by label


def level_label(level: int | str) -> str:
    """The label of a post-hoc defence, as defense.level names it."""
    return LABEL[str(level) if own_methods.is_own(level) else f"level{level}"]


# What figures use beside the methods' own colours.
GREY = "#555555"
RED = COLOUR[LABEL["fedavg"]]
BLUE = COLOUR[LABEL["no attack"]]
ORANGE = COLOUR[LABEL["median"]]
GREEN = COLOUR[LABEL["level2"]]
PURPLE = COLOUR[LABEL["krum"]]
