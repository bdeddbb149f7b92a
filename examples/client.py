"""A client: plays one episode, asking a served policy for every action.

marina serve river --background && python client.py river environment:River-v0
"""

import os
import sys

import gymnasium

from marina.client import Client
from marina.core.errors import RequestError


def play(client: Client, model: str, environment: str, seed: int = 0) -> float:
    """The return of one episode. Raises a RequestError that says whose fault a failed request is."""
    env, total, ended = gymnasium.make(environment), 0.0, False
    observation, _ = env.reset(seed=seed)
    while not ended:
        answer = client.predict(model, {"observation": observation.tolist()})
        observation, reward, terminated, truncated, _ = env.step(answer["action"])
        total, ended = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    with Client(int(os.environ.get("MARINA_PORT_BASE", "8080")), timeout=5, retries=2) as client:
        try:
            print(f"return {play(client, *sys.argv[1:3]):.3g}")
        except RequestError as error:
            sys.exit(f"{sys.argv[1]} gave no answer: {error}")
