#!/usr/bin/env bash
# A federation of two sites on this machine: a SuperLink, two SuperNodes, and TLS with a CA and keys
# made on the spot. It ends with 0 where the final adapter is, byte for byte, that of the same run
# in one process. docs/deploy.md says the same for several hosts.
#
#   bash examples/deploy/run.sh                   TLS, and only registered nodes
#   bash examples/deploy/run.sh --plain           neither
#   bash examples/deploy/run.sh --stranger        a node that is not registered tries to join as well
#   bash examples/deploy/run.sh --fault nan       site 1 sends NaN from its second round on
#   bash examples/deploy/run.sh --fault killed    site 1 is killed in the middle of its second round
#
# PYTHON: the interpreter, .venv/bin/python unless said otherwise. KEEP=1 keeps the folder of logs.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
bin=$(dirname "$python")
plain="" stranger="" fault=""
while [ $# -gt 0 ]; do
    case $1 in
        --plain) plain=1 ;;
        --stranger) stranger=1 ;;
        --fault) fault=$2 && shift ;;
        *) echo "run.sh: unknown: $1" >&2 && exit 2 ;;
    esac
    shift
done
[ -z "$plain" ] || [ -z "$stranger" ] || { echo "run.sh: --plain lets every node in" >&2; exit 2; }

work=$(mktemp -d)
started=()
end_tree() { # a process and all that it has started, wherever they have moved to
    local child
    for child in $(pgrep -P "$1" || true); do end_tree "$child"; done
    kill -9 "$1" 2>/dev/null || true
}
clean() {
    for one in "${started[@]}"; do end_tree "$one"; done
    if [ -n "${KEEP:-}" ]; then echo "kept: $work"; else rm -rf "$work"; fi
}
trap clean EXIT

export PATH=$bin:$PATH FLWR_HOME=$work/flwr FEDLIB_OUTPUTS=$work/outputs PYTHONPATH=$root OMP_NUM_THREADS=1
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
read -r link api0 api1 api2 <<<"$("$python" - <<'PORTS'
import socket

held = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
print(*[one.getsockname()[1] for one in held])
PORTS
)"
mkdir -p "$FLWR_HOME" "$work/keys"

# 1. what each site has, and the adapter to compare with
"$python" "$root/examples/deploy/prepare.py" "$work" $fault

# 2. a CA, the server's certificate, and a key for each node
cd "$work/keys"
if [ -z "$plain" ]; then
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj "/CN=lab CA" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" \
        -keyout ca.key -out ca.crt 2>openssl.log
    openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" \
        -keyout server.key -out server.csr 2>>openssl.log
    printf "subjectAltName=DNS:localhost,IP:127.0.0.1\n" >server.ext
    openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 \
        -extfile server.ext -out server.crt 2>>openssl.log
    for node in 0 1 2; do ssh-keygen -q -t ecdsa -b 384 -N "" -f "node$node"; done
    link_options=(--ssl-ca-certfile ca.crt --ssl-certfile server.crt --ssl-keyfile server.key
        --enable-supernode-auth)
    connection="root-certificates = \"$work/keys/ca.crt\""
else
    link_options=(--insecure)
    connection="insecure = true"
fi

# 3. the server
flower-superlink "${link_options[@]}" --host 127.0.0.1 --port "$link" \
    --disable-runtime-dependency-installation >"$work/superlink.log" 2>&1 &
started+=($!)
disown
printf '[superlink]\ndefault = "lab"\n\n[superlink.lab]\naddress = "127.0.0.1:%s"\n%s\n' \
    "$link" "$connection" >"$FLWR_HOME/config.toml"
for _ in $(seq 300); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$link") 2>/dev/null; then break; fi
    sleep 0.2
done

# 4. the nodes: only those that are registered may join
start_node() { # number of the node, which client it says it is, port of its own
    local options=(--insecure) path=$root
    if [ -z "$plain" ]; then
        options=(--root-certificates ca.crt --auth-supernode-private-key "node$1")
    fi
    if [ -n "$fault" ] && [ "$1" = 1 ]; then path=$work/faulty:$root; fi
    PYTHONPATH=$path flower-supernode "${options[@]}" --superlink "127.0.0.1:$link" \
        --port "$3" --node-config "partition-id=$2 rows=\"$work/site$2/rows.jsonl\"" \
        >"$work/node$1.log" 2>&1 &
    started+=($!)
    disown
}
if [ -z "$plain" ]; then
    for node in 0 1; do flwr supernode register "node$node.pub" lab; done
fi
start_node 0 0 "$api0"
start_node 1 1 "$api1"
site1=$!
if [ -n "$stranger" ]; then start_node 2 1 "$api2"; fi

# a node dies in the middle of a round: it has begun its second training
if [ "$fault" = killed ]; then
    : >"$work/trainings"
    (
        until [ "$(wc -l <"$work/trainings")" -ge 2 ]; do sleep 0.2; done
        end_tree "$site1"
    ) &
    started+=($!)
fi

# 5. the run
cd "$root"
wait=600
if [ "$fault" = killed ]; then wait=100; fi
timeout 900 flwr run flower-app lab --stream --run-config \
    "preset='$root/examples/deploy/settings.yaml' folder='$work/run' wait=$wait" \
    >"$work/flwr.log" 2>&1 || { tail -40 "$work/flwr.log"; exit 1; }

# 6. what came of it
if [ -n "$stranger" ]; then
    if ! grep -q "Failed to activate SuperNode" "$work/node2.log" ||
        ! grep -q "No SuperNode found with the given public key" "$work/superlink.log"; then
        echo "run.sh: the stranger was not refused" && exit 1
    fi
    echo "the node that is not registered was refused"
fi
grep -h "left_out" "$work/run/rounds.jsonl" | "$python" -c '
import json, sys
for line in sys.stdin:
    record = json.loads(line)
    print("round", record["round"] + 1, "without", record["left_out"])' || true
if cmp "$work/run/adapter/adapter_model.safetensors" \
    "$work/reference/adapter/adapter_model.safetensors"; then
    echo "the adapter is the same, byte for byte, as in one process"
else
    tail -40 "$work/flwr.log" "$work"/node*.log && exit 1
fi
