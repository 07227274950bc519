#!/usr/bin/env bash
# A million ads (or as many as the second argument says) made of the bundled products, and an index of them.
#   benches/ads/prepare.sh DIR [ROWS]
set -euo pipefail
here="$(cd "$(dirname "$0")/../.." && pwd)"
dir="${1:?give a folder for the ads}"
rows="${2:-1000000}"
bin="${BIGRAIN_BIN:-$here/target/release}"
"$bin/make-ads" --products "$here/testdata/products" --rows "$rows" --output "$dir"
"$bin/build-index" --input "$dir/vectors.npy" --attributes "$dir/attributes.jsonl" --dense i8 \
    --queries "$here/testdata/products/query_vectors.npy" --output "$dir/index"
