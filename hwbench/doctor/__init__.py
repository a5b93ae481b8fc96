"""What would disturb a measurement on this machine, and the cure; some cures can be taken while a command runs.

    subject.py     what every check looks at, read once
    answers.py     ok, info, a warning with its cure, or why it cannot be told
    clocks.py      governor, turbo, power profile, range of the clocks, the clock that times are read from
    cores.py       SMT, isolated CPUs, NUMA, the control group's CPU quota
    load.py        load, busiest processes, hypervisor, container
    heat.py        temperature, throttling, power supply, a Jetson's power mode
    memory.py      memory, swap, huge pages, address randomisation, disk
    counters.py    energy and performance counters that this user may not read
    live.py        the clock and one second of work, measured
    left_over.py   settings that a killed run has not put back
    examine.py     all of them

    settings.py    what can be changed, and which files that takes
    journal.py     what has to be put back, on disk
    change.py      changing files and putting them back
    foreground.py  the user's command, and the signals meanwhile

A check is a function of a :class:`~hwbench.doctor.subject.Subject` that returns one answer, or None where the question
has no meaning. Thresholds stand beside their check; they are rules of thumb. Checks change nothing; only
:mod:`~hwbench.doctor.change` does, and only what was asked for.
"""
