"""No tracker: numbers go to the run directory only."""
