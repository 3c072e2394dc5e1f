#!/usr/bin/env bash
# Installs the contestants under $BENCH_RUN. Safe to repeat; needs the package registries only. What can't be installed
# is skipped loudly: its contestant is then left out of the run.
#   PyPI -> venv, Go proxy -> nats-server, Maven Central -> Kafka and RocketMQ, apt -> redis, rabbitmq
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export BENCH_RUN=${BENCH_RUN:-/tmp/mq-bench}
mkdir -p "$BENCH_RUN"/{logs,data,bin,java,m2}
skip() { echo "SKIPPED: $1" >&2; }

[ -x "$BENCH_RUN/venv/bin/python" ] || python3 -m venv "$BENCH_RUN/venv" || exit 1
stamp="$BENCH_RUN/venv/.requirements"
if ! cmp -s "$here/requirements.txt" "$stamp"; then
  "$BENCH_RUN/venv/bin/pip" install -q -r "$here/requirements.txt" || exit 1
  cp "$here/requirements.txt" "$stamp"
fi

if ! command -v redis-server >/dev/null || [ ! -x /usr/lib/rabbitmq/bin/rabbitmq-server ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends redis-server rabbitmq-server ||
      skip "redis, rabbitmq: apt-get failed"
  else
    skip "redis, rabbitmq: not installed, and only root can (apt-get install redis-server rabbitmq-server)"
  fi
fi

if [ ! -x "$BENCH_RUN/bin/nats-server" ]; then
  if command -v go >/dev/null; then
    GOBIN="$BENCH_RUN/bin" go install "github.com/nats-io/nats-server/v2@${NATS_VERSION:-v2.15.2}" || skip "nats: go install failed"
  else
    skip "nats: there is no go to build it with"
  fi
fi

jars() { # pom, folder, a jar that proves it complete
  compgen -G "$BENCH_RUN/java/$2/$3" >/dev/null && return
  command -v mvn >/dev/null || { skip "$2: there is no mvn to fetch it with"; return; }
  mvn -q -B -ntp -Dmaven.repo.local="$BENCH_RUN/m2" -f "$here/$1" dependency:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$BENCH_RUN/java/$2" || skip "$2: mvn failed"
}
jars kafka-pom.xml kafka 'log4j-slf4j-impl-*.jar'
jars rocketmq-client-pom.xml rocketmq 'rocketmq-client-*.jar'
if ! compgen -G "${RMQ_LIB:-/tmp/rocketmq-reference/lib}/rocketmq-proxy-*.jar" >/dev/null; then
  jars rocketmq-server-pom.xml rocketmq-server 'rocketmq-proxy-*.jar'
fi
mkdir -p "$BENCH_RUN/java/native"
if command -v javac >/dev/null && [ ! "$BENCH_RUN/java/native/RmqNative.class" -nt "$here/RmqNative.java" ]; then
  javac -nowarn -cp "$BENCH_RUN/java/rocketmq/*" -d "$BENCH_RUN/java/native" "$here/RmqNative.java" || skip "rocketmq-java: javac failed"
fi
echo "contestants are installed under $BENCH_RUN" >&2
