"""Tables of runs: definition (an experiment file becomes runs), size (steps, hours), progress, jobs (several
at a time), table; results (what a run left), differences (to a baseline), board (a table of those), page (as
HTML, with pictures).
"""
