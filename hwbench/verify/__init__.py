"""How good a built network is: its outputs on data, against labels and against the reference."""
