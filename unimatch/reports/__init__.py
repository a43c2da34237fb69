"""What a run did, as one page.

runs reads its folder, compared holds runs against each other, measured asks its network, samples shows where
that is right and wrong, fed shows what it learnt from, look finds out all of this, page puts it together.
"""
