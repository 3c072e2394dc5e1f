"""RocketMQ: three brokers of one group with a controller in each of three name servers; all times as they are by default.

Not the default: ``allAckInSyncStateSet`` and ``minInSyncReplicas=2``, or an acknowledgement would mean the master alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.failover import remoting
from bench.failover.contestant import BULK, CLIENTS, TOPIC, Cluster
from bench.failover.hosts import Host
from bench.failover.process import Running, until
from bench.node import RUN

PLACES = (Path(os.environ.get("RMQ_LIB", "/nowhere")), Path("/tmp/rocketmq-reference/lib"), RUN / "java/rocketmq-server")
CLIENT_JARS = RUN / "java/rocketmq"
CLASSES = RUN / "java/failover"
GROUP, CLUSTER = "broker-a", "bench-cluster"
OPEN = (
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED", "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED", "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED", "--add-opens=java.base/java.lang=ALL-UNNAMED",
)  # fmt: skip


class RocketmqGroup(Cluster):
    name = "rocketmq"
    server = (
        "Apache RocketMQ 5.3.3, 3 brokers with a controller in each of 3 name servers, allAckInSyncStateSet, minInSyncReplicas 2, "
        "default times (heaps of 512 MiB)"
    )
    client = "official Java client, asynchronous sends, default settings"
    switchover_is = "the controller is asked to elect another master"
    warm_s = 15
    coordinators = "name servers with controllers"

    @classmethod
    def missing(cls) -> str | None:
        if jars() is None:
            return "the server's jars are not installed (bench/setup.sh)"
        if not any(CLIENT_JARS.glob("rocketmq-client-*.jar")):
            return "the Java client is not installed (bench/setup.sh)"
        return None if shutil.which("java") and shutil.which("javac") else "there is no java"

    def start(self) -> None:
        compile_client()
        names = [self.network.host() for _ in range(3)]
        self._names = [host.place() for host in names]
        self._controllers = [host.place() for host in names]
        peers = ";".join(f"n{n}-{place}" for n, place in enumerate(self._controllers))
        for number, host in enumerate(names):
            self.others.append(self._name_server(number, host, peers))
        until(lambda: self._controller() is not None, "rocketmq: the controllers have a leader")
        self._places: list[str] = []
        for number, host in enumerate(self.hosts):
            self.members.append(self._broker(number, host))
        self.settled()
        until(self._topics, "rocketmq: topics are there", pause_s=0.5)

    def _name_server(self, number: int, host: Host, peers: str) -> Running:
        home = self.folder / f"name-{number}"
        home.mkdir()
        config = home / "name.conf"
        config.write_text(
            f"listenPort={self._names[number].rpartition(':')[2]}\nbindAddress={host.address}\nrocketmqHome={home}\n"
            f"kvConfigPath={home}/kv.json\nconfigStorePath={home}/name.properties\nenableControllerInNamesrv=true\n"
            f"controllerDLegerGroup=group1\ncontrollerDLegerPeers={peers}\ncontrollerDLegerSelfId=n{number}\n"
            f"controllerStorePath={home}/controller\n"
        )
        return self._java(host, f"name-{number}", home, "org.apache.rocketmq.namesrv.NamesrvStartup", config, "-Xmx256m")

    def _broker(self, number: int, host: Host) -> Running:
        home = self.folder / f"broker-{number}"
        home.mkdir()
        place, fast = host.place(), host.place()
        port = int(place.rpartition(":")[2])
        while not host.within and not free(port - 2):  # the broker takes the port two below its own, too
            place, fast = host.place(), host.place()
            port = int(place.rpartition(":")[2])
        self._places.append(place)
        config = home / "broker.conf"
        config.write_text(
            f"brokerClusterName={CLUSTER}\nbrokerName={GROUP}\nbrokerIP1={host.address}\nbrokerIP2={host.address}\n"
            f"bindAddress={host.address}\nlistenPort={port}\nhaListenPort={fast.rpartition(':')[2]}\n"
            f"namesrvAddr={';'.join(self._names)}\nenableControllerMode=true\ncontrollerAddr={';'.join(self._controllers)}\n"
            f"allAckInSyncStateSet=true\nminInSyncReplicas=2\nflushDiskType=ASYNC_FLUSH\nautoCreateTopicEnable=false\n"
            f"storePathRootDir={home}/store\nstorePathCommitLog={home}/store/commitlog\ndiskMaxUsedSpaceRatio=95\n"
        )
        return self._java(host, f"broker-{number}", home, "org.apache.rocketmq.broker.BrokerStartup", config, "-Xmx512m")

    def _java(self, host: Host, name: str, home: Path, main: str, config: Path, heap: str) -> Running:
        command = [
            "java", heap, "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=512m", *OPEN, f"-Duser.home={home}",
            f"-Drocketmq.home.dir={home}", "-Dio.netty.tryReflectionSetAccessible=true", "-cp", f"{jars()}/*", main, "-c", str(config),
        ]  # fmt: skip
        return self.run(host, name, *command, env={**os.environ, "ROCKETMQ_HOME": str(home)})

    def _topics(self) -> bool:
        leader = self.leader()
        if leader is None:
            return False
        try:
            for topic in (TOPIC, BULK):
                fields = {
                    "topic": topic, "defaultTopic": "TBW102", "readQueueNums": "4", "writeQueueNums": "4", "perm": "6",
                    "topicFilterType": "SINGLE_TAG", "topicSysFlag": "0", "order": "false",
                }  # fmt: skip
                remoting.ask(self._places[leader], remoting.TOPIC_CREATE, fields)
                for place in self._names:
                    remoting.ask(place, remoting.ROUTE, {"topic": topic})
                for place in self._places:  # slaves hear of it every few seconds
                    remoting.ask(place, remoting.TOPIC_CONFIG, {"topic": topic})
        except (OSError, remoting.Refused):
            return False
        return True

    def where(self) -> str:
        return ";".join(self._names)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        # logs of the client go to its home
        options = [f"-Duser.home={self.folder}", "-Drocketmq.client.logUseSlf4j=false", "-Drocketmq.client.logLevel=ERROR"]
        command = ["java", "-Xmx512m", *options, "-cp", f"{CLASSES}:{CLIENT_JARS}/*", "RmqFailover", *arguments]
        return command, dict(os.environ)

    # ---- who leads

    def _controller(self) -> str | None:
        """The controllers' leader, as most of them see it."""
        for place in self._controllers:
            try:
                fields, _ = remoting.ask(place, remoting.CONTROLLER_METADATA, timeout_s=1)
            except (OSError, remoting.Refused):
                continue
            if fields.get("controllerLeaderAddress") in self._controllers and fields.get("isLeader") == "true":
                return place
        return None

    def _sync_state(self) -> dict[str, Any] | None:
        leader = self._controller()
        if leader is None:
            return None
        try:
            _, body = remoting.ask(leader, remoting.SYNC_STATE, body=json.dumps([GROUP]).encode(), timeout_s=1)
        except (OSError, remoting.Refused):
            return None
        # fastjson writes keys that are numbers or objects without quotes; ours are names
        table: dict[str, Any] = json.loads(re.sub(rb"([{,])(\d+):", rb'\1"\2":', body)).get("replicasInfoTable") or {}
        found: dict[str, Any] | None = table.get(GROUP)
        return found

    def leader(self) -> int | None:
        state = self._sync_state()
        place = (state or {}).get("masterAddress")
        return self._places.index(place) if place in self._places else None

    def whole(self) -> bool:
        state = self._sync_state()
        if state is None or not state.get("masterAddress"):
            return False
        inside = state.get("inSyncReplicas") or []
        return len(inside) == 3 and all(member.get("alive") for member in inside)

    def switch_over(self, to: int) -> None:
        state, leader = self._sync_state(), self._controller()
        assert state is not None
        assert leader is not None
        wanted = next(m for m in state["inSyncReplicas"] if m["brokerAddress"] == self._places[to])
        fields = {"clusterName": CLUSTER, "brokerName": GROUP, "brokerId": str(wanted["brokerId"]), "designateElect": "true"}
        remoting.ask(leader, remoting.ELECT_MASTER, fields)

    def coordinator_leader(self) -> Running:
        found: list[str] = []

        def leads() -> bool:
            place = self._controller()
            if place is not None:
                found.append(place)
            return bool(found)

        until(leads, "rocketmq: the controllers have a leader")
        return self.others[self._controllers.index(found[0])]

    def coordinator_processes(self) -> Sequence[Running]:
        return self.others


def jars() -> Path | None:
    return next((place for place in PLACES if any(place.glob("rocketmq-controller-*.jar"))), None)


def free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def compile_client() -> None:
    source, made = CLIENTS / "RmqFailover.java", CLASSES / "RmqFailover.class"
    if made.exists() and made.stat().st_mtime > source.stat().st_mtime:
        return
    CLASSES.mkdir(parents=True, exist_ok=True)
    subprocess.run(["javac", "-nowarn", "-cp", f"{CLIENT_JARS}/*", "-d", str(CLASSES), str(source)], check=True)
