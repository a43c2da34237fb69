"""What a step costs on how many devices: computed, measured and predicted.

- cost, footprint: memory and traffic as arithmetic, and a step's activations without taking one; forecast: of
  a configured run
- short_runs, messages, spawn: runs and all-reduces timed on this machine; measured: how that reads
- step_time, calibrate: the model of docs/scaling.md, and its constants as measured; predicted: what
  it says; pace: the hours of a configured run by it
"""
