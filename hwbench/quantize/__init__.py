"""The arithmetic of quantisation that all runtimes share: ranges of activations, scales of weights, repairs."""
