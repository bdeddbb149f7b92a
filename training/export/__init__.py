"""Trained model -> exports/<name>/<version>/: the only writer."""
