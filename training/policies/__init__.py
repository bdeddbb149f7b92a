"""What the recipes of policies share: experience, learning, networks, and the graphs that are served."""
