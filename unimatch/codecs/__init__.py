"""Bytes to pixels and back: images, labels and volumes. Knows no shard and no sample.

- decode, encode: whole files; opening: files of other programs; part, region: a part of one, without the rest
- restart (with jpeg_layout and huffman), tiles: files of which a part can be decoded
- rasters: bands of GeoTIFF and others, what they mean: bands
- volumes, volume_files: medical data; picture, sheet: pictures for people; compiled: loops as machine code
"""

import cv2

# One thread, for all of this package and before any data worker is forked: a forked process that touches the
# thread pool which its parent had started hangs for ever. More would only compete with the workers anyway.
# Every module that calls OpenCV imports something of this room; tests/unit/test_imports.py holds it to that.
cv2.setNumThreads(1)
