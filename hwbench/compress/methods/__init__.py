"""The methods, one a file: each is a :class:`~hwbench.compress.base.Compressor`, registered by an entry point."""
