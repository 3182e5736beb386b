"""What is deployed says what is so: compose.yaml, the Dockerfile, nginx's file and the page about them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from bench.cluster import site
from chat.checks import LONGEST_HEARTBEAT
from chat.database import CONNECTIONS
from chat.transport.upload import AROUND
from tests.nginx import NGINX
from tests.test_settings_doc import ROOT, documented

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("web", "worker", "migrate")
PASSWORDS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD"}  # of the servers themselves, parts of our settings
MAY_BE_EMPTY = {"METRICS_TOKEN", "CHAT_PRICES", "LOG_LEVEL"}
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PAGE = (ROOT / "docs" / "deploy.md").read_text()


def test_compose_has_two_of_each_and_what_they_need() -> None:
    assert set(SERVICES) == {*OURS, "nginx", "postgres", "redis"}
    assert [SERVICES[name]["deploy"]["replicas"] for name in ("web", "worker")] == [2, 2]
    for name in OURS:
        assert set(SERVICES[name]["depends_on"]) <= set(SERVICES)
        assert SERVICES[name]["command"][:2] == ["python", "manage.py"]
    assert set(COMPOSE["volumes"]) == {"postgres", "media"}


def test_what_people_attach_is_kept_and_reached_by_servers_and_workers() -> None:
    for name in ("web", "worker"):
        assert SERVICES[name]["volumes"] == ["media:/var/chat/media"]
    assert "VAR_DIR=/var/chat " in DOCKERFILE
    assert re.search(r"(?m)^RUN mkdir /var/chat/media && chown chat .*/var/chat/media$", DOCKERFILE)


def test_nginx_lets_files_through() -> None:
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", (ROOT / "deploy" / "nginx.conf").read_text())
    assert int(megabytes) * 1_048_576 > settings.CHAT_FILE_BYTES + AROUND


@pytest.mark.parametrize("name", OURS)
def test_what_compose_sets_is_a_setting(name: str) -> None:
    assert set(SERVICES[name]["environment"]) <= set(documented())


def test_what_compose_asks_for_is_known_and_without_it_nothing_starts() -> None:
    text = re.sub(r"(?m)^\s*#.*$", "", (ROOT / "compose.yaml").read_text())
    asked = re.findall(r"(?<!\$)\$\{?(\w+)([^}]*)\}?", text)
    assert {name for name, _ in asked} <= set(documented()) | PASSWORDS
    for name, otherwise in asked:
        assert otherwise.startswith(":-" if name in MAY_BE_EMPTY else ":?Set "), f"{name} may be empty"


def test_no_secret_is_written_down() -> None:
    for line in (DOCKERFILE + (ROOT / "compose.yaml").read_text()).splitlines():
        for name in ("SECRET_KEY", "ANTHROPIC_API_KEY", *PASSWORDS):
            value = re.search(rf"\b{name}(?:=|: )(\S+)", line)
            assert value is None or value[1].startswith(("${", "only-while-this-image-is-built")), line


def test_processes_have_longer_to_end_than_they_take() -> None:
    for name in ("web", "worker"):
        grace = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace >= float(SERVICES[name]["environment"]["CHAT_DRAIN_SECONDS"]) + 10


def test_postgresql_has_room_for_all_of_them() -> None:
    web, worker = CONNECTIONS + settings.DATABASE_POOL, CONNECTIONS + 5
    room = int(re.findall(r"max_connections=(\d+)", " ".join(SERVICES["postgres"]["command"]))[0])
    assert 2 * (2 * web + 2 * worker) + 10 <= room, "old and new processes are there together during a deploy"
    assert f"web × {web - settings.DATABASE_POOL} + web × `DATABASE_POOL` + worker × {worker}" in PAGE


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", DOCKERFILE) for name in line.split()[:-1]}
    assert copied == let_through
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_is_made_as_it_says(tmp_path: Path) -> None:
    """The step that runs our code, with what is copied and nothing else."""
    for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", DOCKERFILE):
        for name in line.split()[:-1]:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tmp_path)
    found = re.search(r"(?m)^RUN (SECRET_KEY=(?:.|\\\n)*?--verbosity 0)", DOCKERFILE)
    assert found is not None
    command = found[1].replace("\\\n", " ").replace("/venv/bin/python", sys.executable)
    command = command.replace("/var/chat", str(tmp_path / "var"))
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "var" / "static" / "staticfiles.json").exists()


def test_the_image_does_not_run_as_root_and_installs_what_is_locked() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"(?m)^USER (?!root)\w+$", last)
    assert "--require-hashes -r requirements.txt" in DOCKERFILE
    assert re.search(r"(?m)^HEALTHCHECK ", last)


def test_nginx_waits_longer_than_a_heartbeat_takes() -> None:
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for name in ("proxy_read_timeout", "proxy_send_timeout"):
        (seconds,) = re.findall(rf"{name} (\d+)s;", text)
        assert float(seconds) >= LONGEST_HEARTBEAT


def test_nginx_takes_its_file(tmp_path: Path) -> None:
    if NGINX is None:
        pytest.skip("nginx is not installed: make packages")
    (tmp_path / "site.conf").write_text(site("127.0.0.1:8080", ["127.0.0.1:8001", "127.0.0.1:8002"]))
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; events {{ }} http {{ access_log off; include {tmp_path}/site.conf; }}"
    )
    command = [NGINX, "-t", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "stderr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "syntax is ok" in done.stderr, done.stderr


def test_the_page_names_only_settings_there_are() -> None:
    named = set(re.findall(r"`((?:CHAT|DATABASE|REDIS|HSTS|ALLOWED|ANTHROPIC)_[A-Z_]+)`", PAGE))
    assert named <= set(documented()) | PASSWORDS
