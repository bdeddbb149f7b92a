"""Training: spec + data -> exports/<name>/<version>/. One file per way of learning."""
