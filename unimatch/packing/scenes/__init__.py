"""Procedural street scenes with exact labels, drawn from a key.

What makes them hard with few labels: class colours overlap (a house, a car, a sign and a coat may all be red;
the sky may have the colour of the road), every scene has a light of its own, from a purple dusk to washed-out
noon, objects hide each other and differ in size. Shape, texture and place give the class, and a dozen scenes
show only a fraction of the looks.
"""
