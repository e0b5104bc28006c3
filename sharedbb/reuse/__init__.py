"""Temporal reuse: what changed, what that makes necessary, how far off the rest may be, and keeping it honest."""
