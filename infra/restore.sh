#!/usr/bin/env bash
# A folder that backup.sh has written, back into databases and buckets.
#
#     infra/restore.sh [--compose] [--replace] FOLDER/2026-01-31T020000Z
#
# All sums are checked before anything is touched, and so is every target: one that holds something is refused, unless
# --replace says that it is to be overwritten. Each database is restored in one transaction: it is the old one or the new one. Objects that
# the backup does not know are deleted last, when every database is the new one.
# Databases and their owners have to exist (postgres/create-databases.sh), and Prefect and MLflow have to be stopped:
#
#     docker compose -f infra/compose.yaml --profile gpu stop prefect mlflow worker worker-gpu
#
# The environment is that of backup.sh; PGUSER has to be an administrator.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

compose="" replace=""
while [ "$#" -gt 1 ]; do
    case "$1" in
        --compose) compose=yes ;;
        --replace) replace=yes ;;
        *) break ;;
    esac
    shift
done
if [ "$#" -ne 1 ] || [ "${1#-}" != "$1" ]; then
    echo "usage: infra/restore.sh [--compose] [--replace] FOLDER" >&2
    exit 2
fi
source="$1"
shopt -s nullglob

refuse() {
    echo "restore: $1" >&2
    exit 2
}

sql() { # database, further arguments of psql
    local arguments=(--no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 --dbname="$1" "${@:2}")
    if [ -n "$compose" ]; then
        docker compose --file "$here/compose.yaml" exec -T postgres psql "${arguments[@]}"
    else
        psql "${arguments[@]}"
    fi
}

statements_of() { # a dump on standard input
    if [ -n "$compose" ]; then
        docker compose --file "$here/compose.yaml" exec -T postgres pg_restore --file=-
    else
        pg_restore --file=-
    fi
}

buckets() {
    if [ -n "$compose" ]; then
        docker compose --file "$here/compose.yaml" run --rm -T buckets "$@"
    else
        "${PYTHON:-python3}" "$here/buckets.py" "$@"
    fi
}

[ -f "$source/SHA256SUMS" ] || refuse "$source has no SHA256SUMS: it is no folder of backup.sh."
(cd "$source" && sha256sum --check --strict --quiet SHA256SUMS) || refuse "$source is damaged; nothing was touched."
listed="$(sed 's/^[0-9a-f]*  //' "$source/SHA256SUMS" | sort)"
present="$(cd "$source" && printf '%s\n' *.dump *.tar | sort)"
[ "$listed" = "$present" ] || refuse "the files in $source are not those in its SHA256SUMS; nothing was touched."

dumps=("$source"/database-*.dump)
archives=("$source"/bucket-*.tar)

for file in "${dumps[@]}"; do
    name="$(basename "$file" .dump)" name="${name#database-}"
    found="$(sql "$name" --command="SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'")" ||
        refuse "there is no database $name: postgres/create-databases.sh makes it."
    if [ "$found" != 0 ] && [ -z "$replace" ]; then
        refuse "database $name is not empty ($found tables and sequences); --replace overwrites it."
    fi
    others="$(sql "$name" --command="SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'")"
    [ "$others" = 0 ] || refuse "$others connections to database $name are open: stop the servers first."
done
for file in "${archives[@]}"; do
    name="$(basename "$file" .tar)" name="${name#bucket-}"
    buckets create "$name"
    found="$(buckets count "$name")"
    if [ "$found" != 0 ] && [ -z "$replace" ]; then
        refuse "bucket $name is not empty ($found objects); --replace overwrites it."
    fi
done

# Buckets first, the other way round than backup.sh, and what is in them stays: neither the new database nor an old one that could not be
# replaced speaks of an object that is not there.
for file in "${archives[@]}"; do
    name="$(basename "$file" .tar)" name="${name#bucket-}"
    buckets upload "$name" ${replace:+--replace} <"$file"
done
for file in "${dumps[@]}"; do
    name="$(basename "$file" .dump)" name="${name#database-}"
    # The whole schema goes, not table by table: a newer table that the backup does not know would stop the next migration.
    # A dump takes the schema for granted, as PostgreSQL makes it in a new database.
    begin="DROP SCHEMA IF EXISTS public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;"
    begin="$begin GRANT USAGE ON SCHEMA public TO PUBLIC;"
    # A file and no pipe: if pg_restore died in the middle of a pipe, psql would commit the half that it had got.
    statements="$(mktemp)"
    trap 'rm -f "$statements"' EXIT
    {
        echo "$begin"
        statements_of <"$file"
    } >"$statements"
    sql "$name" --single-transaction --output=/dev/null --file=- <"$statements"
    rm -f "$statements"
    echo "database $name" >&2
done
if [ -n "$replace" ]; then
    for file in "${archives[@]}"; do
        name="$(basename "$file" .tar)" name="${name#bucket-}"
        buckets prune "$name" <"$file"
    done
fi
