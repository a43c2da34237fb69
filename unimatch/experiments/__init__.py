"""Tables of runs: definition (an experiment file becomes runs), size (steps, hours), progress, table."""
