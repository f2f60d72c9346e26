#!/bin/sh
# Create the secrets of compose.yaml in deploy/secrets, readable only by the user of the container that needs them:
#
#   sudo sh deploy/secrets.sh
#
# Existing files are kept. jwt_key signs and verifies tokens: give it to your backend too.
set -eu
umask 077
folder="${1:-$(dirname "$0")/secrets}"
acl="$(dirname "$0")/redis/users.acl"
mkdir -p "$folder"

random() { openssl rand -hex 32; }
hashed() { printf %s "$1" | openssl dgst -sha256 -r | cut -d ' ' -f 1; }
# Of the image's user and of Valkey's, by compose.yaml.
belongs() {
  chmod 0400 "$2"
  chown "$1" "$2" 2>/dev/null || echo "run as root, or: chown $1 $2" >&2
}

if [ ! -e "$folder/jwt_key" ]; then
  random > "$folder/jwt_key"
  belongs 65532:65532 "$folder/jwt_key"
fi
if [ ! -e "$folder/users.acl" ]; then
  gateway="$(random)" worker="$(random)"
  printf 'redis://tokenwire-gateway:%s@valkey:6379/0\n' "$gateway" > "$folder/gateway_store"
  printf 'redis://tokenwire-worker:%s@valkey:6379/0\n' "$worker" > "$folder/worker_store"
  # A client without a password may only ask whether the server answers: the health check does.
  echo 'user default on nopass resetkeys resetchannels -@all +ping' > "$folder/users.acl"
  sed -e "s/>GATEWAY_PASSWORD/#$(hashed "$gateway")/" -e "s/>WORKER_PASSWORD/#$(hashed "$worker")/" "$acl" >> "$folder/users.acl"
  belongs 65532:65532 "$folder/gateway_store"
  belongs 65532:65532 "$folder/worker_store"
  belongs 999:1000 "$folder/users.acl"
fi
