"""Training of the street pipeline: four heads on one trunk, from one label map a picture."""
