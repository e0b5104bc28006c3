"""Other ways to run the same four networks on the same decoded frames, each set up as its documentation recommends."""
