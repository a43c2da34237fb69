"""Networks: architecture only, no ranks, no devices, no methods."""
