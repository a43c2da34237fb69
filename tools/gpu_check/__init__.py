"""What a GPU says of unimatch, in one command of nine minutes: bash tools/gpu_check.sh OUT. See docs/gpu.md.

`parts` says what is asked and for how long; `orchestra` runs each part as a process of its own; `results`
is how a part tells what it found, line by line, so that one that is stopped has told something; `report`
makes report.json and report.md of it. `carry` gathers what a machine without a network must be given.
"""
