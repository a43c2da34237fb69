"""Bytes to pixels and back: images, labels and volumes. Knows no shard and no sample."""

import cv2

# One thread, for all of this package and before any data worker is forked: a forked process that touches the
# thread pool which its parent had started hangs for ever. More would only compete with the workers anyway.
# Every module that calls OpenCV imports something of this room; tests/unit/test_imports.py holds it to that.
cv2.setNumThreads(1)
