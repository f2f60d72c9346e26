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
[ -r "$acl" ] || { echo "$acl cannot be read: run this script in the repository" >&2; exit 1; }
mkdir -p "$folder"

random() { openssl rand -hex 32; }
hashed() { printf %s "$1" | openssl dgst -sha256 -r | cut -d ' ' -f 1; }
# Move a finished file into place, for the image's user or for Valkey's, by compose.yaml.
finish() {
  chmod 0400 "$2.new"
  chown "$1" "$2.new" 2>/dev/null || echo "run as root, or: chown $1 $2" >&2
  mv "$2.new" "$2"
}

if [ ! -e "$folder/jwt_key" ]; then
  random > "$folder/jwt_key.new"
  finish 65532:65532 "$folder/jwt_key"
fi
present=0
for file in gateway_store worker_store users.acl; do
  if [ -e "$folder/$file" ]; then present=$((present + 1)); fi
done
if [ "$present" = 0 ]; then
  gateway="$(random)" worker="$(random)"
  printf 'redis://tokenwire-gateway:%s@valkey:6379/0\n' "$gateway" > "$folder/gateway_store.new"
  printf 'redis://tokenwire-worker:%s@valkey:6379/0\n' "$worker" > "$folder/worker_store.new"
  # A client without a password may only ask whether the server answers: the health check does.
  echo 'user default on nopass resetkeys resetchannels -@all +ping' > "$folder/users.acl.new"
  sed -e "s/>GATEWAY_PASSWORD/#$(hashed "$gateway")/" -e "s/>WORKER_PASSWORD/#$(hashed "$worker")/" "$acl" >> "$folder/users.acl.new"
  finish 65532:65532 "$folder/gateway_store"
  finish 65532:65532 "$folder/worker_store"
  finish 999:1000 "$folder/users.acl"
elif [ "$present" != 3 ]; then
  echo "$folder has only some of gateway_store, worker_store and users.acl, which belong together: remove them" >&2
  exit 1
fi
