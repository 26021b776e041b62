"""The trained digit network, its held-out test set, and the script that made both."""
