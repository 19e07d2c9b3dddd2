"""The simulated world: connections, duplicate groups, and the rules by which Meld changes them."""
