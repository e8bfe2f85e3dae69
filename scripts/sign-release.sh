#!/bin/sh
# Sign each file of a release with a key of ssh, and check each signature as a user does: by allowed_signers.
# Usage: sign-release.sh FOLDER KEY. Without KEY, the variable SIGNING_KEY has the text of one without a passphrase;
# without either, nothing is signed.
set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

die() {
  echo "zosia: error: $1" >&2
  exit 1
}

[ $# -ge 1 ] && [ $# -le 2 ] || die "a folder and a key are needed. Type: ./scripts/sign-release.sh FOLDER KEY"
folder=$1
[ -f "$folder/SHA256SUMS" ] || die "$folder has no SHA256SUMS, so it is no release"
(cd "$folder" && sha256sum --quiet --check SHA256SUMS) || die "$folder isn't what its SHA256SUMS says"
rm -f "$folder"/*.sig
for file in "$folder"/*; do
  name=${file##*/}
  [ "$name" = SHA256SUMS ] || cut -c67- "$folder/SHA256SUMS" | grep -qxFe "$name" ||
    die "$name is not in SHA256SUMS, so nobody has compared it"
done

scratch=$(mktemp -d)
whole=
trap 'rm -rf "$scratch"; [ "$whole" ] || rm -f "$folder"/*.sig' EXIT
trap 'exit 1' HUP INT TERM
if [ $# -eq 2 ]; then
  key=$2
elif [ -n "${SIGNING_KEY-}" ]; then
  key=$scratch/key
  (umask 077 && printf '%s\n' "$SIGNING_KEY" >"$key")
else
  echo "  NOTE  this release is not signed: there is no key, neither as a file nor in SIGNING_KEY"
  exit
fi
[ -f "$key" ] || die "$key is no file"
grep -q '^[^#]' "$top/allowed_signers" ||
  die "no key is trusted yet: add the public half of this one to allowed_signers, as docs/development.md describes"

for file in "$folder"/*; do
  purpose=zosia-release
  [ "${file##*/}" != models.toml ] || purpose=zosia-catalogue # so that zosia takes it
  ssh-keygen -q -Y sign -n "$purpose" -f "$key" "$file" || die "$file could not be signed, so nothing is"
  ssh-keygen -Y verify -f "$top/allowed_signers" -I zosia-releases -n "$purpose" -s "$file.sig" <"$file" ||
    die "allowed_signers doesn't trust this key for $purpose"
done
whole=1
