"""Load test: users who send a model's golden samples and look at the answers.

    marina loadtest digits --users 8 --seconds 20          headless, judged by the spec's service level
    MARINA_MODEL=digits locust -f loadtest/locustfile.py   with Locust's own web page

MARINA_MODEL names the model, MARINA_PORT the inference port (8080). A user sends a sample, waits for the
answer, checks it against the golden one, and sends the next. A wrong answer is a failure like an error is.
"""

import itertools
import os
import random
from typing import ClassVar

from locust import FastHttpUser, constant, events, task

from handlers.runtime.export import GoldenSample
from handlers.runtime.golden import difference
from marina.client import Client
from marina.core import spec
from marina.core.errors import MarinaError
from marina.pipeline import readiness

PORT = int(os.environ.get("MARINA_PORT", "8080"))
MODEL = os.environ.get("MARINA_MODEL", "digits")
order = itertools.count()


@events.init.add_listener
def read_model(**_: object) -> None:
    """Read the samples once, before the first user; an unknown model ends the test with its reason."""
    try:
        model = spec.load(MODEL)
        Caller.samples = readiness.golden_samples(model)
        Caller.path = f"/predictions/{model.name}/{model.version}"
        Caller.client_of_tokens = Client(PORT)
    except MarinaError as error:
        raise SystemExit(str(error)) from error


class Caller(FastHttpUser):
    """Sends one sample after the other, as fast as the answers come."""

    host = f"http://127.0.0.1:{PORT}"
    wait_time = constant(0)
    samples: ClassVar[list[GoldenSample]] = []
    path: ClassVar[str] = ""
    client_of_tokens: ClassVar[Client]

    def on_start(self) -> None:
        """Every user begins at another sample."""
        self.mine = self.samples[:]
        random.Random(next(order)).shuffle(self.mine)
        self.turn = itertools.cycle(self.mine)

    @task
    def ask(self) -> None:
        """Send the next sample and look at the answer."""
        sample = next(self.turn)
        token = f"Bearer {self.client_of_tokens.token('inference')}"
        headers = {"Content-Type": sample["content_type"], "Authorization": token}
        with self.client.post(
            self.path,
            data=sample["body"],  # type: ignore[arg-type]  # bytes go too
            headers=headers,
            name=MODEL,
            catch_response=True,
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {(answer.text or '')[:200]}")
                return
            problem = difference(sample["answer"], answer.json(), reduced=bool(sample.get("reduced")))
            answer.failure(f"wrong: {problem}") if problem else answer.success()
