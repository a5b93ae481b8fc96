"""One layer as a product of several: the decompositions, the ranks, and the nodes that take its place."""
