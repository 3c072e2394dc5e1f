"""The cluster of deploy/docker-compose.yml, under a project name of its own: up, whole, down."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from kourou.core.wire import Code
from tests.chaos.world import Unwell, leader, make_probe_topic
from tests.docker import images
from tests.docker.engine import Engine, NoEngine
from tests.docker.member import Member
from tests.integration.etcd import free_ports
from tests.integration.node import ROOT

FILES = (ROOT / "deploy/docker-compose.yml", Path(__file__).with_name("chaos.yml"))
PREFIX = "kourou-chaos-"
GROUPS = ("broker-a", "broker-b")
NAMESERVERS = "nameserver-1:9876,nameserver-2:9876"
OFFICIAL = "proxy:8081"
PROJECT = "com.docker.compose.project"
CLIENT_OF = "kourou.client-of"  # label of what we add to a project
UP_S = 180
WHOLE_S = 90.0
LOOK_EVERY_S = 0.25


def compose_program() -> list[str]:
    """The plugin, or the program of old."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise NoEngine("there is neither docker compose nor docker-compose (apt install docker-compose)")


class Stack:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.project = f"{PREFIX}{os.getpid()}"
        self._compose = compose_program()
        self.published, http = free_ports(2)
        self._environment = {
            **engine.environment,
            "KOUROU_IMAGE": images.SERVER,
            "KOUROU_ETCD_IMAGE": images.ETCD,
            "KOUROU_PROXY_PORT": str(self.published),
            "KOUROU_PROXY_HTTP_PORT": str(http),
        }
        self.network: Any = None
        self.members: list[Member] = []

    # ---- up and down

    def up(self) -> None:
        self._clear_left_over()
        self._run("up", "--detach", "--no-build")
        self.look()

    def recreate(self, member: Member) -> None:
        """Another container with the same volume, as an upgrade of the image makes it."""
        self._run("up", "--detach", "--no-build", "--no-deps", "--force-recreate", member.service)
        self.look()

    def look(self) -> None:
        """Which containers there are."""
        client = self.engine.client
        self.network = client.networks.get(f"{self.project}_cluster")
        found = client.containers.list(all=True, filters={"label": f"{PROJECT}={self.project}"})
        self.members = sorted((Member(one, self.network) for one in found), key=lambda member: member.service)

    def down(self) -> None:
        self._run("down", "--volumes", "--remove-orphans", "--timeout", "10")

    def _run(self, *arguments: str, project: str = "") -> None:
        files = [part for file in FILES for part in ("--file", str(file))]
        command = [*self._compose, "--project-name", project or self.project, *files, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=UP_S)
        if done.returncode != 0:
            raise Unwell(f"{' '.join(command[-4:])} failed: {(done.stdout + done.stderr)[-1500:]}")

    def _clear_left_over(self) -> None:
        """Of runs that were killed: the process whose number is in the project's name is gone."""
        containers = self.engine.client.containers
        found = {one.labels.get(PROJECT, "") for one in containers.list(all=True, filters={"label": PROJECT})}
        for project in found:
            if project.startswith(PREFIX) and not Path("/proc", project.removeprefix(PREFIX)).exists():
                for client in containers.list(all=True, filters={"label": f"{CLIENT_OF}={project}"}):
                    client.remove(force=True)
                self._run("down", "--volumes", "--remove-orphans", "--timeout", "10", project=project)

    # ---- who is who

    def of(self, service: str) -> Member:
        return next(member for member in self.members if member.service == service)

    def group(self, name: str) -> list[Member]:
        return [member for member in self.members if member.group == name]

    @property
    def brokers(self) -> list[Member]:
        return [member for name in GROUPS for member in self.group(name)]

    async def master(self, group: str) -> Member:
        """Who leads; waits until somebody does."""
        return await leader(self.group(group), group)

    # ---- heal and wait

    def heal(self) -> None:
        for member in self.members:
            member.heal()

    async def whole(self) -> None:
        """Wait until every container does its work, and every group has one master and all members in sync."""
        deadline = time.monotonic() + WHOLE_S
        while True:
            missing = [text for text in await asyncio.gather(*(member.unready() for member in self.members)) if text]
            missing = missing or [text for text in [await self._missing_in(group) for group in GROUPS] if text]
            if not missing:
                return
            if time.monotonic() > deadline:
                raise Unwell(f"not whole after {WHOLE_S:.0f} s: " + "; ".join(missing))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _missing_in(self, group: str) -> str:
        members = self.group(group)
        found = await asyncio.gather(*(member.status() for member in members))
        answers = {member.broker_id: facts for member, facts in zip(members, found, strict=True) if facts is not None}
        if len(answers) < len(members):
            return f"{group}: only {sorted(answers)} answer"
        masters = [number for number, facts in answers.items() if facts["role"] == "master"]
        if len(masters) != 1:
            return f"{group} has masters {masters}"
        replication = answers[masters[0]]["replication"]
        if set(replication["set"]) != set(answers):
            return f"{group}: in sync are {sorted(replication['set'])}"
        streaming = {one["broker_id"] for one in replication["slaves"] if one["streaming"]}
        return "" if streaming >= set(answers) - {masters[0]} else f"{group}: streams to {sorted(streaming)}"

    async def make_probe_topics(self) -> None:
        """One in each group alone, so that a send to it says something about this group."""
        for group in GROUPS:
            await make_probe_topic(self.group(group), group)

    async def same_state(self) -> list[str]:
        """Members of a group come to one log offset, and are the same there, by hash. What is wrong, in words."""
        wrong = []
        for group in GROUPS:
            members = self.group(group)
            deadline = time.monotonic() + WHOLE_S
            while True:
                found = [await member.ask(Code.DIGEST, {}) for member in members]
                offsets = [one and one["offset"] for one in found]
                if None not in offsets and len(set(offsets)) == 1:
                    if any(one and found[0] and one["digest"] != found[0]["digest"] for one in found):
                        wrong.append(f"{group}: states differ at log offset {offsets[0]}: {found}")
                    break
                if time.monotonic() > deadline:
                    wrong.append(f"{group}: members don't come to one log offset: {offsets}")
                    break
                await asyncio.sleep(LOOK_EVERY_S)
        return wrong

    def verify(self, member: Member) -> str:
        """``kourou log verify`` on the volume of a broker that was stopped; what it says when something is wrong."""
        volume = f"{self.project}_{member.service}"
        container = self.engine.client.containers.create(
            images.SERVER, ["log", "verify", "/data"], volumes={volume: {"bind": "/data", "mode": "rw"}}, network_mode="none"
        )
        try:
            container.start()
            status = container.wait(timeout=120)["StatusCode"]
            return "" if status == 0 else f"{member.name}: log verify: {container.logs().decode(errors='replace')}"
        finally:
            container.remove(force=True)

    def memory_mib(self) -> dict[str, float]:
        """Of each container, without the page cache."""
        found = {}
        for container in self.engine.client.containers.list(filters={"label": f"{PROJECT}={self.project}"}):
            memory = container.stats(stream=False, one_shot=True)["memory_stats"]
            facts = memory.get("stats", {})
            cache = facts.get("total_inactive_file", facts.get("inactive_file", 0))
            found[container.labels["com.docker.compose.service"]] = round((memory["usage"] - cache) / (1 << 20), 1)
        return dict(sorted(found.items()))

    def save_logs(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for member in self.members:
            (folder / f"{member.name}.log").write_text(member.log())
