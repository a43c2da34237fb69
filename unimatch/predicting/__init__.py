"""What predict is given, and what it writes."""
