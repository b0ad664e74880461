"""Flower as the engine: clients train in other processes or on other hosts, all else stays.

A node gets the global adapter and sends back its update, how many rows it has, and its losses;
never a row. The round loop, the rules and the records are those of `federation`: docs/deploy.md."""

import os

# Flower and Ray report nothing home. They read this when they are imported.
for _name, _value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else each start prints a warning
}.items():
    os.environ.setdefault(_name, _value)
