"""No tracker: the run directory is all there is."""
