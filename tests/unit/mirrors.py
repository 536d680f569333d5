"""A server on loopback that behaves as mirrors do, for the tests that fetch."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Mirrors:
    """Paths and what they answer; `requests` is what was asked for: (path with query, Range or None)."""

    def __init__(self):
        self.files, self.ways, self.requests = {}, {}, []
        #: Bytes after which a server breaks off or stalls, and for how long the latter.
        self.cut, self.pause = 1000, 30
        self.ended = threading.Event()
        mirrors = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                mirrors.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True

    def add(self, path, data=b"", way="good"):
        """Answer `path` with `data` in a way of the methods below; returns the address."""
        self.files[path], self.ways[path] = data, way
        return self.address(path)

    def address(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def answer(self, handler):
        path = urlsplit(handler.path).path
        self.requests.append((handler.path, handler.headers.get("Range")))
        if path not in self.files:
            handler.send_error(404)
            return
        with contextlib.suppress(ConnectionError):
            getattr(self, self.ways[path])(handler, self.files[path])

    def send(self, handler, data, status=200, **headers):
        handler.send_response(status)
        headers.setdefault("Content_Length", len(data))
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()

    def good(self, handler, data, etag='"one"'):
        """With ranges, as a static server has them."""
        asked = handler.headers.get("Range")
        same = handler.headers.get("If-Range") in (None, etag)
        if asked and same:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.send(handler, b"", 416, Content_Range=f"bytes */{len(data)}", ETag=etag)
                return
            where = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(handler, data[start:], 206, Content_Range=where, ETag=etag)
            handler.wfile.write(data[start:])
            return
        self.send(handler, data, ETag=etag)
        handler.wfile.write(data)

    def other(self, handler, data):
        """Another file of the same name."""
        self.good(handler, data, '"two"')

    def no_ranges(self, handler, data):
        self.send(handler, data)
        handler.wfile.write(data)

    def breaks_once(self, handler, data):
        """Breaks off, the first time it is asked."""
        if handler.headers.get("Range"):
            self.good(handler, data)
            return
        self.send(handler, data, ETag='"one"')
        handler.wfile.write(data[: self.cut])
        handler.wfile.flush()
        handler.close_connection = True

    def breaks(self, handler, data):
        """Breaks off every time at the same place, and knows no ranges."""
        self.send(handler, data)
        handler.wfile.write(data[: self.cut])
        handler.close_connection = True

    def short(self, handler, data):
        """Cut short before it came to the server, which finds nothing wrong."""
        self.no_ranges(handler, data[: self.cut])

    def endless(self, handler, data):
        """Without a length: the end of the connection is the end of the file."""
        self.send(handler, data, Content_Length=None, Connection="close")
        handler.wfile.write(data)
        handler.close_connection = True

    def stalls(self, handler, data):
        self.send(handler, data, ETag='"one"')
        handler.wfile.write(data[: self.cut])
        handler.wfile.flush()
        self.ended.wait(self.pause)
        handler.close_connection = True

    def silent(self, handler, data):
        """Takes the request, and says nothing."""
        self.ended.wait(self.pause)
        handler.close_connection = True

    def page(self, handler, data):
        """A web page with status 200, as of a link that is dead."""
        self.send(handler, data, Content_Type="text/html; charset=utf-8")
        handler.wfile.write(data)

    def redirect(self, handler, data):
        """To the path that is the file's content."""
        self.send(handler, b"", 302, Location=data.decode())

    def busy(self, handler, data):
        """Out of order the first time."""
        if sum(path == handler.path for path, _ in self.requests) == 1:
            self.send(handler, b"", 503)
        else:
            self.good(handler, data)


@contextlib.contextmanager
def running_mirrors():
    """A server of Mirrors, which ends with the block."""
    mirrors = Mirrors()
    thread = threading.Thread(target=mirrors.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield mirrors
    finally:
        mirrors.ended.set()
        mirrors.server.shutdown()
        mirrors.server.server_close()
