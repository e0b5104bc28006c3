"""Networks as graphs: capture, merge, cut, reach, cost."""
