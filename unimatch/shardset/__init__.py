"""A shard set in a folder or behind a URL: what shards/FORMAT.md says, and who may read it.

- archive: a set that is open, and its samples; files: its open shards; label_set: labels without images
- index, names, key_list: what the files say and what they are called
- writer, scan: a set made, and an index made for tars that are there
- remote, patience, background, cache: a set behind a URL, and the node's copy of it
"""
