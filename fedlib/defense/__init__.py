"""Defences of the server, and a filter at the clients.

`posthoc` tunes the aggregated model (paper S, levels 1 to 3) or projects it (in the manner of Safe
LoRA); `filters` finds poisoned rows before the first round (paper B). Rows are handed in. This room
imports training, models and settings.
"""
