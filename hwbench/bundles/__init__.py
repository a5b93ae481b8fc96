"""An engine with all that is known about it, in a folder or in one file: written, checked, read.

    NAME/ or NAME.hwbundle
        manifest.json       what it is, from what, for what, with what (hwbench.records.bundle)
        engine/...          what the runtime is given to read
        inputs.npz          example inputs
        expected.npz        what the engine put out for them on the machine that built it
        run_example.py      runs it with the runtime and numpy alone
        LICENSE.model       licence of the source model, where it was given
        verification.json   where it has been run over data
        SHA256SUMS          of all of these, for ``sha256sum -c``

``layout`` has the names and limits, ``container`` opens a folder or a zip file alike, ``reader`` checks and unpacks,
``writer`` writes. The checksums tell damage, and tampering by who does not know how they are made; they are no
signature.
"""
