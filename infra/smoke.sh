#!/usr/bin/env bash
# The pipeline through Prefect on PostgreSQL, with nothing but what is installed here: no container, no service (docs/infra.md#ci).
#
#     infra/smoke.sh WORKSPACE [group=name | section.key=value ...]
#
# Both servers are started for this run, on free ports of the loopback and with passwords of their own, and end with it. Without parameters a
# workspace that is there stays as it is, and a new one is of smoke size. What Prefect's server says goes to WORKSPACE/.inkwell/prefect.log.
# The status is the pipeline's; 1 as well when its run is not in PostgreSQL, 2 for something to mend.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
project="$(dirname "$here")"

refuse() {
    echo "smoke.sh: $1" >&2
    exit 2
}

if [ "$#" -eq 0 ]; then
    refuse "write infra/smoke.sh WORKSPACE [PARAMETERS]."
fi
workspace="$1"
shift
if ! command -v prefect >/dev/null; then
    PATH="$project/.venv/bin:$PATH"
    command -v prefect >/dev/null || refuse "there is no environment: \`make setup\` makes it."
fi
export PYTHONPATH="$project${PYTHONPATH:+:$PYTHONPATH}"

# Debian keeps PostgreSQL's programs away from the path.
mapfile -t folders < <(printf '%s\n' /usr/lib/postgresql/*/bin | sort --version-sort --reverse)
if found="$(command -v initdb)"; then
    folders=("$(dirname "$(readlink -f "$found")")" "${folders[@]}")
fi
postgresql=""
for folder in "${folders[@]}"; do
    if [ -x "$folder/initdb" ] && [ -x "$folder/pg_ctl" ]; then
        postgresql="$folder"
        break
    fi
done
[ -n "$postgresql" ] || refuse "PostgreSQL is not installed (Debian: apt-get install postgresql)."
PATH="$postgresql:$PATH"
command -v psql >/dev/null || refuse "PostgreSQL's psql is not installed (Debian: apt-get install postgresql)."

as_owner=() # PostgreSQL does not run as root
if [ "$(id -u)" -eq 0 ]; then
    account=postgres
    id "$account" >/dev/null 2>&1 || account=nobody
    as_owner=(setpriv --reuid "$account" --regid "$(id --group "$account")" --clear-groups --)
fi
owner() { (cd / && ${as_owner[@]+"${as_owner[@]}"} "$@"); }

scratch="" started="" server="" pipeline=""

# shellcheck disable=SC2329 # the trap calls it
leave() { # nothing of it stays behind
    trap '' INT TERM HUP
    if [ -n "$pipeline" ]; then
        kill -TERM "$pipeline" 2>/dev/null || true
        wait "$pipeline" || true
    fi
    if [ -n "$server" ]; then
        kill -TERM -- "-$server" 2>/dev/null || true
        for _ in {1..100}; do
            kill -0 -- "-$server" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$server" 2>/dev/null || true
    fi
    if [ -n "$started" ]; then
        owner "$postgresql/pg_ctl" --pgdata "$scratch/postgresql/data" --mode=immediate --wait --silent stop || true
    fi
    if [ -n "$scratch" ]; then
        rm -rf "$scratch"
    fi
}
trap leave EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

if [ "$#" -gt 0 ] || [ ! -e "$workspace/params.yaml" ]; then
    python -m flows.workspace "$workspace" "${@:-size=smoke}"
fi
mkdir -p "$workspace/.inkwell"
log="$workspace/.inkwell/prefect.log"

random() { openssl rand -hex 24; }
free_port() { python -c "from components.launch.processes import free_port; print(free_port())"; }

# Below /tmp and open to be passed through: the account that PostgreSQL runs as has to get there, and a socket's path is short.
scratch="$(mktemp -d /tmp/inkwell-smoke.XXXXXX)"
chmod 711 "$scratch"
mkdir -m 700 "$scratch/postgresql"
PGHOST=127.0.0.1 PGPORT="$(free_port)" PGUSER=postgres PGPASSWORD="$(random)"
PREFECT_DB_PASSWORD="$(random)" MLFLOW_DB_PASSWORD="$(random)"
printf '%s\n' "$PGPASSWORD" >"$scratch/postgresql/password"
if [ "$(id -u)" -eq 0 ]; then
    chown -R "$account" "$scratch/postgresql"
fi
data="$scratch/postgresql/data"
if ! owner "$postgresql/initdb" --pgdata "$data" --username=postgres --pwfile "$scratch/postgresql/password" --auth=scram-sha-256 \
    --encoding=UTF8 --no-locale --no-sync >"$scratch/initdb.log" 2>&1; then
    cat "$scratch/initdb.log" >&2
    exit 1
fi
started=yes
owner "$postgresql/pg_ctl" --pgdata "$data" --log "$scratch/postgresql/log" --wait --silent \
    --options "-c listen_addresses=$PGHOST -c port=$PGPORT -c fsync=off -c unix_socket_directories=$data" start || {
    cat "$scratch/postgresql/log" >&2
    exit 1
}
export PGHOST PGPORT
PGUSER="$PGUSER" PGPASSWORD="$PGPASSWORD" PREFECT_DB_PASSWORD="$PREFECT_DB_PASSWORD" MLFLOW_DB_PASSWORD="$MLFLOW_DB_PASSWORD" \
    "$here/postgres/create-databases.sh"

export PREFECT_HOME="$scratch/prefect" # no profile and no leases of the user's
PREFECT_PORT="$(free_port)" PREFECT_AUTH_STRING="ci:$(random)"
export PREFECT_PORT PREFECT_AUTH_STRING
set -a
. "$here/env/ci.env"
set +a
PGPASSWORD="$PREFECT_DB_PASSWORD" setsid prefect --no-prompt server start >"$log" 2>&1 &
server=$!
ready() { # not by way of a proxy that the environment names
    python -c 'import sys, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(sys.argv[1], timeout=5)' \
        "$PREFECT_API_URL/ready" 2>/dev/null
}
until ready; do
    if ! kill -0 "$server" 2>/dev/null || [ "$SECONDS" -gt 600 ]; then
        tail --lines=20 "$log" >&2
        echo "smoke.sh: Prefect's server did not start." >&2
        exit 1
    fi
    sleep 0.5
done
echo "smoke.sh: Prefect on PostgreSQL $(postgres --version | grep -oE '[0-9.]+' | head -n 1) at $PREFECT_API_URL"

# In the background and waited for, so that a signal to this script is heard at once and handed on.
python -m flows.pipeline --workspace "$workspace" &
pipeline=$!
status=0
wait "$pipeline" || status=$?
pipeline=""
runs="$(PGPASSWORD="$PREFECT_DB_PASSWORD" psql --no-psqlrc --tuples-only --no-align --username=prefect --dbname=prefect \
    --command="SELECT count(*) FROM flow_run WHERE state_type = 'COMPLETED'")"
echo "smoke.sh: completed runs in PostgreSQL: $runs"
if [ "$status" -eq 0 ] && [ "$runs" -eq 0 ]; then
    echo "smoke.sh: the pipeline did not go through this server." >&2
    status=1
fi
exit "$status"
