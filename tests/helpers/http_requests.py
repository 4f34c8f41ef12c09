"""Requests to a server of this machine, by the standard library."""

import http.client
import json
import time


def ask(port, method="POST", path="/", body=None, headers=None):
    """One request by the standard library: (status, headers, decoded JSON)."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        content = response.read()
        return response.status, response.headers, json.loads(content) if content else None
    finally:
        connection.close()


def until(happened):
    end = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < end, "it did not happen within two minutes"
        time.sleep(0.05)


def wait_until_loaded(port):
    until(lambda: ask(port, "GET", "/health")[0] == 200)
