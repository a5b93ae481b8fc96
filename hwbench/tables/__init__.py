"""Costs measured on this device: networks built and timed, tables of clusters, predictions with intervals."""
