"""HTML pages of one file that ask no host for anything: what boards and reports have in common.

document puts a page together; shared.css and shared.js are the look, the tables and the plots of all of them.
"""
