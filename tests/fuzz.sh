#!/usr/bin/env bash
# Fuzzes the four targets, one after the other, for KEYWAL_FUZZ_SECONDS each (1800 if not given), or
# those that are named. New inputs go to fuzz/inputs/<target>, failures to fuzz/artifacts/<target>, and
# all that a target which stopped had to say to fuzz/logs/<target>.<time>.
# `tests/fuzz.sh --keep [TARGET..]` then minimises both corpora into fuzz/corpus/<target>.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz

seconds=${KEYWAL_FUZZ_SECONDS:-1800}
# AddressSanitizer would keep 256 MiB of freed memory.
export ASAN_OPTIONS=quarantine_size_mb=8

# Where there is a shared target directory, this is used.
shared=(${CARGO_TARGET_DIR:+--target-dir "$CARGO_TARGET_DIR"})

count() { find "$1" -type f | wc -l; }

fuzz() {
    local target=$1 status=0 log
    mkdir -p fuzz/logs "fuzz/inputs/$target" "fuzz/artifacts/$target"
    log=fuzz/logs/$target.$(date +%Y%m%dT%H%M%S)
    cargo +nightly fuzz run "${shared[@]}" "$target" "fuzz/inputs/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=256 -max_len=262144 -print_final_stats=1 \
        >"$log" 2>&1 || status=$?
    if [[ $status != 0 ]]; then
        tail -n 60 "$log"
        echo "$target stopped with status $status; all it said: $log"
    fi
    number() { sed -n "s/^stat::$1: *//p" "$log"; }
    echo "figures run=fuzz-$target commit=$(git rev-parse --short HEAD)" \
        "executions=$(number number_of_executed_units) seconds=$seconds" \
        "inputs=$(count "fuzz/inputs/$target") peak_rss_mb=$(number peak_rss_mb)" \
        "slowest_s=$(number slowest_unit_time_sec) crashes=$(count "fuzz/artifacts/$target")"
    [[ $status != 0 ]] || rm "$log"
    return "$status"
}

# What is kept is small: the inputs that reach something no smaller one reaches.
keep() {
    local target=$1 kept=fuzz/corpus/$1
    mkdir -p "fuzz/inputs/$target"
    cp -- "$kept"/* "fuzz/inputs/$target"
    cargo +nightly fuzz cmin "${shared[@]}" "$target" "fuzz/inputs/$target" >/dev/null 2>&1
    rm -- "$kept"/*
    find "fuzz/inputs/$target" -type f -size -4k -exec cp -- {} "$kept" \;
    echo "$target: $(count "$kept") inputs, $(du -bs "$kept" | cut -f 1) bytes"
}

do=fuzz
if [[ ${1:-} == --keep ]]; then
    do=keep
    shift
fi
[[ $# != 0 ]] || set -- format directory operations references
for target in "$@"; do
    "$do" "$target"
done
