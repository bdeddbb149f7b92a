"""Models made elsewhere: their files, their code and what they say of themselves."""
