"""What predict, rank and prelabel are given, and what they write.

- inputs, passes, results, scenes: files of a folder, and pictures and rasters of class ids
- candidates, looks, ranking: what a network makes of images, and which of them to label
- prelabels: what it sees in them as shapes that people edit
- label_sets: labels of samples of a shard set; scales: at several sizes; stage_labels: between the stages of
  a run
"""
