"""Which units of coupled channels go, and what is told of it: the parts of the method ``width``."""
