"""Geometry and colours of a sample, on the CPU or on the device.

- base: which views are made of a sample, by which keys; what the three kinds of data share
- natural, change, medical: photographs, pairs of dates, slices: their settings and what is theirs
- crop, colors, box: where a crop is drawn, how colours are changed, what is pasted
- ops, resize: pixels; bands: the same of any number of channels
- on_device: strong views of a batch; masks: boxes and padding as masks
"""
