"""What is in a shard set, or in tars of other programs, and what is wrong with it.

- check: every sample read and counted, a sheet of them; duplicates: images that occur twice
- foreign: tars that another program wrote
"""
