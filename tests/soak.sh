#!/usr/bin/env bash
# The long runs: each prints its progress and ends with a line `figures run=.. commit=.. lost=..`.
#
#   tests/soak.sh             what there is
#   tests/soak.sh NAME..      runs these, one after the other; stops at the first that fails
#
# Settings of a run, such as KEYWAL_SEED, are taken from the environment if they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

test_run() { cargo test --release --quiet --test "$@" -- --nocapture; }

# Each run: a function, and a line here that says what it does and how long it takes on two cores.
runs=(
    "model     100,000 random cases against a map of vectors: 1 minute"
    "crash     every crash of every sequence of up to 4 operations: some minutes"
    "faults    every call fails in every way: 1 minute"
    "bitrot    every bit of a sample directory flipped: 1 minute"
    "kills     10,000 times kill -9: some minutes"
    "planted   planted bugs, each of which has to be caught: some minutes"
)
model() { KEYWAL_CASES=${KEYWAL_CASES:-100000} test_run model; }
crash() { KEYWAL_CRASH_LEN=${KEYWAL_CRASH_LEN:-4} test_run crash; }
faults() { test_run faults; }
bitrot() { KEYWAL_FLIPS=all test_run bitrot; }
kills() { KEYWAL_KILLS=${KEYWAL_KILLS:-10000} test_run processes; }
planted() { tests/planted.sh; }

if [[ $# == 0 ]]; then
    printf '%s\n' "${runs[@]}"
fi
for name in "$@"; do
    if ! printf '%s\n' "${runs[@]}" | grep -q "^$name "; then
        echo "no run is called $name; there are:" >&2
        printf '%s\n' "${runs[@]}" >&2
        exit 2
    fi
    "$name"
done
