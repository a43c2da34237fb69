"""What predict is given, and what it writes.

- inputs, results, scenes: files of a folder, and pictures and rasters of class ids
- label_sets: labels of samples of a shard set; scales: at several sizes; stage_labels: between the stages of
  a run
"""
