"""Is a meter to be believed? A known course of load, and checks of what the meter made of it.

:mod:`~hwbench.energy.selftest.course` puts the machine through it and marks it; :mod:`~hwbench.energy.selftest.checks`
are pure functions of the trace.
"""
