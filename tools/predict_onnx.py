"""Predicts a photograph with a file of `unimatch export`, without unimatch and PyTorch.

python predict_onnx.py FILE.onnx PHOTO OUT.png     (needs onnxruntime, numpy, pillow)
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

file, photo, out = sys.argv[1:]
session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
about = json.loads(session.get_modelmeta().custom_metadata_map["unimatch"])
picture = ImageOps.exif_transpose(Image.open(photo)).convert("RGB")
smaller = (about["input"]["preparation"] or {}).get("downscale", 1)  # as the images that it learnt from
height, width = about["input"]["size"] or (picture.height // smaller, picture.width // smaller)
image = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
ids, confidence = session.run(["ids", "confidence"], {"image": image[None]})
result = Image.fromarray(ids[0])
result.putpalette(bytes(value for color in about["colors"] for value in color))
result.resize(picture.size, Image.Resampling.NEAREST).save(out)
for number in np.unique(ids):
    print(f"{about['classes'][number]:<20} {(ids == number).mean():6.1%}")
print(f"mean confidence {confidence.mean():.3f}")
