#!/usr/bin/env bash
# Measure bigrain and all peers on all data sets, in turn, and write tables and plots.
#
#     benches/peers/setup.sh && python3 benches/fetch_datasets.py && cargo build --release --workspace
#     benches/peers/compare.sh data results [target/release]
#
# data: the folder that fetch_datasets.py filled. Indexes that are not there yet are built first and kept in
# data/DATASET/indexes (several times longer than measuring takes; `run.py DATASET --build-only` does it ahead); remove
# data/DATASET/indexes/bigrain-* to have bigrain's made again by newer programs. In results: a file of records a data set,
# table.md, frontier.html, and the plots as SVG. QUERIES (default 1000), TURNS (default 2) and RUN_FLAGS (more flags
# of run.py, as `--engine hnswlib`) change what is measured.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ $# -ge 2 ] || { echo "usage: $0 DATA RESULTS [PROGRAMS]" >&2; exit 2; }
data="$1" results="$2" programs="${3:-$here/../../target/release}"
queries="${QUERIES:-1000}" turns="${TURNS:-2}"
read -r -a flags <<< "${RUN_FLAGS:-}"
[ -x "$programs/measure-recall" ] || { echo "no $programs/measure-recall: cargo build --release --workspace" >&2; exit 1; }
mkdir -p "$results"

# The indexes of bigrain, unless they are there: one for each type of the dense records.
elements=(f16 i8)
build() { # DATASET FLAGS...
    local folder element
    for element in "${elements[@]}"; do
        folder="$data/$1/indexes/bigrain-$element"
        [ -e "$folder" ] || "$programs/build-index" --input "$data/$1/base.npy" --output "$folder" --dense "$element" "${@:2}"
    done
}

compare() { # DATASET GRID
    local folder="$data/$1" commands=() element
    for element in "${elements[@]}"; do
        commands+=(--command "'$programs/measure-recall' --index '$folder/indexes/bigrain-$element' \
            --queries '$folder/queries.npy' --truth '$folder/truth.npy' --limit $queries -k 10 --threads 1 --seconds 0.2 --json $2")
    done
    "$here/.venv/bin/python" "$here/run.py" "$folder" --out "$results/$1.jsonl" --queries "$queries" \
        --repetitions "$turns" "${flags[@]}" "${commands[@]}"
}

measured=()
if [ -d "$data/fashion-mnist" ]; then
    build fashion-mnist --metric l2 --lists 512 --code-bits 4 --code-bytes 100 --opq off
    compare fashion-mnist "--nprobe 4,5,6,8,12,16,24 --candidates 30,40,50,70,90,120"
    measured+=("$results/fashion-mnist.jsonl")
fi
if [ -d "$data/glove-100" ]; then
    build glove-100 --metric cosine --lists 1024 --code-bits 8 --code-bytes 24
    compare glove-100 "--nprobe 20,24,32,40,48,64,96,192,256 --candidates 40,60,80,120,240"
    measured+=("$results/glove-100.jsonl")
fi
[ ${#measured[@]} -gt 0 ] || { echo "$data holds neither fashion-mnist nor glove-100; fetch_datasets.py makes them" >&2; exit 1; }
"$here/.venv/bin/python" "$here/frontier.py" "${measured[@]}" \
    --markdown "$results/table.md" --html "$results/frontier.html" --svg "$results"
echo "written: $results/table.md, $results/frontier.html, $results/*.svg"
