"""Quantisation simulated in torch as the runtimes execute it, with gradients straight through."""
