"""What `tools/bench.py` measures: cases that are run in turns, so that their ratios mean something."""
