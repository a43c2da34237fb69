"""What predict, rank and prelabel are given, and what they write.

- inputs, reading, scenes: files of a folder, as a run reads them; sources: these, or samples, by chunks
- predictor, ensembles, scales, passes: networks that images go through
- folder, output, results, writers: files of what is predicted; journal, progress: how far that is
- candidates, looks, ranking: what a network makes of images, and which of them to label
- prelabels: what it sees in them as shapes that people edit
- label_sets: labels of samples of a shard set; stage_labels: between the stages of a run
"""
