#!/usr/bin/env bash
# Try MS MARCO's row count without its files: make 8,841,823 vectors distributed like given ones, build an index of them in
# bounded memory, and measure 1,000 queries against exact answers.
#
#     benches/msmarco/synthetic.sh --like docs.npy --output DIR [--rows N] [--queries N] [--dense i8|f16|f32]
#         [--lists N] [--code-bytes N] [--memory-limit SIZE] [--nprobe LIST] [--candidates LIST] [--bin DIR]
#
# DIR gets vectors.npy (f16), queries.npy, likeness.json, index/ and the measurements, results.json and results.html. What
# is there already is kept and used again, so a stopped run goes on where it was; use another DIR for other settings.
# Needs the programs (cargo build --release --workspace) and, for all rows of 384 dimensions, about 20 GB of disk.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

like="" output="" rows=8841823 queries=1000 dense=i8 lists=auto code_bytes=32 memory_limit=4GiB
nprobe=16,32,64,128 candidates=100,200,400,1000 bin="${CARGO_TARGET_DIR:-$root/target}/release"
while [ $# -gt 0 ]; do
    case "$1" in
        --like | --output | --rows | --queries | --dense | --lists | --code-bytes | --memory-limit | --nprobe | --candidates | --bin)
            [ $# -ge 2 ] || { echo "synthetic.sh: $1 needs a value" >&2; exit 2; }
            name="${1#--}"
            printf -v "${name//-/_}" '%s' "$2"
            shift 2
            ;;
        *) echo "synthetic.sh: $1 is not an option; see the head of this file" >&2; exit 2 ;;
    esac
done
[ -n "$like" ] && [ -n "$output" ] || { echo "synthetic.sh: give --like FILE and --output DIR" >&2; exit 2; }
[ -x "$bin/build-index" ] || { echo "synthetic.sh: no programs in $bin; build them or give --bin" >&2; exit 1; }

step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }
mkdir -p "$output"

step "make $rows vectors and $queries queries"
# The report comes last, so where it is, the vectors are complete.
if [ ! -s "$output/likeness.json" ]; then
    "$bin/make-vectors" --like "$like" --rows "$rows" --element f16 --output "$output/vectors.npy" \
        --queries "$queries" --queries-output "$output/queries.npy" --compare --json >"$output/likeness.tmp"
    mv "$output/likeness.tmp" "$output/likeness.json"
fi
cat "$output/likeness.json"

step "build under $memory_limit"
build=(--input "$output/vectors.npy" --output "$output/index" --dense "$dense" --lists "$lists" --code-bytes "$code_bytes"
    --memory-limit "$memory_limit")
"$bin/build-index" "${build[@]}" --dry-run
if [ ! -s "$output/index/manifest.json" ]; then
    "$bin/build-index" "${build[@]}"
fi

step "measure against exact answers over the stored vectors"
"$bin/measure-recall" --index "$output/index" --queries "$output/queries.npy" --exact -k 10,100 \
    --nprobe "$nprobe" --candidates "$candidates" --out "$output/results.json" --html "$output/results.html"
step "done: $output/results.json"
