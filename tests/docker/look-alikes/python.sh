#!/usr/bin/env bash
# Write to standard output the root file system of a stand-in for the image python:3.11-slim: Debian 12 with its own
# Python 3.11, trusting the certificates that this machine trusts. Needs root and debootstrap.
set -euo pipefail
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$root" >&2
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
ln -s python3 "$root/usr/bin/python"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
tar -C "$root" -c .
