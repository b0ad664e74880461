"""The server's rules: clients' updates in, one update and each client's weight out.

`rules` has one pure function a rule, a table of their names, and `aggregate`, which checks its
input by `inputs`. `faults` says which clients' updates a round can use. `residuals` is the one rule
with a file to itself, and `slopes` its repeated median. Rules that compare clients share
`distances`, rules that sort each coordinate share `ranks`. Nothing here knows models or settings:
an update is a row of a matrix [K, D].
"""

from fedlib.aggregation.distances import squared_distances
from fedlib.aggregation.faults import usable_updates
from fedlib.aggregation.inputs import VARIANTS
from fedlib.aggregation.rules import OPTIONS, RULES, aggregate

__all__ = ["OPTIONS", "RULES", "VARIANTS", "aggregate", "squared_distances", "usable_updates"]
