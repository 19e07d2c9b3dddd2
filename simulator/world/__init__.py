"""State of the simulated Meld account: connections, duplicate groups, and Meld's rules for their transitions."""
