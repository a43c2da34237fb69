"""What feeds a step: who reads what and when, and how it gets to the trainer.

- plan: which sample is in which batch
- load, images: one sample read, decoded and checked; decoded: those kept in memory
- skipping: samples that cannot be read: why, what stands in for them, how many there may be
- training, evaluation: batches
- workers: who makes them ahead: processes (with shared_memory) or threads; stages: where their time goes
- sample: what a training step sees
"""
