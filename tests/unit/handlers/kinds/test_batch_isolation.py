"""A bad request fails alone: every kind of handler with the whole corpus, and with random mixtures of
requests.
"""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.runtime.golden import difference
from tests.support import client_habits
from tests.support.bad_inputs import bad, corpus, good, refused_in_front
from tests.support.good_inputs import instance
from tests.support.refusals_page import is_listed
from tests.support.sent_requests import JSON, Bad, Sent
from tests.support.served_kinds import CLIENT_ERRORS, KINDS, Served, served_kind
from tests.support.strange_requests import strange
from tests.support.strategies import tried


@pytest.fixture(scope="module", params=KINDS)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Served]:
    """Each kind of handler with an untrained graph, as an archive would have it."""
    return request.param, served_kind(request.param, tmp_path_factory.mktemp(request.param))


def test_every_bad_request_is_refused_with_its_status_and_type(served: tuple[str, Served]) -> None:
    kind, one = served
    found = {}

    for request in bad(kind):
        status, answer = one.alone(request)
        keys = answer.keys() - {"error"}  # v2's alone
        refused = status == request.status and keys == {"code", "type", "message", "request_id"}
        refused = refused and answer.get("error", answer["message"]) == answer["message"]
        told = refused and (answer["code"], answer["type"], answer["request_id"]) == (
            status,
            request.type,
            "id-0",
        )
        if not told or not 10 < len(answer["message"]) < 600 or "Traceback" in answer["message"]:
            found[request.name] = (status, answer)

    assert found == {}


def test_the_page_of_refusals_has_every_message_of_the_corpus(served: tuple[str, Served]) -> None:
    kind, one = served

    messages = {one.alone(request)[1]["message"] for request in bad(kind)}

    assert {message for message in messages if not is_listed(message)} == set()


def test_every_good_request_is_answered(served: tuple[str, Served]) -> None:
    kind, one = served

    assert {request.name: one.alone(request) for request in good(kind) if one.alone(request)[0] != 200} == {}


def test_a_clients_habits_change_no_answer(served: tuple[str, Served]) -> None:
    """A byte-order mark, compression, another base64 or another name: the answer is the plain request's."""
    kind, one = served
    plain = one.alone(Sent("plain", instance(kind).encode(), (JSON,)))[1]
    several = ("instances", "tensor")
    habits = [sent for sent in client_habits.good(kind) if not any(word in sent.name for word in several)]

    found = {sent.name: difference(plain, one.alone(sent)[1]) for sent in habits}

    assert len(found) > 10
    assert {name: words for name, words in found.items() if words} == {}


def test_in_every_batch_bad_requests_fail_alone(
    served: tuple[str, Served],
) -> None:
    """In every batch the bad requests fail alone, and the good get the answers that they get alone."""
    kind, one = served
    everything: list[Sent] = [*bad(kind), *good(kind) * 5]
    random.Random(0).shuffle(everything)
    alone = {request.name: one.alone(request) for request in everything}

    mixed = [
        found
        for start in range(0, len(everything), 12)
        for found in one.mixed_up(everything[start : start + 12], alone)
    ]

    assert mixed == []


@tried(40)
@given(data=st.data())
def test_any_mixture_in_any_order_is_answered_as_each_is_alone(
    served: tuple[str, Served], data: st.DataObject
) -> None:
    kind, one = served
    known = st.sampled_from(good(kind)) | st.sampled_from(bad(kind))
    drawn_ = data.draw(st.lists(known | strange(kind), min_size=1, max_size=8))
    requests = [
        Sent(f"{index}", sent.body, sent.headers, sent.kinds, sent.parts, sent.method, sent.path)
        for index, sent in enumerate(drawn_)
    ]
    requests = [
        sent if isinstance(sent, Bad) and sent.row is not None else new
        for sent, new in zip(drawn_, requests, strict=True)
    ]

    alone = {request.name: one.answers([request])[0] for request in requests}

    assert {status for status, _ in alone.values()} <= CLIENT_ERRORS | {200}
    assert one.mixed_up(requests, alone) == []


def test_corpus_is_complete_and_names_what_torchserve_refuses() -> None:
    """The corpus has the size that it claims, and names what TorchServe refuses by itself."""
    assert len(corpus()) > 1000
    assert all(len(bad(kind)) > 400 for kind in KINDS)
    assert len(refused_in_front()) > 8
    assert len({(one.content(), one.method, one.path, one.kinds) for one in corpus()}) == len(corpus())
