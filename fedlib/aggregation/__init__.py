"""The server's rules: clients' updates in, one update and each client's weight out.

`rules` has one pure function for each rule, a table of names, and `aggregate`, which checks its input;
`ranks` the order statistics that they share. Nothing here knows models or settings: an update is a row
of a matrix [K, D].
"""

from fedlib.aggregation.rules import OPTIONS, RULES, VARIANTS, aggregate, squared_distances

__all__ = ["OPTIONS", "RULES", "VARIANTS", "aggregate", "squared_distances"]
