"""Forms: multipart/form-data and application/x-www-form-urlencoded -> fields, as TorchServe reads them.

A part with a file name is a file, and its type says how it is read; every other field stays bytes.
"""

import re
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from handlers.protocol.errors import BadRequest

MAX_FIELDS = 1000
PLAIN_ENCODINGS = (b"", b"binary", b"8bit", b"7bit")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

Fields = dict[str, tuple[bytes, bytes]]  # name -> content and its type, empty where the form says none


def read_urlencoded(body: bytes) -> Fields:
    """The fields of a form as `curl -d` sends it; those without a value are left out.

    Raises BadRequest for a form that can't be read or that has a name twice.
    """
    fields: Fields = {}
    text = body.decode("latin-1")
    if BAD_ESCAPE.search(text):
        raise BadRequest("the form has a '%' that two hexadecimal digits don't follow; write it as %25")
    try:
        pairs = parse_qsl(text, max_num_fields=MAX_FIELDS, encoding="latin-1")
    except ValueError:
        raise BadRequest(f"the form has more than {MAX_FIELDS} fields; send one payload") from None
    for name, value in pairs:
        _put(fields, name, value.encode("latin-1"), b"")
    return fields


def read_multipart(body: bytes, content_type: str) -> Fields:
    """The parts of a form with files. Raises BadRequest as `read_urlencoded` does."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise BadRequest("the form's content type has no boundary; let the HTTP client write that header")
    reader = _PartReader()
    try:
        parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]  # all of one type
        parser.write(body)
    except FormParserError as error:
        raise BadRequest(f"the form can't be read: {error}") from error
    if body and not reader.is_complete:
        raise BadRequest("the form is cut off, or its boundary is not the one that its content type says")
    return reader.fields


class _PartReader:
    """Takes the parser's calls; the body is whole, so that a part is one slice of it or few."""

    def __init__(self) -> None:
        self.fields: Fields = {}
        self.is_complete = False
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        self._content: list[bytes] = []

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_part_data": lambda data, start, end: self._content.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._headers, self._content = {}, []
        if len(self.fields) >= MAX_FIELDS:
            raise BadRequest(f"the form has more than {MAX_FIELDS} parts; send one payload")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _end(self) -> None:
        options = parse_options_header(self._headers.get(b"content-disposition", b""))[1]
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in PLAIN_ENCODINGS:
            raise BadRequest("a part of the form has a content-transfer-encoding; send its bytes as they are")
        is_file = b"filename" in options
        kind = self._headers.get(b"content-type", b"application/octet-stream") if is_file else b""
        name = options.get(b"name", b"").decode("utf-8", "replace")
        _put(self.fields, name, b"".join(self._content), kind.partition(b";")[0].strip())

    def _finish(self) -> None:
        self.is_complete = True


def _put(fields: Fields, name: str, content: bytes, kind: bytes) -> None:
    if not name:
        raise BadRequest("a field of the form has no name; name the payload 'data'")
    if name in fields:
        raise BadRequest(
            f"the form has the field {name[:40]!r} twice; send one payload, or many as a list under "
            "'instances' in JSON"
        )
    fields[name] = (content, kind)
