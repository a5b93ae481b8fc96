"""What would disturb a measurement on this machine, and the cure; some cures can be taken while a command runs.

    subject.py     what every check looks at, read once
    answers.py     ok, info, a warning with its cure, or why it cannot be told
    clocks.py      governor, turbo, power profile, range of the clocks, the clock that times are read from
    cores.py       SMT, isolated CPUs, NUMA, the control group's CPU quota
    load.py        load, busiest processes, hypervisor, container
    heat.py        temperature, throttling, power supply, a Jetson's power mode
    memory.py      memory, swap, huge pages, address randomisation, disk
    gpu.py         an NVIDIA GPU: who else is on it, what holds it back
    jetson.py      a Jetson: clocks held or not, fan, over-current, the memory that it shares
    counters.py    energy and performance counters that this user may not read
    live.py        the clock and one second of work, measured
    left_over.py   settings that a killed run has not put back
    examine.py     all of them

    settings.py    what can be changed, and which changes that takes; gpu_settings.py, jetson_settings.py: of these
    hands.py       how a change is looked at and made: files; gpu_hand.py, jetson_hands.py: through NVML, by nvpmodel
    journal.py     what has to be put back, on disk
    change.py      changing settings and putting them back
    foreground.py  the user's command, and the signals meanwhile
    interrupts.py  signals, where the work is in this process

A check is a function of a :class:`~hwbench.doctor.subject.Subject` that returns one answer, or None where the question
has no meaning. Thresholds stand beside their check; they are rules of thumb. Checks change nothing; only
:mod:`~hwbench.doctor.change` does, and only what was asked for.
"""
