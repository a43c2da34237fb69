"""What feeds a step: who reads what and when, and how it gets to the trainer."""
