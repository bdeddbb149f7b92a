"""How a training is carried out, apart from what is learnt: where it stands after a kill, on how many devices it runs."""
