"""`hello`: a function that answers HTTP requests.

`wit_world` is generated from `wit` when the component is built; README.md says how your editor gets to see it.
"""

import os

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam

from greeting import greet

# The most that is read at once, and the most that one write may take.
READ_BYTES = 64 * 1024
WRITE_BYTES = 4096


class IncomingHandler(exports.IncomingHandler):
    """The `wasi:http/incoming-handler` of the component."""

    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        # The function's `config` is its environment.
        status, text = greet(os.environ.get("GREETING", "Hello"), read(request))
        answer(response_out, status, text.encode())


def read(request: IncomingRequest) -> bytes:
    """The whole body of a request."""
    chunks = []
    with request.consume() as body, body.stream() as stream:
        while True:
            try:
                chunks.append(stream.blocking_read(READ_BYTES))
            except Err as error:
                if isinstance(error.value, StreamError_Closed):
                    return b"".join(chunks)
                raise


def answer(response_out: ResponseOutparam, status: int, content: bytes) -> None:
    """Answers with JSON."""
    response = OutgoingResponse(Fields.from_list([("content-type", b"application/json")]))
    response.set_status_code(status)
    body = response.body()
    ResponseOutparam.set(response_out, Ok(response))
    with body.write() as stream:
        for start in range(0, len(content), WRITE_BYTES):
            stream.blocking_write_and_flush(content[start : start + WRITE_BYTES])
    OutgoingBody.finish(body, None)
