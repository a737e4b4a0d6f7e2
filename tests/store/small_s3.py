"""A server that speaks as much of S3 as pyarrow's client asks of it, in this process."""

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["SmallS3", "small_s3"]

Answer = tuple[int, bytes]


class SmallS3:
    """What it holds, and what was asked of it."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {"bucket": {}}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.asked: list[str] = []
        self.refuses: Callable[[str, str], Answer | None] = lambda _method, _key: None
        self.port = 0

    def address(self, place: str = "bucket/runs") -> str:
        """The address of a place in it."""
        return f"s3://{place}?endpoint_override=127.0.0.1:{self.port}&scheme=http&region=here"

    def error(self, status: int, code: str) -> Answer:
        """An answer as S3 gives it."""
        return status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()

    def answer(self, method: str, target: str, body: bytes) -> Answer:
        """What S3 would answer."""
        parts = urlsplit(target)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        self.asked.append(f"{method} {key}")
        if (refusal := self.refuses(method, key)) is not None:
            return refusal
        if bucket not in self.buckets:
            return self.error(404, "NoSuchBucket")
        objects = self.buckets[bucket]
        if "uploads" in query or "uploadId" in query:
            return self._in_parts(method, objects, key, query, body)
        if not key:
            return self._listed(objects, query) if method == "GET" else (200, b"")
        return self._of_one(method, objects, key, body)

    def _of_one(self, method: str, objects: dict[str, bytes], key: str, body: bytes) -> Answer:
        if method == "PUT":
            objects[key] = body
            return 200, b""
        if method == "DELETE":
            objects.pop(key, None)
            return 204, b""
        return (200, objects[key]) if key in objects else self.error(404, "NoSuchKey")

    def _in_parts(
        self,
        method: str,
        objects: dict[str, bytes],
        key: str,
        query: dict[str, list[str]],
        body: bytes,
    ) -> Answer:
        if "uploads" in query:
            upload = f"upload-{len(self.parts)}"
            self.parts[upload] = {}
            return 200, (
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                "</InitiateMultipartUploadResult>"
            ).encode()
        parts = self.parts[query["uploadId"][0]]
        if method == "PUT":
            parts[int(query["partNumber"][0])] = body
        elif method == "POST":
            objects[key] = b"".join(parts[number] for number in sorted(parts))
            return 200, b"<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        return 200, b""

    def _listed(self, objects: dict[str, bytes], query: dict[str, list[str]]) -> Answer:
        prefix = query.get("prefix", [""])[0]
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, body in sorted(objects.items())
            if key.startswith(prefix)
        )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
        return 200, text.encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: SmallS3

    def _do(self) -> None:
        status, body = self.held.answer(self.command, self.path, self._body())
        span = self.headers.get("Range")
        if status == 200 and span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            body, status = body[int(first) : int(last) + 1], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()[:32]}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = _unchunked(self.rfile)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        is_signed = "aws-chunked" in (self.headers.get("Content-Encoding") or "")
        return _unchunked(io.BytesIO(data)) if is_signed and data else data

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _do  # noqa: N815 - http.server's names


def _unchunked(stream: io.BufferedIOBase) -> bytes:
    """What chunks hold, each after a line with its size; lines after the last one are skipped."""
    whole = []
    while size := int(stream.readline().partition(b";")[0], 16):
        whole.append(stream.read(size))
        stream.readline()
    while stream.readline().strip():
        pass
    return b"".join(whole)


@contextmanager
def small_s3() -> Iterator[SmallS3]:
    """The server, while inside."""
    held = SmallS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"held": held}))
    server.daemon_threads = True
    held.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
