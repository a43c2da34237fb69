"""From image files to the arrays of a training step."""

import cv2

# One thread, for all of this package and before any data worker is forked: a forked process that touches the
# thread pool which its parent had started hangs for ever. More would only compete with the workers anyway.
cv2.setNumThreads(1)
