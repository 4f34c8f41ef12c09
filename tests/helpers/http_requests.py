"""Requests to a server of this machine, by the standard library."""

import http.client
import json
import os
import subprocess
import sys
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


def serving(folder, *flags, **streams) -> subprocess.Popen:
    """The serve command on a free port, one thread, without the Hub; its address is the first line it prints."""
    command = [
        sys.executable,
        "-m",
        "modeling_resformer.commands.serve",
        str(folder),
        "--port",
        "0",
        "--cpu-threads",
        "1",
        *flags,
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **streams)
