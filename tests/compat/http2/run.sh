#!/usr/bin/env bash
# h2spec and gRPC's own interop client (Go) against our engine, each in plaintext and over TLS, on the same port.
#
#   tests/compat/http2/run.sh            PYTHON=… says which Python; tools are built into .cache/compat-http2
#
# Not asked for: custom_metadata (our contract has no response metadata) and what needs Google's accounts.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
cache=$root/.cache/compat-http2
python=${PYTHON:-$root/.venv/bin/python}
cases="empty_unary large_unary client_streaming server_streaming ping_pong empty_stream timeout_on_sleeping_server
    cancel_after_begin cancel_after_first_response status_code_and_message special_status_message
    unimplemented_method unimplemented_service"

if ! command -v go >/dev/null; then
    echo "##### SKIPPED: there is no Go here, so h2spec and the interop client can't be built; NOTHING was checked #####" >&2
    exit 0
fi
mkdir -p "$cache"
(cd "$here/tools" && go build -o "$cache/" github.com/summerwind/h2spec/cmd/h2spec google.golang.org/grpc/interop/client)

coproc server { PYTHONPATH=$root:$root/core:$root/proto exec "$python" "$here/serve.py" "$cache/certificate.pem"; }
server_id=$server_PID
trap 'kill "$server_id" 2>/dev/null || true' EXIT
read -r port <&"${server[0]}"

passed=0 failed=0
check() {
    local name=$1
    shift
    if timeout 300 "$@" >"$cache/out.txt" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name"
    else
        failed=$((failed + 1))
        echo "FAILED  $name"
        tail -40 "$cache/out.txt"
    fi
}

for transport in plain tls; do
    h2spec=() interop=()
    if [ "$transport" = tls ]; then
        h2spec=(-t -k)
        interop=(-use_tls -use_test_ca -ca_file "$cache/certificate.pem" -server_host_override localhost)
    fi
    check "$transport h2spec" "$cache/h2spec" -h 127.0.0.1 -p "$port" --timeout 5 "${h2spec[@]}"
    tail -1 "$cache/out.txt"
    for case in $cases; do
        check "$transport interop $case" "$cache/client" -server_host 127.0.0.1 -server_port "$port" \
            -test_case "$case" "${interop[@]}"
    done
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
