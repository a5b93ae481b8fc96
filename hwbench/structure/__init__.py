"""The structure of a hub graph: which channels hang together, which blocks can go, and cuts that leave it whole."""
