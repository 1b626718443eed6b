#!/usr/bin/env bash
# Write infra/.env from infra/.env.example, with a new random secret wherever the example leaves one open.
# An existing infra/.env stays as it is: its secrets are those of the running databases.
set -euo pipefail
cd "$(dirname "$0")"

target="${1:-.env}"
if [ -e "$target" ]; then
    echo "$target exists and is left alone; delete it to have it written anew (the databases keep their old passwords)." >&2
    exit 2
fi
umask 077 # nobody else reads it
temporary="$(mktemp "$target.XXXXXX")"
trap 'rm -f "$temporary"' EXIT
while IFS= read -r line; do
    # Hexadecimal digits need no quoting in YAML, JSON, addresses or the shell.
    case "$line" in
        PREFECT_AUTH_STRING=) line="${line}inkwell:$(openssl rand -hex 24)" ;;
        *_PASSWORD= | *_SECRET_KEY=) line="${line}$(openssl rand -hex 24)" ;;
    esac
    printf '%s\n' "$line"
done <.env.example >"$temporary"
mv "$temporary" "$target"
echo "$target is written; only you can read it."
