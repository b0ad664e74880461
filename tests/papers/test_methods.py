"""The labels and colours of the methods."""

from fedlib.papers import methods, tables


def test_methods_have_a_label_and_a_colour_each():
    labels, colours = zip(*methods.METHODS.values(), strict=True)
    assert len(set(labels)) == len(set(colours)) == len(methods.METHODS)
    paper = set(tables.published_table("safety_table1")["method"])
    ours = {"FedAvg (control)", "Multi-Krum"}
    assert set(labels[:13]) - ours <= paper  # as the paper writes them
