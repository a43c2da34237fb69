"""A run for other people: folder (what is given away of it) and card (what is said of it)."""
