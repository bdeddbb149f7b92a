"""Ordinary requests to a model that makes its answers piece by piece: they take part in the steps of its
streams, so that a long answer holds up no short one, and none waits for a batch to end.
"""

from handlers.protocol.errors import ModelError, TooLarge
from handlers.protocol.events import Item
from handlers.protocol.replies import Reply, reply_of
from handlers.protocol.requests import MAX_INSTANCES, Row
from marina.engines.gateway.answer_streams import StreamLane

IN_STEPS = ("own", "v1")  # protocols; tensors and rows are answered as a batch


async def answer_in_steps(lane: StreamLane, row: Row, request_id: str) -> Reply | None:
    """The whole answer to a request of a model that makes it in pieces; None for one that a batch must answer
    or refuse.

    Raises ServiceUnavailable as `StreamLane.open` does.
    """
    stream = await lane.open(row, request_id, is_background=False, max_instances=MAX_INSTANCES, is_whole=True)
    opened, items = stream.stream, list[Item]()
    try:
        if opened.refusal or opened.protocol not in IN_STEPS:
            return None
        while found := await stream.next_items():
            items += found
    except ModelError as error:
        return reply_of(error, request_id)
    finally:
        stream.end()
    failed = next((item.reply for item in items if item.reply.error), None)
    if failed or not opened.is_list:
        return failed or items[0].reply
    content = b'{"%ss":[%s]}' % (opened.key.encode(), b",".join(item.reply.content for item in items))
    if len(content) > (most := lane.predictor.max_answer_bytes):
        words = (
            f"the answer would have {len(content):,} bytes; {most:,} are sent at most; send fewer instances"
        )
        return reply_of(TooLarge(words), request_id)
    return Reply(content)
