"""A configuration becomes a run: the objects, the loop, and what is written.

- run_config, run_folder: what a run is asked to do, and where that is kept
- run_data, label_sets, steps: the samples that it names, checked, and how they are cut into steps and
  micro-batches; stages: the runs before it that label samples for it
- build: all objects wired together; resume: as the last checkpoint left them; restore: a trained network
- trainer: the loop; schedule, optim: rates and updates; copies, signals, timing: batches to the device, the
  wish to stop, clocks
- runtime: processes and devices; modes, replicas, zero, fsdp: who holds what; batchnorm: statistics over all
- preflight, watchdog: processes that differ, and one that hangs
- evaluate, checkpoint; start_banner, log, step_log: figures, weights, and what a run tells
- entry: how every command ends
"""
