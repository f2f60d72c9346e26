"""Peer nchan: a pub/sub module of nginx in C. HTTP POST to publish, WebSocket to watch, messages in shared memory.

Settings, by its documentation and nginx's:

- one worker process for one core; `multi_accept` and a long backlog for a thousand concurrent connects;
- no access log, no compression (`nchan_deflate_message_for_websocket` is off by default);
- `keepalive_requests` above the default of 1000, after which nginx would disconnect the publisher;
- a buffer of 4096 messages per channel for a minute instead of 10 for an hour, so that late and resuming viewers can
  get the whole answer, as with Tokenwire.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from .. import processes
from ..contender import Publisher, Running, Stream
from . import programs

if TYPE_CHECKING:
    from ..contender import Placement

MISSING = "nginx with nchan is not installed: apt-get install nginx libnginx-mod-nchan"

CONFIGURATION = """
load_module {module};
daemon off;
user root;
pid nginx.pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile 20000;
events {{ worker_connections 19000; multi_accept on; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  nchan_shared_memory_size 1024M;
  client_body_temp_path temp;
  proxy_temp_path temp;
  fastcgi_temp_path temp;
  scgi_temp_path temp;
  uwsgi_temp_path temp;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location ~ ^/watch/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
    }}
    location ~ ^/publish/(.+)$ {{
      nchan_publisher http;
      nchan_channel_id $1;
      nchan_message_buffer_length 4096;
      nchan_message_timeout 1m;
    }}
  }}
}}
"""


class Nchan:
    """nginx with nchan of Debian."""

    name = "nchan"

    def missing(self) -> str | None:
        """Return the packages to install; None if they are installed."""
        return None if _module() else MISSING

    def start(self, placement: Placement, streams: int) -> Running:
        """Start an nginx master with one worker; each stream has a channel."""
        nginx, module = programs.find("nginx"), _module()
        if nginx is None or module is None:
            raise RuntimeError(MISSING)
        port = processes.free_port()
        configuration = placement.folder / "nginx.conf"
        configuration.write_text(CONFIGURATION.format(module=module, port=port))
        command = [nginx, "-p", str(placement.folder), "-c", str(configuration), "-e", "stderr"]
        process = processes.start(command, placement.server, placement.folder / "nchan.log")
        process.until(lambda: len(processes.tree(process.pid)) == 2 and processes.listens(port))
        head = "POST /publish/{} HTTP/1.1\r\nHost: bench\r\nContent-Length: {{size}}\r\n\r\n"
        return Running(
            processes={"gateway": processes.tree(process.pid)},
            viewers=("127.0.0.1", port),
            kind="text",
            streams=[Stream(f"/watch/s{n}", publish=(head.format(f"s{n}"), "{text}")) for n in range(streams)],
            publisher=Publisher(("127.0.0.1", port), "http"),
            close=process.close,
        )


def _module() -> Path | None:
    """Return the path of the module; None if nginx or the module is not installed."""
    nginx = programs.find("nginx")
    if nginx is None:
        return None
    built = subprocess.run([nginx, "-V"], capture_output=True, text=True, check=True).stderr
    folder = re.search(r"--modules-path=(\S+)", built)
    module = Path(folder[1] if folder else "/usr/lib/nginx/modules") / "ngx_nchan_module.so"
    return module if module.exists() else None
