"""Geometry and colours of a sample: crops, strong views, boxes; on the CPU or on the device."""
