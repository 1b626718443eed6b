#!/usr/bin/env bash
# Every secret of the namespace, random, as manifests on standard output; none is kept in a file.
#
#     infra/kubernetes/secrets.sh | kubectl create -f -
#
# `create` and not `apply`: secrets that exist are those of running databases, and stay. For GitOps, seal the output first.
set -euo pipefail

random() { openssl rand -hex 24; }

secret() { # name, type, key=value ...
    printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: inkwell\ntype: %s\nstringData:\n' "$1" "$2"
    local entry
    for entry in "${@:3}"; do
        # In single quotes YAML takes everything as it is, but for the quote, which none of these has.
        printf "  %s: '%s'\n" "${entry%%=*}" "${entry#*=}"
    done
}

prefect_database="$(random)" mlflow_database="$(random)"
prefect_auth="inkwell:$(random)" mlflow_admin="$(random)"
store_admin="$(random)" store_mlflow="$(random)" store_worker="$(random)"

identity() { # name, key, actions as JSON
    printf '{"name":"%s","credentials":[{"accessKey":"inkwell-%s","secretKey":"%s"}],"actions":%s}' "$1" "$1" "$2" "$3"
}
everything='["Admin","Read","List","Tagging","Write"]'
of() { printf '["Read:%s","List:%s","Tagging:%s","Write:%s"]' "$1" "$1" "$1" "$1"; }
identities="$(printf '{"identities":[%s,%s,%s]}' \
    "$(identity admin "$store_admin" "$everything")" \
    "$(identity mlflow "$store_mlflow" "$(of inkwell-mlflow)")" \
    "$(identity worker "$store_worker" "$(of inkwell-dvc)")")"

# the owners of the databases (postgres.yaml) and who connects as them
secret prefect-database kubernetes.io/basic-auth username=prefect "password=$prefect_database" \
    "connection-string=postgresql+asyncpg://prefect:$prefect_database@inkwell-postgres-rw:5432/prefect"
secret mlflow-database kubernetes.io/basic-auth username=mlflow "password=$mlflow_database"
# Prefect's page and API: the server, the worker and, through it, the runs
secret prefect-auth Opaque "auth-string=$prefect_auth"
secret mlflow-admin Opaque username=admin "password=$mlflow_admin"
# the store's accounts, then each one's own
secret store-identities Opaque "seaweedfs_s3_config=$identities"
secret store-admin Opaque AWS_ACCESS_KEY_ID=inkwell-admin "AWS_SECRET_ACCESS_KEY=$store_admin"
secret store-mlflow Opaque AWS_ACCESS_KEY_ID=inkwell-mlflow "AWS_SECRET_ACCESS_KEY=$store_mlflow"
# what a run finds in its environment
secret inkwell-job Opaque AWS_ACCESS_KEY_ID=inkwell-worker "AWS_SECRET_ACCESS_KEY=$store_worker" \
    MLFLOW_TRACKING_USERNAME=admin "MLFLOW_TRACKING_PASSWORD=$mlflow_admin"
