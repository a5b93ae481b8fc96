"""Costs on devices that are not attached: roofline with state, priors of classes, a probe pack."""
