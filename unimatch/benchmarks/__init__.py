"""What `unimatch bench` measures: cases that are run in turns, so that their ratios mean something."""
