#!/bin/sh
# SeaweedFS with three accounts. Their keys come from the environment and go to a file in memory: the container's file system
# is read-only, and Compose cannot place a generated file there.
set -eu
umask 077

cat >"${IDENTITIES:=/tmp/identities.json}" <<JSON
{"identities": [
  {"name": "admin", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
   "credentials": [{"accessKey": "inkwell-admin", "secretKey": "${S3_ADMIN_SECRET_KEY:?is not set}"}]},
  {"name": "mlflow", "actions": ["Read:inkwell-mlflow", "List:inkwell-mlflow", "Tagging:inkwell-mlflow", "Write:inkwell-mlflow"],
   "credentials": [{"accessKey": "inkwell-mlflow", "secretKey": "${S3_MLFLOW_SECRET_KEY:?is not set}"}]},
  {"name": "worker", "actions": ["Read:inkwell-dvc", "List:inkwell-dvc", "Tagging:inkwell-dvc", "Write:inkwell-dvc"],
   "credentials": [{"accessKey": "inkwell-worker", "secretKey": "${S3_WORKER_SECRET_KEY:?is not set}"}]}
]}
JSON
unset S3_ADMIN_SECRET_KEY S3_MLFLOW_SECRET_KEY S3_WORKER_SECRET_KEY

# Its parts speak with each other on the container's loopback; only the S3 gateway listens outside.
exec "${WEED:-weed}" -logtostderr=true server \
    -dir=/data \
    -ip=127.0.0.1 \
    -ip.bind=127.0.0.1 \
    -master.volumeSizeLimitMB=1024 \
    -master.telemetry=false \
    -volume.max=0 \
    -filer \
    -s3 \
    -s3.ip.bind=0.0.0.0 \
    -s3.port=8333 \
    -s3.port.iceberg=0 \
    -s3.port.lance=0 \
    -s3.iam=false \
    -s3.autoCreateBucket=false \
    -s3.allowDeleteBucketNotEmpty=false \
    -s3.config="$IDENTITIES"
