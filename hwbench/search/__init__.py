"""The outer search: what is not chosen layer by layer, with Optuna."""
