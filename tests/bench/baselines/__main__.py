"""``python -m tests.bench.baselines NAME PORT UPSTREAM_URL``."""

import sys
from importlib import import_module

import uvicorn

if __name__ == "__main__":
    name, port, upstream = sys.argv[1:]
    uvicorn.run(
        import_module(f"tests.bench.baselines.{name}").build(upstream),
        port=int(port),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
