"""From the files that people have to a shard set.

- recipe, layout, labels, classes, coco: what a recipe file says and which files it names
- convert, pack, pool, resume, folder: their bytes to members, in processes, and again where it was stopped
- synthetic (with scenes): a set that is drawn instead
- splits, published: which keys are labelled
"""
