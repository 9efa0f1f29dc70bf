"""Core and edge as processes of their own, as operators run them, and one collector for both."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

from tests.support.otlp import collecting
from tests.support.server import CONFIG, KEY, running_server


def test_both_processes_send_their_spans_before_they_end(tmp_path: Path) -> None:
    with collecting() as collector:
        config = f'{CONFIG}\n[tracing]\nenabled = true\nendpoint = "{collector.url}"\n'
        with running_server(tmp_path / "core", config=config, arguments=("core",)) as core:
            arguments = ("edge", "--core", core.target)
            with running_server(tmp_path / "edge", config=config, arguments=arguments) as edge:
                body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hello"}]}).encode()
                headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
                request = urllib.request.Request(f"{edge.url}/v1/chat/completions", body, headers)
                with urllib.request.urlopen(request, timeout=20) as response:
                    assert response.status == 200
    server, run, attempt = collector.only("SERVER"), collector.only("INTERNAL"), collector.only("CLIENT")
    assert [run.parent, attempt.parent] == [server.id, run.id]
    assert len(collector.bodies) == 2


def test_a_process_with_a_dead_collector_ends(tmp_path: Path) -> None:
    with collecting() as collector:
        pass  # nobody listens there any more
    config = f'{CONFIG}\n[tracing]\nenabled = true\nendpoint = "{collector.url}"\n'
    with running_server(tmp_path, config=config) as server:
        body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hello"}]}).encode()
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.url}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            assert response.status == 200
    assert server.process.returncode == 0
    assert server.log.read_text().count("traces cannot be delivered") == 1
