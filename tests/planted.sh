#!/usr/bin/env bash
# Do the tests notice when the code is wrong?
#
# Plants every bug of tests/planted/ in a copy of the tree, one at a time, and runs the test that is
# meant to catch it (the `# run:` line of the patch) for at most five minutes. Fails if a bug goes
# unnoticed, a patch no longer applies or does not compile, or a test fails without any bug, so that
# it proves nothing.
#
#   tests/planted.sh            all of them: half an hour
#   tests/planted.sh retried    those with this in their name
#   tests/planted.sh --check    only whether all of them can be planted
#
# All builds are in `planted` below CARGO_TARGET_DIR, or target: not beside builds of the tree itself, which cargo
# takes for the same package, and which it would not build again. KEYWAL_TREE: another tree.
set -uo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
tree=${KEYWAL_TREE:-$repository}
builds=${CARGO_TARGET_DIR:-$repository/target}/planted
# A bug changes little.
export CARGO_PROFILE_RELEASE_INCREMENTAL=true CARGO_PROFILE_RELEASE_DEBUG=0
unset KEYWAL_SEED KEYWAL_CRASH_OPS KEYWAL_FAULT
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
log=$copy/log
failed=0

fresh() {
    rm -rf "${copy:?}/tree"
    mkdir "$copy/tree"
    cp -LR "$tree"/{Cargo.toml,Cargo.lock,README.md,src,tests,benches,examples} "$copy/tree/"
}

# Builds and runs the tests that $1 names, which is [NAME=VALUE] TARGET.. [FILTER]. 0: they pass, 1:
# they fail, 2: they do not compile, or there are none, 3: they take more than $2 seconds.
run() {
    local flags='' settings=() words=() word
    for word in $1; do
        if [[ $word == *=* ]]; then settings+=("$word"); else words+=("$word"); fi
        [[ $word == RUSTFLAGS=* ]] && flags=${word#*=--cfg=}
    done
    # All dependencies are built again where the flags are others.
    settings+=("CARGO_TARGET_DIR=$builds/$flags")
    local target=("${words[@]:0:2}")
    [[ ${target[0]} == --lib ]] && target=(--lib)
    (cd "$copy/tree" && env "${settings[@]}" cargo test --release --quiet --no-run "${target[@]}") \
        >"$log" 2>&1 || return 2
    (cd "$copy/tree" && timeout "$2" env "${settings[@]}" cargo test --release --quiet "${words[@]}") \
        >"$log" 2>&1 || return $(($? == 124 ? 3 : 1))
    # A filter that names no test catches nothing.
    grep -q '^running [1-9]' "$log" || return 2
}

if [[ ${1:-} == --check ]]; then
    fresh
    for patch in "$repository"/tests/planted/*.patch; do
        if ! patch -d "$copy/tree" -p1 -s -F3 --dry-run <"$patch"; then
            echo "DOES NOT APPLY: $patch"
            failed=1
        fi
    done
    exit $failed
fi

patches=("$repository"/tests/planted/*"${1:-}"*.patch)
mapfile -t runs < <(sed -n 's/^# run: //p' "${patches[@]}" | sort -u)

fresh
declare -A red
for words in "${runs[@]}"; do
    if ! run "$words" 1800; then
        echo "FAILS WITHOUT A BUG: cargo test --release $words"
        tail -n 20 "$log"
        red[$words]=1 failed=1
    fi
done

for patch in "${patches[@]}"; do
    name=$(basename "$patch" .patch)
    words=$(sed -n 's/^# run: //p' "$patch")
    fresh
    started=$SECONDS
    if ! patch -d "$copy/tree" -p1 -s -F3 <"$patch" >"$log" 2>&1; then
        verdict="DOES NOT APPLY"
        failed=1
    else
        run "$words" 300
        case $? in
        0) verdict=MISSED failed=1 ;;
        1) verdict=${red[$words]:+"NO PROOF"} verdict=${verdict:-caught} ;;
        3) verdict="TOO SLOW" failed=1 ;;
        *) verdict="DOES NOT COMPILE" failed=1 ;;
        esac
    fi
    printf '%-36s %-16s %4d s  %s\n' "$name" "$verdict" $((SECONDS - started)) "$words"
    [[ $verdict == caught ]] || tail -n 20 "$log"
done
exit $failed
