"""Each method's label and colour, the same in every table and figure."""

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
    "level1": ("Ours: Level 1", "#CCDDAA"),
    "level2": ("Ours: Level 2", "#228833"),
    "level3": ("Ours: Level 3", "#66CCEE"),
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

LABEL = {name: label for name, (label, _) in METHODS.items()}
COLOUR = dict(METHODS.values())  # by label

# What figures use beside the methods' own colours.
GREY = "#555555"
RED = COLOUR[LABEL["fedavg"]]
BLUE = COLOUR[LABEL["no attack"]]
ORANGE = COLOUR[LABEL["median"]]
GREEN = COLOUR[LABEL["level2"]]
PURPLE = COLOUR[LABEL["krum"]]
