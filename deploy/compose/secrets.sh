#!/bin/sh
# Makes the files without which docker-compose refuses to start: .env, and a folder with certificates and the keys of the store.
# Also the folder out/, into which the containers write what is to be taken out. Existing files are never replaced. It needs the image: docker build -t ssem-dask -f deploy/Dockerfile .
set -eu
cd "$(dirname "$0")/../.."
umask 077
uid=$(id -u) gid=$(id -g)
if [ "$uid" = 0 ]; then uid=1000 gid=1000; fi # containers never run as root

if [ ! -e .env ]; then
  sed -e "s/^SSEM_UID=.*/SSEM_UID=$uid/" -e "s/^SSEM_GID=.*/SSEM_GID=$gid/" .env.example > .env
  echo "made .env"
fi
# As for docker-compose, the environment overrides .env.
setting() { eval "value=\${$1:-}"; [ -n "$value" ] || value=$(sed -n "s/^$1=//p" .env); echo "$value"; }
uid=$(setting SSEM_UID) gid=$(setting SSEM_GID) image=$(setting SSEM_IMAGE) folder=$(setting SSEM_SECRETS)

if [ ! -e out ]; then # docker would make it, for root alone
  mkdir -m 755 out
  if [ "$(id -u)" = 0 ]; then chown "$uid:$gid" out; fi
  echo "made out"
fi

if [ -e "$folder" ]; then
  echo "$folder is there and stays as it is"
  exit 0
fi
new=$(mktemp -d "$folder.XXXXXX")
trap 'rm -rf "$new"' EXIT
random() { LC_ALL=C tr -dc A-Za-z0-9 < /dev/urandom | head -c "$1"; }
access=$(random 20) secret=$(random 40)
cat > "$new/s3.json" <<JSON
{"identities": [{"name": "ssem-dask", "credentials": [{"accessKey": "$access", "secretKey": "$secret"}],
  "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}
JSON
cat > "$new/aws_credentials" <<INI
[default]
aws_access_key_id = $access
aws_secret_access_key = $secret
INI
if [ "$(id -u)" = 0 ]; then chown -R "$uid:$gid" "$new"; fi
absolute=$(cd "$new" && pwd)
docker run --rm --network none --user "$uid:$gid" --volume "$absolute:/secrets" "$image" \
  ssem-dask certs /secrets --days 365
mv "$new" "$folder"
echo "made $folder"
