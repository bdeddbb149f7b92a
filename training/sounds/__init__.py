"""What the recipes for sounds share: features inside the graph, networks, augmentation, reports."""
