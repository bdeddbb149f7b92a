"""What the recipes of generators share: networks with the two programs that serve them, learning, reports."""
