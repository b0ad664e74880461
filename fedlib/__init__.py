"""fedlib: the safety of federated instruction tuning, as a thin library.

Start with notebooks/00_tour.ipynb."""
