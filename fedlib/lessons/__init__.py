"""The lessons for a class: their records, pictures, sliders, exercises, and the teacher's copies.

Only the notebooks in notebooks/class import this room. `recording` makes what the lessons show from
real runs; the rest reads it. Nobody in the class trains anything that takes long."""
