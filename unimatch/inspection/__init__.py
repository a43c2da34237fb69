"""What is in a shard set, or in tars of other programs, and what is wrong with it.

- check: every sample read and counted, a sheet of them; duplicates: images that occur twice
- check_labels: the same of a label set
- foreign: tars that another program wrote
"""
