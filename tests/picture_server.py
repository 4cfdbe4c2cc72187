"""A real HTTP server on this machine whose every path answers as a test says."""

import contextlib
import io
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from odmt.config import PrepareConfig
from odmt.features.downloads import downloaded_files
from odmt.features.fetching import Fetcher


def png(colour, size=(4, 3)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


RED = png("red")
HTML = b"<!DOCTYPE html><html><body>gone</body></html>"
DRIPS = 600  # parts 0.05 s apart: 30 s, far beyond every deadline of these tests
SOON = 10.0  # seconds: long before that


class PictureServer(ThreadingHTTPServer):
    """Answers a path by its entry in ``routes``, or the next one of a list; keeps what was asked, and when."""

    daemon_threads = True
    block_on_close = False
    scheme = "http"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.routes = {}
        self.asked = []
        self.times = []
        self.headers = []
        self.num_connections = 0
        self.lock = threading.Lock()

    @property
    def root(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    def url(self, path):
        return f"{self.root}/{path}"

    def serve(self, path, *routes):
        """Let a path answer with these, one after the other, the last one for ever; return its URL."""
        self.routes[path] = list(routes)
        return self.url(path)

    def handle_error(self, request, client_address):
        """Say nothing: a client that hangs up in mid-answer is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.num_connections += 1

    def do_GET(self):
        path = self.path.rpartition("/")[2]
        with self.server.lock:
            self.server.asked.append(path)
            self.server.times.append(time.monotonic())
            self.server.headers.append(dict(self.headers))
            routes = self.server.routes.get(path, [answer(b"", status=404)])
            route = routes.pop(0) if len(routes) > 1 else routes[0]
        route(self)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    with PictureServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def answer(body, status=200, **headers):
    """Return a route that answers with a whole body; underscores in names of headers are hyphens."""

    def route(handler):
        handler.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return route


def redirect(location, status=302):
    return answer(b"", status, Location=location)


def raw(*parts, every=0.0):
    """Return a route that sends bytes as they are, waiting before each part but the first, and then hangs up."""

    def route(handler):
        handler.close_connection = True
        for index, part in enumerate(parts):
            if index:
                time.sleep(every)
            handler.wfile.write(part)

    return route


def head(*lines):
    return b"".join(line + b"\r\n" for line in (b"HTTP/1.1 200 OK", *lines, b""))


def fetch(*urls, stop=None, base_wait_seconds=0.01, **settings):
    """Fetch the picture of an item as one of the threads would."""
    settings = PrepareConfig(**{"download_retries": 2, "download_timeout_seconds": 5.0} | settings)
    stop = stop or threading.Event()
    with Fetcher(settings, "tests", base_wait_seconds, stop, threading.Lock()) as fetcher:
        return fetcher.fetch(urls)


def contents(folder):
    """Return the bytes of the downloaded pictures by item id."""
    return {item: [path.read_bytes() for path in paths] for item, paths in downloaded_files(folder).items()}
