"""Training: spec + data -> exports/<name>/<version>/. One file per recipe; what several files share lies
in the folders.
"""
