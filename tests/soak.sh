#!/usr/bin/env bash
# The long runs: each prints its progress and ends with a line `figures run=.. commit=.. lost=..`.
#
#   tests/soak.sh             what there is
#   tests/soak.sh NAME..      runs these, one after the other; stops at the first that fails
#
# Settings of a run, such as KEYWAL_SEED, are taken from the environment if they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

# Each run: a function, and a line here that says what it does and how long it takes on two cores.
runs=(
    "model          100,000 random cases and one of 1,000,000 operations, against a map of vectors: 2 minutes"
    "large          segments of 4 GiB: 1 minute"
    "crash          every crash of every sequence of up to 5 operations: 20 minutes"
    "crash-core     the same of the operations that every log has, and retention: half a minute"
    "crash-tight    every crash of up to 4 operations on colliding keys under tight limits: 10 minutes"
    "crash-long     crashes of long random sequences, until there were 100,000,000: half an hour"
    "crash-lazy     the same where each key is checked when it is first used: 5 minutes"
    "crash-journal  every crash of up to 3 operations with a small journal, and long random sequences: 8 minutes"
    "faults         every call fails in every way, then the power: 15 minutes"
    "faults-journal the same with a small journal: an hour"
    "bitrot         every bit of two directories flipped, and other damage: 5 minutes"
    "kills          10,000 times kill -9, in memory unless TMPDIR says where: 2 minutes"
    "races          1,000 rounds of openers, forks, moved directories, planted files: 6 minutes"
    "full-disk      a tmpfs and an ext4 filled 1,000 times, as root: 8 minutes"
    "powercut-ext4  10,000 power cuts on a real ext4, as root: 2 minutes"
    "powercut-xfs   500 power cuts on a real XFS, as root: 1 minute"
    "powercut-eio   200 disks of each that fail writes, as root: 1 minute"
    "schedules      every schedule of the sync gate, 1,000,000 of a whole log: 12 minutes"
    "tsan           ten minutes of stress under ThreadSanitizer; needs nightly and its rust-src"
    "miri           what Miri can run of the tests; needs nightly: 10 minutes"
    "fuzz           each of four fuzzers for KEYWAL_FUZZ_SECONDS; needs nightly: 2 hours"
    "planted        planted bugs, each of which has to be caught: half an hour"
    "mutants        every small change of the modules that recover, sync and drop has to be caught: a day"
    "coverage       lines and regions that the tests reach; needs nightly: 10 minutes"
)

# The tests of a file that one word names, if one is given; --skip takes them out.
test_run() {
    local file=$1
    shift
    cargo test --release --quiet --test "$file" -- --nocapture "$@"
}

model() { KEYWAL_CASES=${KEYWAL_CASES:-100000} KEYWAL_OPS=${KEYWAL_OPS:-1000000} test_run model; }
large() { test_run large; }

crash() {
    KEYWAL_CRASH_THOROUGH=${KEYWAL_CRASH_THOROUGH:-8} KEYWAL_CRASH_LEN=${KEYWAL_CRASH_LEN:-5} \
        test_run crash every_crash_of_every_short
}
# The test goes one further than KEYWAL_CRASH_LEN, as there are fewer operations.
crash-core() {
    KEYWAL_CRASH_THOROUGH=${KEYWAL_CRASH_THOROUGH:-8} KEYWAL_CRASH_LEN=${KEYWAL_CRASH_LEN:-4} \
        test_run crash core_operations
}
# The test goes one less far, as no sequence is another one's mirror image.
crash-tight() {
    KEYWAL_CRASH_THOROUGH=${KEYWAL_CRASH_THOROUGH:-8} KEYWAL_CRASH_LEN=${KEYWAL_CRASH_LEN:-5} \
        test_run crash every_crash_with_colliding
}
# Half of them under tight limits.
crash-long() {
    KEYWAL_CRASH_THOROUGH=${KEYWAL_CRASH_THOROUGH:-8} \
        KEYWAL_CRASH_STATES=${KEYWAL_CRASH_STATES:-50000000} test_run crash long_random \
        --skip journal --skip checked_when
}
crash-lazy() {
    KEYWAL_CRASH_LEN=${KEYWAL_CRASH_LEN:-4} KEYWAL_CRASH_STATES=${KEYWAL_CRASH_STATES:-2000000} \
        test_run crash checked_when
}
crash-journal() {
    KEYWAL_CRASH_THOROUGH=${KEYWAL_CRASH_THOROUGH:-8} KEYWAL_CRASH_LEN=${KEYWAL_CRASH_LEN:-3} \
        KEYWAL_CRASH_STATES=${KEYWAL_CRASH_STATES:-5000000} test_run crash journal
}
faults() { KEYWAL_FAULT_LEN=${KEYWAL_FAULT_LEN:-2} test_run faults --skip with_a_journal; }
faults-journal() { KEYWAL_FAULT_LEN=${KEYWAL_FAULT_LEN:-2} test_run faults with_a_journal; }
bitrot() { KEYWAL_FLIPS=all test_run bitrot; }

kills() { TMPDIR=${TMPDIR:-/dev/shm} KEYWAL_KILLS=${KEYWAL_KILLS:-10000} test_run kills; }
races() {
    export KEYWAL_ROUNDS=${KEYWAL_ROUNDS:-1000}
    test_run races
    test_run processes
    test_run concurrency race_to_create
}
full-disk() { KEYWAL_CYCLES=${KEYWAL_CYCLES:-1000} test_run full_disk; }
powercut() {
    cargo run --release --quiet --manifest-path tests/powercut/Cargo.toml \
        --target-dir "${CARGO_TARGET_DIR:-target}/powercut" -- "$1"
}
powercut-ext4() { powercut ext4; }
powercut-xfs() { powercut xfs; }
powercut-eio() { powercut eio; }

schedules() {
    RUSTFLAGS="--cfg keywal_loom" test_run schedules
    KEYWAL_SCHEDULES=${KEYWAL_SCHEDULES:-1000000} RUSTFLAGS="--cfg keywal_shuttle" test_run schedules
}
tsan() {
    local folder reports
    folder=$(mktemp -d)
    TSAN_OPTIONS="exitcode=0 log_path=$folder/report" RUSTFLAGS="-Zsanitizer=thread" \
        KEYWAL_SECONDS=${KEYWAL_SECONDS:-600} cargo +nightly test -Zbuild-std \
        --target "$(rustc -vV | sed -n 's/^host: //p')" --release --quiet --test concurrency stress -- --nocapture |
        tee "$folder/output"
    # Where the sanitizer cannot even begin, it ends with that code, too.
    grep -q "^figures run=stress" "$folder/output"
    reports=$(find "$folder" -name 'report.*' -exec cat {} + | grep -c "WARNING: ThreadSanitizer" || true)
    sed -n "s/^figures run=stress \(.*\)/figures run=tsan \1 reports=$reports/p" "$folder/output"
    if ((reports > 0)); then
        cat "$folder"/report.*
        return 1
    fi
    rm -r "$folder"
}
# Miri takes a thousand times as long, and has no real files: parsers, the sync gate, retention, the easier
# tests of the simulated file system, and a log on that, from its opening to its last read.
miri() {
    export MIRIFLAGS=-Zmiri-disable-isolation
    cargo +nightly miri test --lib -- \
        --skip any_one_bad_sector --skip garbling --skip samples_can --skip removed_name --skip wherever_it_starts \
        --skip read_for_long
    cargo +nightly miri test --test found -- --exact \
        a_batch_that_was_refused_never_comes_back a_key_is_found_again_whatever_the_compiler
}

fuzz() { tests/fuzz.sh; }
planted() { tests/planted.sh; }
# First the tests that are done in seconds, and the whole suite for what they let through. KEYWAL_MUTANTS: globs
# of other files.
mutants() {
    command -v cargo-mutants >/dev/null || cargo install --locked cargo-mutants
    local files=${KEYWAL_MUTANTS:-src/format.rs src/format/*.rs src/scan.rs src/recovery.rs src/recovery/*.rs
        src/ring.rs src/ring/*.rs src/store/*.rs src/segment/*.rs src/sync.rs src/retention.rs}
    local modules=() file
    for file in $files; do modules+=(-f "$file"); done
    KEYWAL_CRASH_LEN=1 KEYWAL_CRASH_STATES=300 cargo mutants --profile mutants "${modules[@]}" \
        --timeout 100 -o target/mutants-quick -- --lib --test found --test format --test crash --test bad_days \
        --test journal --test room --test undo --test carried ||
        true
    cp target/mutants-quick/mutants.out/missed.txt target/mutants-missed
    local missed=()
    while IFS= read -r mutant; do
        missed+=(-F "$(sed 's/[][(){}.*+?^$|\\]/\\&/g; s/^[^:]*:[0-9]*:[0-9]*: //' <<<"$mutant")")
    done <target/mutants-missed
    cargo mutants --profile mutants "${modules[@]}" "${missed[@]}" --timeout 300 -o target/mutants-whole
}
coverage() {
    command -v cargo-llvm-cov >/dev/null || cargo install --locked cargo-llvm-cov
    cargo +nightly llvm-cov --branch --ignore-filename-regex 'tests/|fs/sim'
}

if [[ $# == 0 ]]; then
    printf '%s\n' "${runs[@]}"
fi
for name in "$@"; do
    # No pipe: it would fail if grep ends before all has been said.
    if ! grep -q "^$name " < <(printf '%s\n' "${runs[@]}"); then
        echo "no run is called $name; there are:" >&2
        printf '%s\n' "${runs[@]}" >&2
        exit 2
    fi
    "$name"
done
