"""Kafka: three servers that are brokers and controllers (KRaft), a topic of one partition with 3 copies, 2 of them needed."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

from bench.failover.contestant import BULK, TOPIC, Cluster, bench_python, has_module
from bench.failover.process import until
from bench.node import RUN

JARS = RUN / "java/kafka"
CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"


class KafkaCluster(Cluster):
    name = "kafka"
    server = (
        "Apache Kafka (KRaft), 3 servers that are brokers and controllers, 3 copies, min.insync.replicas 2, default times"
    )
    client = "confluent-kafka (librdkafka), default settings (acks=all)"
    switchover_is = "the leader is stopped by SIGTERM (a controlled shutdown), and started again"
    warm_s = 15
    ready_line = "Kafka Server started"

    @classmethod
    def missing(cls) -> str | None:
        if not any(JARS.glob("kafka_2.13-*.jar")):
            return "its jars are not installed (bench/setup.sh)"
        if not has_module("confluent_kafka"):
            return "confluent-kafka is not installed (bench/setup.sh)"
        return None if shutil.which("java") else "there is no java"

    def start(self) -> None:
        self._places = [host.place() for host in self.hosts]
        voting = [host.place() for host in self.hosts]
        voters = ",".join(f"{n}@{place}" for n, place in enumerate(voting))
        (self.folder / "log4j2.properties").write_text(
            "rootLogger.level=INFO\nrootLogger.appenderRef.out.ref=OUT\nappender.out.type=Console\nappender.out.name=OUT\n"
            "appender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %m%n\n"
        )
        for number, host in enumerate(self.hosts):
            config = self.folder / f"server-{number}.properties"
            config.write_text(
                f"process.roles=broker,controller\nnode.id={number}\ncontroller.quorum.voters={voters}\n"
                f"listeners=PLAINTEXT://{self._places[number]},CONTROLLER://{voting[number]}\n"
                f"advertised.listeners=PLAINTEXT://{self._places[number]}\ncontroller.listener.names=CONTROLLER\n"
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nauto.create.topics.enable=false\n"
                f"log.dirs={self.folder}/data-{number}\noffsets.topic.replication.factor=3\n"
            )
            java = (
                "java",
                "-Xmx512m",
                "-XX:+UseSerialGC",
                f"-Dlog4j2.configurationFile={self.folder}/log4j2.properties",
                "-cp",
                f"{JARS}/*",
            )
            subprocess.run(
                [*java, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(config)],
                check=True,
                capture_output=True,
            )
            self.members.append(self.run(host, f"server-{number}", *java, "kafka.Kafka", str(config)))
        for process in self.members:
            process.wait_for(self.ready_line)
        command, env = self.python_client("admin_kafka.py", self.where(), "create", TOPIC, BULK, python=bench_python())
        subprocess.run(command, env=env, check=True, capture_output=True, timeout=60)
        command, env = self.python_client("admin_kafka.py", self.where(), "serve", python=bench_python())
        self._admin = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.settled()

    def where(self) -> str:
        return ",".join(self._places)

    def command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        return self.python_client("send_kafka.py", *arguments, python=bench_python())

    def _ask(self, *topics: str) -> dict[str, Any]:
        assert self._admin.stdin is not None
        assert self._admin.stdout is not None
        self._admin.stdin.write(" ".join(topics) + "\n")
        self._admin.stdin.flush()
        told: dict[str, Any] = json.loads(self._admin.stdout.readline())
        return told

    def leader(self) -> int | None:
        leaders = self._ask(TOPIC)["leaders"]
        return leaders[0] if leaders and leaders[0] in (0, 1, 2) else None

    def whole(self) -> bool:
        """What servers tell may be some seconds old: one that has just been started again is asked for its log, too."""
        if not all(member.alive and self.ready_line in member.output() for member in self.members):
            return False
        told = self._ask(TOPIC, BULK)
        return len(told["isr"]) == 2 and set(told["isr"]) == {3} and -1 not in told["leaders"]

    def switch_over(self, to: int) -> None:
        leader = self.members[self.now_leads()]
        leader.stop()
        until(lambda: not leader.alive, "kafka: the leader has stopped")
        leader.start()

    def stop(self) -> None:
        admin: subprocess.Popen[str] | None = getattr(self, "_admin", None)
        if admin is not None:
            admin.kill()
            admin.communicate()
        super().stop()
