"""From the files that people have to a shard set.

- recipe, classes: what a recipe file says; layout, globs, names, lists: which files it names
- leftovers, coverage: what is there and not used, and classes without a pixel
- band_settings, survey, rasters: bands of scenes, cut into tiles, with labels on the same grid
- labels, mask_files, unknown_values: mask files to class ids; annotated, drawn: annotation files
- convert, pack, pool, resume, folder: their bytes to members, in processes, and again where it was stopped;
  findings: what there is to tell of them
- synthetic (with scenes): a set that is drawn instead
- splits, published: which keys are labelled
"""
