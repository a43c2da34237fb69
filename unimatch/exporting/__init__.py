"""A trained network as one file for other programs.

graph (stored pixels to class ids) -> formats (ONNX, torch.export, TorchScript) -> quantize (int8), checked
against the network itself by `compare`; description is what the file says about itself.
"""
