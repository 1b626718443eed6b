#!/usr/bin/env bash
# Databases and buckets into one dated folder, with the sum of every file.
#
#     infra/backup.sh FOLDER             against the servers that the environment names
#     infra/backup.sh --compose FOLDER   against the servers of infra/compose.yaml
#
# Without --compose: libpq's variables name PostgreSQL (PGHOST, PGPORT, PGUSER, PGPASSWORD), boto3's the store
# (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), PYTHON an interpreter with boto3. PostgreSQL's tools must not
# be older than the server. INKWELL_DATABASES and INKWELL_BUCKETS name other databases and buckets; empty means none.
#
# Databases come first: what they say of artifacts was uploaded before, so that it is in the bucket when that is read.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

compose=""
if [ "${1:-}" = "--compose" ]; then
    compose=yes
    shift
fi
if [ "$#" -ne 1 ]; then
    echo "usage: infra/backup.sh [--compose] FOLDER" >&2
    exit 2
fi
target="$1/$(date -u +%Y-%m-%dT%H%M%SZ)"
if [ -e "$target" ]; then
    echo "$target exists: wait a second." >&2
    exit 2
fi
read -r -a databases <<<"${INKWELL_DATABASES-prefect mlflow mlflow_auth}"
read -r -a buckets <<<"${INKWELL_BUCKETS-inkwell-mlflow inkwell-dvc}"
if [ "${#databases[@]}" -eq 0 ] && [ "${#buckets[@]}" -eq 0 ]; then
    echo "INKWELL_DATABASES and INKWELL_BUCKETS are both empty: there is nothing to save." >&2
    exit 2
fi

dump() { # database
    local arguments=(--format=custom --dbname="$1")
    if [ -n "$compose" ]; then
        docker compose --file "$here/compose.yaml" exec -T postgres pg_dump "${arguments[@]}"
    else
        pg_dump "${arguments[@]}"
    fi
}

objects() { # bucket
    if [ -n "$compose" ]; then
        docker compose --file "$here/compose.yaml" run --rm -T buckets download "$1"
    else
        "${PYTHON:-python3}" "$here/buckets.py" download "$1"
    fi
}

umask 077 # it holds accounts and hashes of passwords
mkdir -p "$1"
# Under another name until it is whole: a folder with a date is always complete.
partial="$(mktemp -d "$target.partial.XXXXXX")"
trap 'rm -rf "$partial"' EXIT
for name in "${databases[@]}"; do
    echo "database $name" >&2
    dump "$name" >"$partial/database-$name.dump"
done
for name in "${buckets[@]}"; do
    echo "bucket $name" >&2
    objects "$name" >"$partial/bucket-$name.tar"
done
(cd "$partial" && shopt -s nullglob && sha256sum -- *.dump *.tar >SHA256SUMS)
sync "$partial"/* # on the disk before it gets its name
mv "$partial" "$target"
trap - EXIT
echo "$target"
