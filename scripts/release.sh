#!/bin/sh
# Build a release in build/release: kernel, initramfs and ISO of each architecture, the Python package, the catalogue,
# their licences and bills of materials, the source that these require, and SHA256SUMS. The release notes go to
# build/release-notes.md. Needs Debian.
# An argument, such as v0.1.0, must match this tree's version.
set -eu
CDPATH='' cd -- "$(dirname -- "$0")/.."

die() {
  echo "zosia: error: $1" >&2
  exit 1
}

[ -z "$(git status --porcelain)" ] || die "there are uncommitted changes; a release needs a commit. See: git status"
cross=
[ "$(uname -m)" = x86_64 ] || cross=x86_64-linux-gnu-objcopy
# shellcheck disable=SC2086 # a word or none
./scripts/bootstrap.sh gelf.h xorriso mformat grub-mkimage $cross
version=$(PYTHONPATH=site_scons .venv/bin/python -c 'from zosia.base.version import VERSION; print(VERSION)')
[ "${1-v$version}" = "v$version" ] || die "the tag $1 does not match the version of this tree, v$version"

mkdir -p build
sed -n "/^## \[$version\]/,/^## \[/{/^## \[/!p;}" CHANGELOG.md >build/release-notes.md
grep -q . build/release-notes.md || die "CHANGELOG.md has no entry for $version"

release=build/release
rm -rf "$release"
mkdir "$release"
for arch in aarch64 x86_64; do
  .venv/bin/scons kernel initramfs iso sbom "ARCH=$arch"
  cp "build/$arch/Image" "$release/zosia-$version-$arch-Image"
  cp "build/$arch/initramfs.cpio.gz" "$release/zosia-$version-$arch-initramfs.cpio.gz"
  cp "build/$arch/zosia-smollm2-135m.iso" "$release/zosia-$version-$arch.iso"
done
.venv/bin/scons wheel
.venv/bin/scons sbom # the wheel's needs the web page
cp "build/dist/zosia-$version-py3-none-any.whl" models.toml build/sbom/*.json "$release/"
set --
for name in linux llama-cpp busybox-aarch64 busybox-x86_64 'grub-*-aarch64' 'grub-*-x86_64'; do
  for record in build/sources/$name.json; do
    [ -e "$record" ] || die "$record is missing, so its source would be missing too"
    set -- "$@" "$record"
  done
done
PYTHONPATH=site_scons .venv/bin/python -m zosia_build.release.source_packages "$release" "$@"
(cd "$release" && sha256sum -- * >SHA256SUMS)
cat "$release/SHA256SUMS"
