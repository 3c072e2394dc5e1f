#!/usr/bin/env bash
# What `make bench` calls: install the contestants, run them beside ours, print the tables. Options go to `bench.py run`:
#   bench/run.sh --quick --contestants kourou,redis --workloads w1,w2
# `bench/run.sh failover …` is `make bench-failover`; its options go to `python -m bench.failover`.
# `bench/run.sh official …` is `make bench-official`: the official API beside RocketMQ's; options go to `official/bench.py`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
export BENCH_RUN=${BENCH_RUN:-/tmp/mq-bench}
if [ -z "${KOUROU_BENCH_PYTHON:-}" ]; then # the interpreter that our server runs on
  for python in "$root/.venv/bin/python" "$(command -v python3 || true)"; do
    if [ -x "$python" ] && "$python" -c 'import numpy, uvloop, prometheus_client, structlog, cyclopts' 2>/dev/null; then
      export KOUROU_BENCH_PYTHON=$python
      break
    fi
  done
fi
if [ -z "${KOUROU_BENCH_PYTHON:-}" ]; then
  echo "error: no Python with Kourou's server requirements; run 'make install', or set KOUROU_BENCH_PYTHON" >&2
  exit 1
fi
"$here/setup.sh"
if [ "${1:-}" = official ]; then
  shift
  exec "$BENCH_RUN/venv/bin/python" "$here/official/bench.py" "$@"
fi
if [ "${1:-}" = failover ]; then
  shift
  cd "$root"
  exec "$KOUROU_BENCH_PYTHON" -m bench.failover "$@"
fi
exec "$BENCH_RUN/venv/bin/python" "$here/bench.py" run "$@"
