"""An object store that speaks S3, in a process of its own on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.parse

import pyarrow.fs as pafs

_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""

# What the server accepts (anything), and what clients must have.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
REGION = "us-east-1"


class ObjectStore:
    """A server with one empty bucket."""

    bucket = "bucket"

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **CREDENTIALS},
        )
        port = self._process.stdout.readline().strip()
        assert port, "the object store did not start"
        self.endpoint = f"http://127.0.0.1:{port}"
        self.new_filesystem().create_dir(self.bucket)

    def new_filesystem(self):
        """A client of pyarrow's."""
        return pafs.S3FileSystem(
            access_key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            endpoint_override=self.endpoint,
            region=REGION,
            allow_bucket_creation=True,
        )

    def storage_options(self):
        """What s3fs needs to know."""
        return {
            "key": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": self.endpoint,
        }

    def uri(self, key):
        """Of an object, with all that pyarrow needs to know but the credentials."""
        query = urllib.parse.urlencode({"endpoint_override": self.endpoint, "region": REGION})
        return f"s3://{self.bucket}/{key}?{query}"

    def put(self, key, data):
        """Store bytes under a key."""
        with self.new_filesystem().open_output_stream(f"{self.bucket}/{key}") as stream:
            stream.write(data)

    def stop(self):
        """End the server."""
        self._process.communicate()
