#!/usr/bin/env python3
"""Lists and verifies a keywal directory. Written from the specification alone, the module doc of
`src/format.rs`; "section" means a section of it.

    verify.py DIR [--entries]

Prints a line per key, with `--entries` a line of JSON per entry, `note:` lines for what a crash may
leave, and `damage: FILE: offset N: ...` lines. Exits 0 if there is no damage, else 1."""

import json
import os
import re
import struct
import sys
from types import SimpleNamespace
from zlib import crc32

NAME = re.compile(r"((?!\.)[a-z0-9_.]{1,32})-([0-9a-f]{16})-([0-9]{4,10})\.log")
SIGNATURE = bytes.fromhex("F74B57E5")
CONTINUES, HEADER, MARK, SEAL = 1, 2, 4, 8
MASK = 2**64 - 1
findings = []


def find(kind, name, offset, text):
    findings.append(f"{kind}: {name}: offset {offset}: {text}")


def fields(data, at, layout, names):
    return SimpleNamespace(**dict(zip(names.split(), struct.unpack_from(layout, data, at))))


def fnv1a(key):
    value = 0xCBF29CE484222325
    for byte in key:
        value = (value ^ byte) * 0x100000001B3 & MASK
    return value


def mix(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def label(key):
    text = re.sub(r"[^a-z0-9_.]", "_", key[:32].lower().decode("latin-1"))
    return re.sub(r"^\.", "_", text) or "_"


def read_meta(data):
    """Section 5: the valid slot with the higher generation, or None."""
    slots = []
    for at in (0, 4096):
        slot = data[at:at + 128]
        if len(slot) < 128 or slot[:8] != b"KEYWMETA" or crc32(slot[:124]) != struct.unpack("<I", slot[124:])[0]:
            find("note", "META", at, "the slot is not valid")
            continue
        m = fields(slot, 8, "<HHIQQQQQQQI", "version flags floor generation directory_id dropped_through interrupted "
                   "files digest journal_bytes epoch")
        if m.version != 1 or m.flags > 7 or any(slot[76:124]):
            sys.exit("META is of a newer version of the format")
        slots.append(m)
    best = max(slots, key=lambda m: m.generation, default=None)
    if best and best.flags & 4:
        sys.exit("the directory is a copy that is not finished")
    if best:
        best.clean = best.flags & 1 and len(slots) == 2
    return best


def header_at(data, at):
    """Section 2: the valid header at `at`, or None. Of one of a newer version only `newer` counts."""
    if data[at:at + 6] != b"KEYWAL" or len(data) < at + 132:
        return None
    h = fields(data, at, "<6xHIIQQQIIIIQQQQQQQQII", "version flags header_bytes nonce directory_id key_hash sequence "
               "previous_sequence previous_end zero base_index created_ms expiration_ms max_age_ms max_entries max_bytes "
               "min_entries zeros metadata_bytes key_bytes")
    end = at + h.header_bytes
    if not 132 <= h.header_bytes <= min(131_202, len(data) - at):
        return None
    if crc32(data[at:end - 4]) != struct.unpack_from("<I", data, end - 4)[0]:
        return None
    h.removed, h.limited = h.flags & 1, h.flags & 2
    limits = [h.max_age_ms, h.max_entries, h.max_bytes]
    h.newer = h.version != 1 or h.flags > 3 or h.zero or h.zeros or not h.limited and any(limits + [h.min_entries])
    if not h.newer and (h.header_bytes != 132 + h.metadata_bytes + h.key_bytes or h.limited and not all(limits)):
        return None
    h.key, h.metadata = data[end - 4 - h.key_bytes:end - 4], data[at + 128:end - 4 - h.key_bytes]
    h.copy_at = -(-h.header_bytes // 512) * 512
    return h


def read_segment(directory, name, key_hash, sequence):
    """Section 2: the segment in a file; `header` is None where a crash cut its creation off."""
    with open(os.path.join(directory, name), "rb") as file:
        s = SimpleNamespace(name=name, key_hash=key_hash, sequence=sequence, data=file.read(), entries=[])
    places = [0] + list(range(512, 131_585, 512))
    valid = ((at, header_at(s.data, at)) for at in places)
    valid = [(at, h) for at, h in valid if h and (h.newer or at in (0, h.copy_at))] or [(0, None)]
    ours = (pair for pair in valid if pair[1] and (pair[1].key_hash, pair[1].sequence) == (key_hash, sequence))
    at, s.header = next(ours, valid[0])
    if s.header and not s.header.newer:
        length, copy_at = s.header.header_bytes, s.header.copy_at
        s.frames_start = copy_at + length
        if len(s.data) < s.frames_start:
            s.header = None
        elif s.data[:length] != s.data[copy_at:s.frames_start] or any(s.data[length:copy_at]):
            find("note", name, 0 if at else length, "only one of the header and its copy is intact")
    return s


def frame_header(s, at, end):
    """Section 3: the header of the frame at `at`, or None."""
    if at + 32 > end or s.data[at:at + 4] != SIGNATURE:
        return None
    f = fields(s.data, at + 4, "<HHIIIIII", "flags header_bytes content_bytes index timestamp watermark payload_sum header_sum")
    f.at, f.seed = at, (s.header.nonce ^ s.header.nonce >> 32 ^ at) & 0xFFFFFFFF
    f.content = at + 32 + f.header_bytes
    f.end = f.content + f.content_bytes
    legal = f.flags in (0, 1, 2, 3, MARK, MARK | SEAL) and (f.flags & HEADER or f.header_bytes == 0)
    legal = legal and not (f.flags & MARK and f.content_bytes)
    return f if legal and crc32(s.data[at:at + 28], f.seed) == f.header_sum else None


def walk(s, end, is_last, clean):
    """Section 4: collects the entries of a segment. Returns whether all of them are there."""
    at, limit, sound, last, batch = s.frames_start, min(end, len(s.data)), end <= len(s.data), None, None
    if not sound:
        find("damage", s.name, limit, f"the file is cut off: its successor says that it goes on to {end}")
    while at < limit:
        f = frame_header(s, at, limit)
        marked = last is not None and last.flags & MARK
        if f is None or f.end > limit or crc32(s.data[at + 32:f.end], f.seed) != f.payload_sum or marked:
            starts = (match.start() for match in re.finditer(re.escape(SIGNATURE), s.data[:limit]))
            behind = [f for f in (frame_header(s, start, limit) for start in starts if start > at) if f]
            if is_last and (marked or not clean) and not any(f.watermark > at for f in behind):
                find("note", s.name, at, "a torn tail") if any(s.data[at:]) else None
                break
            resume = behind[0].at if behind else limit
            find("damage", s.name, at, f"no valid frame up to {resume}")
            at, sound, last, batch = resume, False, None, None
            continue
        count = s.entries[-1].index + 1 if s.entries else 0
        timestamp = s.entries[-1].timestamp if s.entries else 0
        if f.index < count or f.index > count and sound or f.watermark > at:
            find("damage", s.name, at, f"index {f.index} or watermark {f.watermark} is not possible here")
        if f.timestamp < timestamp or f.flags & MARK and f.timestamp != timestamp and sound:
            find("damage", s.name, at, f"timestamp {f.timestamp} behind {timestamp}")
        if not f.flags & MARK:
            if s.header.created_ms + f.timestamp >= s.header.expiration_ms:
                find("damage", s.name, at, "the entry is younger than its segment allows")
            s.entries.append(f)
        batch = (len(s.entries) - 1 if batch is None else batch) if f.flags & CONTINUES else None
        at, last = f.end, f
    if batch is not None and is_last and not clean:
        find("note", s.name, s.entries[batch].at, "a torn batch")
        del s.entries[batch:]
    elif batch is not None or is_last and clean and not (last and last.flags & MARK):
        find("damage", s.name, at, "the segment ends inside a batch, or without the mark of a closed directory")
    return sound


def link(segments, meta):
    """Section 6: the segments of one stream that count, oldest first."""
    chain = []
    while segments and segments[-1].header is None:
        s = segments.pop()
        known = meta.interrupted >> mix(fnv1a(s.name.encode())) % 64 & 1
        kind = "damage" if meta.clean and not known else "note"
        find(kind, s.name, 0, "no whole header: an interrupted creation")
    removed = [at for at, s in enumerate(segments) if s.header and s.header.removed]
    older = segments[removed[-1] + 1:] if removed else segments
    limited = older and older[-1].header.limited
    while older:
        s = older.pop()
        wanted = chain[0].header.previous_sequence if chain else s.sequence
        if wanted == 0:
            break  # left over from before the key was removed
        if s.sequence > wanted and s.header is None:
            continue  # an interrupted creation, later passed over
        if s.sequence != wanted:
            if not any(o.header for o in older + [s]):
                break  # interrupted creations before the first segment
            if not limited and all(o.header and o.header.expiration_ms <= meta.dropped_through for o in older + [s]):
                break  # left over from an interrupted run of retention
            find("damage", chain[0].name, 44, f"the segment before this one, {wanted}, is missing")
        if s.header is None:
            find("damage", s.name, 0, "no valid header")
            while older and older[-1].header is None:
                older.pop()
            continue
        chain.insert(0, s)
    return chain


def verify_stream(chain, meta):
    """Sections 2 to 4 for the segments of one key."""
    next_index, newest = None, 0
    for s, after in zip(chain, chain[1:] + [None]):
        h, followed = s.header, after and after.header.previous_sequence == s.sequence
        sound = walk(s, after.header.previous_end if followed else len(s.data), not followed, meta.clean and not after)
        if h.key != chain[0].header.key:
            find("damage", s.name, 124, "another key than in the segment before")
        if h.metadata != chain[0].header.metadata:
            find("damage", s.name, 120, "other metadata than in the segment before")
        if h.previous_sequence >= s.sequence or h.previous_sequence == 0 and (h.previous_end or h.base_index):
            find("damage", s.name, 44, "previous_sequence, previous_end and base_index contradict each other")
        if next_index not in (None, h.base_index):
            find("damage", s.name, 56, f"base_index is {h.base_index}, but the segment before ends at {next_index}")
        if s.entries and h.created_ms + s.entries[0].timestamp < newest:
            find("damage", s.name, s.entries[0].at, "older than the entry before")
        next_index = h.base_index + len(s.entries) if sound and followed else None
        newest = h.created_ms + s.entries[-1].timestamp if s.entries else newest


def print_stream(chain, with_entries):
    key, count = chain[0].header.key, sum(len(s.entries) for s in chain)
    text = repr(key)[2:-1]
    print(f"'{text}': segments {[s.sequence for s in chain]}, base {chain[0].header.base_index}, entries {count}")
    newest = chain[-1].header
    if newest.limited or newest.metadata:
        limits = [newest.max_age_ms, newest.max_entries, newest.max_bytes, newest.min_entries] if newest.limited else None
        print(f"own: '{text}': limits {limits}, metadata {newest.metadata.hex()}")
    for s, f in ((s, f) for s in chain for f in s.entries if with_entries):
        header = s.data[f.at + 32:f.content].hex() if f.flags & HEADER else None
        print(json.dumps({"key": key.hex(), "index": s.header.base_index + f.index,
                          "timestamp_ms": s.header.created_ms + f.timestamp, "header": header,
                          "content": s.data[f.content:f.end].hex(), "sequence": s.sequence, "offset": f.at}))


def main(directory, with_entries):
    names = [match for match in map(NAME.fullmatch, sorted(os.listdir(directory))) if match]
    names = [(m[0], m[1], int(m[2], 16), int(m[3])) for m in names
             if 1 <= int(m[3]) < 2**32 - 1 and m[3] == f"{int(m[3]):04}"]
    path = os.path.join(directory, "META")
    meta = read_meta(open(path, "rb").read() if os.path.exists(path) else b"")
    if meta is None:
        if names:
            find("damage", "META", 0, "no valid slot")
        meta = SimpleNamespace(clean=False, interrupted=0, dropped_through=0, directory_id=None, journal_bytes=0)
    digest = sum(mix(key_hash ^ mix(sequence)) for _, _, key_hash, sequence in names) & MASK
    if meta.clean and (meta.files, meta.digest) != (len(names), digest):
        find("damage", "META", 48, "segment files were added or removed after the directory was closed")
        meta.clean = False
    if not meta.clean and meta.journal_bytes:
        find("note", "JOURNAL", 0, "has to be replayed first: what only the journal has is not shown")
    streams = {}
    for name, its_label, key_hash, sequence in names:
        s = read_segment(directory, name, key_hash, sequence)
        if s.header and s.header.newer:
            find("note", name, 0, "a newer version of the format")
        elif s.header and label(s.header.key) != its_label and len({n[1] for n in names if n[2] == key_hash}) > 1:
            find("note", name, 0, "ignored: the label does not belong to the key")
        elif s.header and ((label(s.header.key), s.header.key_hash, s.header.sequence) != (its_label, key_hash, sequence)
                           or meta.directory_id not in (None, s.header.directory_id)):
            find("damage", name, 0, "the file belongs to another directory or name")
        else:
            streams.setdefault(key_hash, []).append(s)
    keys = set()
    for key_hash, segments in sorted(streams.items()):
        chain = link(sorted(segments, key=lambda s: s.sequence), meta)
        if not chain:
            continue
        verify_stream(chain, meta)
        key = chain[0].header.key
        distance = key_hash - fnv1a(key) & MASK
        if key in keys or distance > len(streams) or any(key_hash - n & MASK not in streams for n in range(1, distance + 1)):
            find("damage", chain[0].name, 32, "a free hash before this one, or the key has two")
        keys.add(key)
        print_stream(chain, with_entries)
    for line in findings:
        print(line)
    return int(any(line.startswith("damage") for line in findings))


if __name__ == "__main__":
    directories = [a for a in sys.argv[1:] if a != "--entries"]
    if len(directories) != 1 or not os.path.isdir(directories[0]):
        sys.exit(__doc__)
    sys.exit(main(directories[0], "--entries" in sys.argv))
