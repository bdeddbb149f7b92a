"""Networks of policies, with hand-written derivatives where they are small."""
