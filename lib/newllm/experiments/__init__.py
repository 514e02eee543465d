"""Arms, trials and comparisons of them."""
