#!/usr/bin/env bash
# The accounts and databases of Prefect and MLflow; existing ones stay, their passwords are set anew.
#
# PostgreSQL's image runs it once, when the volume is new. Against any other server, as its administrator:
#   PGHOST=db PREFECT_DB_PASSWORD=... MLFLOW_DB_PASSWORD=... infra/postgres/create-databases.sh
set -euo pipefail

export PREFECT_DB_PASSWORD="${PREFECT_DB_PASSWORD:?the password that the account prefect gets}"
export MLFLOW_DB_PASSWORD="${MLFLOW_DB_PASSWORD:?the password that the account mlflow gets}"
export PGUSER="${PGUSER:-${POSTGRES_USER:-postgres}}"

sql() {
    psql --no-psqlrc --quiet --dbname="${POSTGRES_DB:-postgres}" --set=ON_ERROR_STOP=1 "$@"
}

account() { # name, variable of its password; psql reads the variable itself, so that no process list shows the password
    sql --set=name="$1" <<SQL
SELECT format('CREATE ROLE %I', :'name') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'name')
\\gexec
\\getenv password $2
ALTER ROLE :"name" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SQL
}

database() { # name, owner; nobody but the owner may enter it
    sql --set=name="$1" --set=owner="$2" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I ENCODING %L TEMPLATE template0', :'name', :'owner', 'UTF8')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name')
\gexec
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
}

account prefect PREFECT_DB_PASSWORD
account mlflow MLFLOW_DB_PASSWORD
database prefect prefect
database mlflow mlflow
database mlflow_auth mlflow
